package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"chancery-simulator": func() { os.Exit(execute()) }})
}

// TestScripts runs the command line against the coordinator's program, on a
// SoftHSM token. Each script has a data directory and an address of its own,
// chancery in PATH, and:
//
//	$ADDR $URL              where its coordinator is to listen, $URL is https://$ADDR
//	$OTHER                  the pin of another fleet
//	other-token             a file with a token of that
//	coordinator RATE        init with the maker in the directory maker; RATE is how many requests a second
//	                        one address may make, 0 for any number
//	exits CODE PROGRAM...   run a program, which must end with this exit code
//	until PROGRAM...        repeat a program until it succeeds
//	above PATH N PROGRAM... repeat a program until its JSON has a number above N there
//	[!] json PATH VALUE     look into the JSON on standard output: .name, .list.0, .list.length
//	keys PATH NAME...       the object there has these members and no others
func TestScripts(t *testing.T) {
	if _, err := softhsm.Locate(); err != nil {
		t.Fatalf("%v (make deps)", err)
	}
	programs := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(programs, "chancery"), "../../../appliance").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Defer(func() { l.Close() })
			// The port stays this script's until its coordinator takes it.
			env.Values["listener"] = l
			env.Setenv("ADDR", l.Addr().String())
			env.Setenv("URL", "https://"+l.Addr().String())
			env.Setenv("CHANCERY_DATA", filepath.Join(env.WorkDir, "data"))
			env.Setenv("PATH", env.Getenv("PATH")+string(filepath.ListSeparator)+programs)
			other := chancery.FleetID{1}
			env.Setenv("OTHER", other.Pin())
			return os.WriteFile(filepath.Join(env.WorkDir, "other-token"), []byte(chancery.NewToken(other).Reveal()+"\n"), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"coordinator": coordinate, "exits": exits, "until": until, "above": above, "json": jsonValue, "keys": jsonKeys,
		},
	})
}

func coordinate(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "coordinator RATE")
	ts.Check(ts.Exec("chancery", "init", "--simulator", "--url", ts.Getenv("URL"), "--listen", ts.Getenv("ADDR"), "--simulator-roots", "maker/makers.pem"))
	before, after, ok := strings.Cut(ts.ReadFile("data/chancery.toml"), "enroll_rate = 20.0\n")
	if !ok {
		ts.Fatalf("the configuration does not have the default enroll_rate")
	}
	ts.Check(os.WriteFile(ts.MkAbs("data/chancery.toml"), []byte(before+"enroll_rate = "+args[0]+".0\n"+after), 0o600))
	ts.Value("listener").(net.Listener).Close()
}

// usage ends a script that uses a command in a wrong way.
func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 1, "exits CODE PROGRAM...")
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code, err = exit.ExitCode(), nil
	}
	ts.Check(err)
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// patience is how long anything may take. It is not a measure: a machine that
// is busy is no failure.
const patience = 60 * time.Second

func until(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "until PROGRAM...")
	repeat(ts, func() bool { return ts.Exec(args[0], args[1:]...) == nil })
}

func above(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 2, "above PATH N PROGRAM...")
	floor, err := strconv.Atoi(args[1])
	ts.Check(err)
	repeat(ts, func() bool {
		ts.Check(ts.Exec(args[2], args[3:]...))
		n, err := strconv.Atoi(fmt.Sprint(lookUp(ts, args[0])))
		ts.Check(err)
		return n > floor
	})
}

func repeat(ts *testscript.TestScript, done func() bool) {
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("not within %s", patience)
		}
	}
}

// lookUp returns what is at a path in the JSON on standard output.
func lookUp(ts *testscript.TestScript, path string) any {
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	var v any
	ts.Check(d.Decode(&v))
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "."), ".") {
		switch in := v.(type) {
		case map[string]any:
			if name != "" {
				v = in[name]
			}
		case []any:
			if name == "length" {
				v = len(in)
			} else if i, err := strconv.Atoi(name); err == nil && i < len(in) {
				v = in[i]
			} else if name != "" {
				v = nil
			}
		default:
			return nil
		}
	}
	return v
}

func jsonValue(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 2, "json PATH VALUE")
	if got := fmt.Sprint(lookUp(ts, args[0])); (got == args[1]) == neg {
		ts.Fatalf("%s is %s, want %s", args[0], got, args[1])
	}
}

func jsonKeys(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 1, "keys PATH NAME...")
	object, _ := lookUp(ts, args[0]).(map[string]any)
	got, want := slices.Sorted(maps.Keys(object)), slices.Sorted(slices.Values(args[1:]))
	if !slices.Equal(got, want) {
		ts.Fatalf("members of %s are %v, want %v", args[0], got, want)
	}
}
