package durable

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func files(n int) []File {
	content := []byte(strings.Repeat(fmt.Sprintf("%d\n", n), 1000))
	return []File{{"a.pem", 0o600, content}, {"b.pem", 0o644, content}}
}

// The files are replaced with their modes, whatever the umask, and of older sets
// one is left.
func TestWriteSet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sub", "dir")
	for n := range 4 {
		if err := WriteSet(dir, files(n)); err != nil {
			t.Fatal(err)
		}
		for _, f := range files(n) {
			b, err := os.ReadFile(filepath.Join(dir, f.Name))
			if err != nil || string(b) != string(f.Content) {
				t.Fatalf("%s is %.10q, %v, want %.10q", f.Name, b, err, f.Content)
			}
			if info, err := os.Stat(filepath.Join(dir, f.Name)); err != nil || info.Mode() != f.Mode {
				t.Errorf("%s: %v, %v", f.Name, info.Mode(), err)
			}
		}
		if sets, err := filepath.Glob(filepath.Join(dir, ".set-*")); err != nil || len(sets) != min(n+1, 2) {
			t.Errorf("after %d writes there are the sets %v, %v", n+1, sets, err)
		}
	}
}

// Who opens the files through the link finds one set, at each moment of a
// change.
func TestWriteSetAtOnce(t *testing.T) {
	dir := t.TempDir()
	if err := WriteSet(dir, files(0)); err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var readers sync.WaitGroup
	looks := make([]int, 4)
	for i := range looks {
		readers.Go(func() {
			for !done.Load() || looks[i] == 0 {
				set, err := os.OpenRoot(filepath.Join(dir, ".set"))
				if err != nil {
					t.Errorf("the link leads nowhere: %v", err)
					return
				}
				a, err1 := set.ReadFile("a.pem")
				b, err2 := set.ReadFile("b.pem")
				set.Close()
				if looks[i]++; err1 == nil && err2 == nil && (string(a) != string(b) || len(a) < 2000) {
					t.Errorf("half of one set and half of another: %.10q, %.10q", a, b)
					return
				}
			}
		})
	}
	for n := range 200 {
		if err := WriteSet(dir, files(n)); err != nil {
			t.Fatal(err)
		}
	}
	done.Store(true)
	readers.Wait()
	if slices.Min(looks) == 0 {
		t.Error("nobody looked")
	}
}

// What somebody else has put there is not replaced, and what cannot be written
// changes nothing.
func TestWriteSetRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "b.pem"), []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteSet(dir, files(1)); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("over somebody's file: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "b.pem")); err != nil || string(b) != "theirs" {
		t.Errorf("their file is %q, %v", b, err)
	}

	dir = t.TempDir()
	if err := WriteSet(dir, files(1)); err != nil {
		t.Fatal(err)
	}
	if err := WriteSet(dir, append(files(2), File{"no/such", fs.FileMode(0o600), nil})); err == nil {
		t.Error("a file in no directory was written")
	}
	for _, f := range files(1) {
		if b, err := os.ReadFile(filepath.Join(dir, f.Name)); err != nil || string(b) != string(f.Content) {
			t.Errorf("%s is %.10q, %v", f.Name, b, err)
		}
	}
	if sets, _ := filepath.Glob(filepath.Join(dir, ".set-*")); len(sets) != 1 {
		t.Errorf("what failed is still there: %v", sets)
	}
}
