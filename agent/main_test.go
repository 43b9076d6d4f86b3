package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"chancery-agent": func() { os.Exit(execute()) }, "program": programMain})
}

// TestScripts runs the command line against a coordinator and real chips. The
// scripts have these commands besides those of testscript:
//
//	coordinator            start one; sets URL, PIN, TOKEN, OTHER_PIN and OTHER_TOKEN, and writes the file token
//	chip NAME              make a software TPM and set NAME to its device, and NAME_TCTI to what tpm2-tools call it
//	exits CODE PROGRAM...  run a program, which must end with this exit code
//	until CODE PROGRAM...  repeat a program until it ends with this exit code
//	hold                   let submissions wait for approval
//	refuse REASON          refuse submissions
//	honest                 take hold and refuse back
//	approve NAME           approve what waits
//	asked N                wait until N verdicts have been asked for
//	revoke NAME            revoke a node
//	fork                   publish a list, and then another one of its number
//	terminate              send SIGTERM to the programs in the background
//	stop-coordinator       take the coordinator away
//	port NAME              set NAME to a TCP port that is free
//	place NAME             make a directory that all users reach, with the test's program in it
//	postgres NAME          start PostgreSQL and set NAME to the directory of its socket
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Condition: func(what string) (bool, error) {
			if what == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, errors.New("no such condition")
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"coordinator": func(ts *testscript.TestScript, _ bool, _ []string) {
				c := testcoordinator.New(t, testcoordinator.Options{})
				coordinators.Store(ts.Getenv("WORK"), c)
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
				chip := tpmtest.New(t)
				ts.Setenv(args[0], chip.Device())
				ts.Setenv(args[0]+"_TCTI", "swtpm:path="+chip.Socket())
			},
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				if code := exitCode(ts, args[1:]); strconv.Itoa(code) != args[0] {
					ts.Fatalf("exit code %d, want %s", code, args[0])
				}
			},
			"until": func(ts *testscript.TestScript, _ bool, args []string) {
				for range 100 {
					if strconv.Itoa(exitCode(ts, args[1:])) == args[0] {
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
				ts.Fatalf("no exit code %s within ten seconds", args[0])
			},
			"hold": func(ts *testscript.TestScript, _ bool, _ []string) {
				running(ts).Misbehave(testcoordinator.Faults{Hold: true})
			},
			"refuse": func(ts *testscript.TestScript, _ bool, args []string) {
				running(ts).Misbehave(testcoordinator.Faults{Refuse: args[0]})
			},
			"honest": func(ts *testscript.TestScript, _ bool, _ []string) {
				running(ts).Misbehave(testcoordinator.Faults{})
			},
			"approve": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(running(ts).Approve(args[0]))
			},
			"asked": func(ts *testscript.TestScript, _ bool, args []string) {
				for range 100 {
					if strconv.Itoa(running(ts).Calls("GET /v1/enroll/{intake}")) == args[0] {
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
				ts.Fatalf("not %s times within ten seconds", args[0])
			},
			"revoke": func(ts *testscript.TestScript, _ bool, args []string) {
				running(ts).Revoke(args[0])
			},
			"fork": func(ts *testscript.TestScript, _ bool, _ []string) { running(ts).Fork() },
			"terminate": func(ts *testscript.TestScript, _ bool, _ []string) {
				for _, c := range ts.BackgroundCmds() {
					ts.Check(c.Process.Signal(syscall.SIGTERM))
				}
			},
			"port": func(ts *testscript.TestScript, _ bool, args []string) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				ts.Check(err)
				_, port, _ := net.SplitHostPort(l.Addr().String())
				ts.Check(l.Close())
				ts.Setenv(args[0], port)
			},
			"place": func(ts *testscript.TestScript, _ bool, args []string) {
				dir, err := os.MkdirTemp("", "place-")
				ts.Check(err)
				ts.Defer(func() { os.RemoveAll(dir) })
				ts.Check(os.Chmod(dir, 0o755))
				self, err := os.Executable()
				ts.Check(err)
				b, err := os.ReadFile(self)
				ts.Check(err)
				ts.Check(os.WriteFile(filepath.Join(dir, "program"), b, 0o755))
				ts.Setenv(args[0], dir)
			},
			"postgres": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], startPostgres(ts))
			},
			"stop-coordinator": func(ts *testscript.TestScript, _ bool, _ []string) { running(ts).Stop() },
		},
	})
}

// coordinators are the scripts' coordinators by their directories; scripts run
// in parallel.
var coordinators sync.Map

func running(ts *testscript.TestScript) *testcoordinator.Coordinator {
	c, ok := coordinators.Load(ts.Getenv("WORK"))
	if !ok {
		ts.Fatalf("the script has not started a coordinator")
	}
	return c.(*testcoordinator.Coordinator)
}

// exitCode runs a program and returns its exit code.
func exitCode(ts *testscript.TestScript, command []string) int {
	err := ts.Exec(command[0], command[1:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	ts.Check(err)
	return 0
}
