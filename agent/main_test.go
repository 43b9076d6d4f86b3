package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"chancery-agent": func() { os.Exit(execute()) }})
}

// TestScripts runs the command line against a coordinator and real chips. The
// scripts have these commands besides those of testscript:
//
//	coordinator            start one; sets URL, PIN, TOKEN, OTHER_PIN and OTHER_TOKEN, and writes the file token
//	chip NAME              make a software TPM and set NAME to its device
//	exits CODE PROGRAM...  run a program, which must end with this exit code
//	until PROGRAM...       repeat a program until it succeeds
//	hold                   let submissions wait for approval
//	refuse REASON          refuse submissions
//	honest                 take hold and refuse back
//	approve NAME           approve what waits
//	waits NAME             wait until something of the node waits for approval
//	revoke NAME            revoke a node
//	stop-coordinator       take the coordinator away
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"coordinator": func(ts *testscript.TestScript, _ bool, _ []string) {
				c := testcoordinator.New(t, testcoordinator.Options{})
				running[ts.Getenv("WORK")] = c
				ts.Defer(c.Stop)
				token := c.Token().Reveal()
				ts.Setenv("URL", c.URL)
				ts.Setenv("PIN", c.Fleet().Pin())
				ts.Setenv("TOKEN", token)
				ts.Setenv("OTHER_PIN", chancery.FleetID{1}.Pin())
				ts.Setenv("OTHER_TOKEN", chancery.NewToken(chancery.FleetID{1}).Reveal())
				ts.Check(os.WriteFile(ts.MkAbs("token"), []byte(token+"\n"), 0o600))
			},
			"chip": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], tpmtest.New(t).Device())
			},
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				code := 0
				err := ts.Exec(args[1], args[2:]...)
				if exit, ok := errors.AsType[*exec.ExitError](err); ok {
					code, err = exit.ExitCode(), nil
				}
				ts.Check(err)
				if want := args[0]; strconv.Itoa(code) != want {
					ts.Fatalf("exit code %d, want %s", code, want)
				}
			},
			"until": func(ts *testscript.TestScript, _ bool, args []string) {
				for range 100 {
					if ts.Exec(args[0], args[1:]...) == nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
				ts.Fatalf("not within ten seconds")
			},
			"hold": func(ts *testscript.TestScript, _ bool, _ []string) {
				coordinator(ts).Misbehave(testcoordinator.Faults{Hold: true})
			},
			"refuse": func(ts *testscript.TestScript, _ bool, args []string) {
				coordinator(ts).Misbehave(testcoordinator.Faults{Refuse: args[0]})
			},
			"honest": func(ts *testscript.TestScript, _ bool, _ []string) {
				coordinator(ts).Misbehave(testcoordinator.Faults{})
			},
			"approve": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(coordinator(ts).Approve(args[0]))
			},
			"waits": func(ts *testscript.TestScript, _ bool, args []string) {
				for range 100 {
					if coordinator(ts).Waiting(args[0]) > 0 {
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
				ts.Fatalf("nothing of %s waits within ten seconds", args[0])
			},
			"revoke": func(ts *testscript.TestScript, _ bool, args []string) {
				coordinator(ts).Revoke(args[0])
			},
			"stop-coordinator": func(ts *testscript.TestScript, _ bool, _ []string) { coordinator(ts).Stop() },
		},
	})
}

// running are the scripts' coordinators by their directories. Scripts run one
// after the other within a command, never at the same time.
var running = map[string]*testcoordinator.Coordinator{}

func coordinator(ts *testscript.TestScript) *testcoordinator.Coordinator {
	c := running[ts.Getenv("WORK")]
	if c == nil {
		ts.Fatalf("%v", fmt.Errorf("the script has not started a coordinator"))
	}
	return c
}
