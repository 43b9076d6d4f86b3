package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/scripttest"
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
		Cmds: scripttest.Commands(map[string]scripttest.Command{"coordinator": coordinate}),
	})
}

func coordinate(ts *testscript.TestScript, neg bool, args []string) {
	scripttest.Usage(ts, !neg && len(args) == 1, "coordinator RATE")
	ts.Check(ts.Exec("chancery", "init", "--simulator", "--url", ts.Getenv("URL"), "--listen", ts.Getenv("ADDR"), "--simulator-roots", "maker/makers.pem"))
	before, after, ok := strings.Cut(ts.ReadFile("data/chancery.toml"), "enroll_rate = 20.0\n")
	if !ok {
		ts.Fatalf("the configuration does not have the default enroll_rate")
	}
	ts.Check(os.WriteFile(ts.MkAbs("data/chancery.toml"), []byte(before+"enroll_rate = "+args[0]+".0\n"+after), 0o600))
	ts.Value("listener").(net.Listener).Close()
}
