package main

import (
	"bytes"
	"encoding/xml"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

func wellFormed(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(b)); ; {
		if _, err := d.Token(); err == io.EOF {
			return b
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}

func TestDraw(t *testing.T) {
	dir := t.TempDir()
	const text = `{"title":"a chart","x":"size","y":"time","log":true,"lines":[{"name":"ours","ours":true,"points":[[1000,1],[1000000,2]]},{"name":"theirs","points":[[1000,10],[1000000,20000]]}]}`
	for name, content := range map[string]string{"c.json": text, "summary.json": "[]"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := run([]string{dir}); err != nil {
		t.Fatal(err)
	}
	if b := wellFormed(t, filepath.Join(dir, "c.svg")); !bytes.Contains(b, []byte("theirs")) {
		t.Error("the drawing has no legend")
	}
	f, err := os.Open(filepath.Join(dir, "c.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if i, err := png.Decode(f); err != nil || i.Bounds().Dx() < 500 {
		t.Errorf("the picture: %v", err)
	}
}

func burn() (n int) {
	for start := time.Now(); time.Since(start) < 300*time.Millisecond; {
		n++
	}
	return n
}

func TestFlame(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "p"))
	if err != nil {
		t.Fatal(err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		t.Fatal(err)
	}
	burn()
	pprof.StopCPUProfile()
	f.Close()
	out := filepath.Join(dir, "p.svg")
	if err := run([]string{"flame", f.Name(), out}); err != nil {
		t.Fatal(err)
	}
	if b := string(wellFormed(t, out)); !strings.Contains(b, "plot.burn") {
		t.Errorf("what burned is not in the drawing")
	}
	if err := run([]string{"flame", filepath.Join(dir, "none"), out}); err == nil {
		t.Error("a profile that is not there")
	}
}
