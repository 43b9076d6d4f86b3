package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/internal/child"
)

// A stage is a directory that everything a demo does has to stay in: it is
// the TMPDIR of the demo and of all that it starts.
type stage struct {
	t   *testing.T
	dir string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	needSimulators(t)
	dir, err := os.MkdirTemp("", "stage-") // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &stage{t, dir}
}

// command is the demo as it is shipped, in the stage.
func (s *stage) command(args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	s.t.Helper()
	programs, err := build()
	if err != nil {
		s.t.Fatal(err)
	}
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd = exec.Command(filepath.Join(programs, "chancery"), append([]string{"demo"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+s.dir)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

// processes returns the command lines of all processes that have the stage in
// their environment, their arguments or as their directory.
func (s *stage) processes() (found []string) {
	s.t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(dirs) == 0 {
		s.t.Fatalf("there are no processes to look at: %v", err)
	}
	for _, dir := range dirs {
		// What cannot be read has ended meanwhile, or belongs to others.
		args, _ := os.ReadFile(dir + "/cmdline")
		env, _ := os.ReadFile(dir + "/environ")
		cwd, _ := os.Readlink(dir + "/cwd")
		if bytes.Contains(args, []byte(s.dir)) || bytes.Contains(env, []byte(s.dir)) || strings.HasPrefix(cwd, s.dir) {
			found = append(found, strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return found
}

// checkEmpty checks that nothing runs on and nothing lies about. What was
// killed may take a moment to be gone.
func (s *stage) checkEmpty() {
	s.t.Helper()
	var left []string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if left = s.processes(); len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, p := range left {
		s.t.Errorf("left running: %s", p)
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		s.t.Errorf("left behind: %s", f)
	}
}

// The demo holds every outcome against what it must be; exit code 0 says that
// all of them were. What is left to check is that it told the whole story.
func TestDemo(t *testing.T) {
	s := newStage(t)
	cmd, stdout, stderr := s.command("--json")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	checkStory(t, stdout.Bytes())
	s.checkEmpty()

	// A second run right after the first, for people.
	cmd, stdout, stderr = s.command()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	for _, part := range []string{"\nA coordinator\n", "\nThe log proves it all\n", " ms  ", "SIMULATOR", "nothing is left running\n"} {
		if !strings.Contains(stdout.String(), part) {
			t.Errorf("%q is not in\n%s", part, stdout)
		}
	}
	s.checkEmpty()
}

func checkStory(t *testing.T, b []byte) {
	t.Helper()
	var story demoResult
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&story); err != nil {
		t.Fatalf("%v in\n%s", err, b)
	}
	var chapters []string
	symbols := map[string]bool{}
	for _, step := range story.Steps {
		if !slices.Contains(chapters, step.Chapter) {
			chapters = append(chapters, step.Chapter)
		}
		if step.MS < 0 || step.What == "" || step.Who == "" {
			t.Errorf("step %+v", step)
		}
		// A symbol counts if the step took time, as all that is done does.
		if step.MS > 0 {
			for symbol := range strings.SplitSeq(step.Symbol, ", ") {
				symbols[symbol] = true
			}
		}
	}
	want := []string{"A coordinator", "Two nodes enrol", "They talk", "A stranger is refused", "A node is revoked", "A boot state changes", "The log proves it all"}
	if !slices.Equal(chapters, want) {
		t.Errorf("chapters are %q, want %q", chapters, want)
	}
	// docs/protocol.md section 1
	for _, symbol := range []string{"CA:SK", "CA:S", "pointer record", "N:PK", "CA:N:S", "N:S", "N:C", "CRL", "N:SK"} {
		if !symbols[symbol] {
			t.Errorf("%s does not appear", symbol)
		}
	}
	if story.Seconds <= 0 {
		t.Errorf("it took %v s", story.Seconds)
	}
}

// Whoever interrupts the demo gets their machine back as it was.
func TestDemoInterrupted(t *testing.T) {
	for _, test := range []struct {
		during   string
		terminal bool // which interrupts all that run in it, not the demo alone
	}{
		{"A coordinator", false},
		{"A coordinator", true},
		{"Two nodes enrol", true},
		{"A node is revoked", false},
		{"A node is revoked", true},
	} {
		t.Run(fmt.Sprintf("%s, terminal %v", test.during, test.terminal), func(t *testing.T) {
			s := newStage(t)
			cmd, _, stderr := s.command()
			seen := make(chan struct{})
			cmd.Stdout = &watch{text: []byte("\n" + test.during + "\n"), seen: seen}
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			demo, err := child.Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			defer demo.Kill()
			select {
			case <-seen:
			case <-demo.Done():
				t.Fatalf("the demo ended before: %v\n%s", demo.Wait(), stderr)
			}
			if len(s.processes()) < 2 {
				t.Fatal("the demo runs nothing; is this where its processes are?")
			}
			target := cmd.Process.Pid
			if test.terminal {
				target = -target
			}
			if err := syscall.Kill(target, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if demo.Wait(); cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("exit code %d, want 1\n%s", cmd.ProcessState.ExitCode(), stderr)
			}
			// In a terminal the demo may hear of a program's end before it hears
			// of the interrupt; and it may be a chapter further by then.
			if want := ": interrupted\n"; !test.terminal && !strings.HasSuffix(stderr.String(), want) {
				t.Errorf("it says %q, want the chapter and %q", stderr, want)
			}
			s.checkEmpty()
		})
	}
}

// A watch closes seen when the text has been written to it.
type watch struct {
	text    []byte
	written []byte
	seen    chan struct{}
}

func (w *watch) Write(b []byte) (int, error) {
	before := bytes.Contains(w.written, w.text)
	w.written = append(w.written, b...)
	if !before && bytes.Contains(w.written, w.text) {
		close(w.seen)
	}
	return len(b), nil
}

// A machine that lacks a part is told which.
func TestDemoWithoutAgent(t *testing.T) {
	s := newStage(t)
	cmd, _, stderr := s.command("--agent", filepath.Join(s.dir, "nowhere"))
	if cmd.Run(); cmd.ProcessState.ExitCode() != 2 || !strings.Contains(stderr.String(), "nowhere") {
		t.Errorf("exit code %d\n%s", cmd.ProcessState.ExitCode(), stderr)
	}
	s.checkEmpty()
}
