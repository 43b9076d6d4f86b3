package device

import (
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// The module compiles without a warning.
func TestSource(t *testing.T) {
	cc, err := compiler()
	if err != nil {
		t.Fatal(err)
	}
	for _, std := range []string{"c11", "gnu17"} {
		out, err := exec.Command(cc, "-std="+std, "-fPIC", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
			"-c", "-o", filepath.Join(t.TempDir(), "device.o"), "shim/device.c").CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", std, err, out)
		}
	}
}

// Both sides number the functions alike. That they lay out the state alike is
// checked by each C_Initialize, with its size.
func TestFunctions(t *testing.T) {
	rows := regexp.MustCompile(`(?m)^\t(?:OWN|SLOT|SESSION)\((C_\w+),`).FindAllStringSubmatch(source, -1)
	if len(rows) != len(functions) {
		t.Fatalf("device.c has %d functions, the list %d", len(rows), len(functions))
	}
	for i, row := range rows {
		if row[1] != functions[i] {
			t.Errorf("function %d is %s in device.c and %s in the list", i, row[1], functions[i])
		}
	}
}

func TestNoCompiler(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := New(t.TempDir(), "build.go", Model{})
	var missing *NoCompilerError
	if !errors.As(err, &missing) || missing.Hint() == "" {
		t.Errorf("without a compiler: %v", err)
	}
}

// What is compiled stays: a directory that was used needs no compiler again.
func TestBuildOnce(t *testing.T) {
	dir := t.TempDir()
	first, err := New(dir, "build.go", Model{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	t.Setenv("PATH", t.TempDir())
	second, err := New(dir, "build.go", Model{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if first.Module() != second.Module() || first.Env()[stateVariable] == second.Env()[stateVariable] {
		t.Errorf("%+v and %+v do not share just the module", first.Env(), second.Env())
	}
}
