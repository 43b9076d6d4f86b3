// Package scripttest has the commands that test scripts of the project's
// programs have in common, beside those of testscript:
//
//	exits CODE PROGRAM...        the program ends with this exit code
//	until PROGRAM...             repeats it until it succeeds
//	above PATH N PROGRAM...      repeats it until its JSON has more than N at PATH
//	json PATH VALUE              the last JSON has this at PATH
//	keys PATH NAME...            the members of the object at PATH
//	let VAR PATH                 sets a variable to what is at PATH
//	mode PERM FILE               a file's permissions, in octal
package scripttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// A Command is one of a script's.
type Command = func(ts *testscript.TestScript, neg bool, args []string)

// Commands returns the commands, and those of one's own with them.
func Commands(own map[string]Command) map[string]Command {
	all := map[string]Command{"exits": exits, "until": until, "above": above, "json": jsonValue, "keys": jsonKeys, "let": let, "mode": mode}
	maps.Copy(all, own)
	return all
}

// Usage ends a script that uses a command in a wrong way.
func Usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	Usage(ts, !neg && len(args) > 1, "exits CODE PROGRAM...")
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

// Patience is how long anything may take. It is not a measure: a machine that
// is busy is no failure.
const Patience = 60 * time.Second

func until(ts *testscript.TestScript, neg bool, args []string) {
	Usage(ts, !neg && len(args) > 0, "until PROGRAM...")
	Repeat(ts, func() bool { return ts.Exec(args[0], args[1:]...) == nil })
}

func above(ts *testscript.TestScript, neg bool, args []string) {
	Usage(ts, !neg && len(args) > 2, "above PATH N PROGRAM...")
	floor, err := strconv.Atoi(args[1])
	ts.Check(err)
	Repeat(ts, func() bool {
		ts.Check(ts.Exec(args[2], args[3:]...))
		n, err := strconv.Atoi(fmt.Sprint(lookUp(ts, args[0])))
		ts.Check(err)
		return n > floor
	})
}

// Repeat does it again until it is done, as long as patience lasts.
func Repeat(ts *testscript.TestScript, done func() bool) {
	for deadline := time.Now().Add(Patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("not within %s", Patience)
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
	Usage(ts, len(args) == 2, "json PATH VALUE")
	if got := fmt.Sprint(lookUp(ts, args[0])); (got == args[1]) == neg {
		ts.Fatalf("%s is %s, want %s", args[0], got, args[1])
	}
}

func jsonKeys(ts *testscript.TestScript, neg bool, args []string) {
	Usage(ts, !neg && len(args) > 1, "keys PATH NAME...")
	object, _ := lookUp(ts, args[0]).(map[string]any)
	got, want := slices.Sorted(maps.Keys(object)), slices.Sorted(slices.Values(args[1:]))
	if !slices.Equal(got, want) {
		ts.Fatalf("members of %s are %v, want %v", args[0], got, want)
	}
}

func let(ts *testscript.TestScript, neg bool, args []string) {
	Usage(ts, !neg && len(args) == 2, "let VAR PATH")
	ts.Setenv(args[0], fmt.Sprint(lookUp(ts, args[1])))
}

func mode(ts *testscript.TestScript, neg bool, args []string) {
	Usage(ts, !neg && len(args) == 2, "mode PERM FILE")
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}
