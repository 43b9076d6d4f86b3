//go:build unix

package tlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func newFileRecords(t testing.TB) *FileRecords {
	t.Helper()
	f, err := CreateFileRecords(filepath.Join(t.TempDir(), "records"))
	must(t, err)
	return f
}

// reopened returns the records as another process has them.
func (f *FileRecords) reopened(t testing.TB) *FileRecords {
	t.Helper()
	again, err := OpenFileRecords(f.dir)
	must(t, err)
	return again
}

func TestFileRecords(t *testing.T) {
	f := newFileRecords(t)
	log := newWorld("a", 100)
	record := func(size uint64) Record {
		return Record{size, log.root(t, size), log.signed(t, size)}
	}
	must(t, f.Swap(t.Context(), followed, Record{}, record(10)))
	if err := f.Swap(t.Context(), followed, Record{}, record(20)); !errors.Is(err, ErrStale) {
		t.Errorf("in place of nothing: %v", err)
	}
	must(t, f.reopened(t).Swap(t.Context(), followed, record(10), record(20)))
	if err := f.Swap(t.Context(), followed, record(10), record(30)); !errors.Is(err, ErrStale) {
		t.Errorf("in place of the one before: %v", err)
	}
	bad := record(20)
	bad.Root[0] ^= 1
	if err := f.Swap(t.Context(), followed, bad, record(30)); !errors.Is(err, ErrStale) {
		t.Errorf("in place of another root: %v", err)
	}
	if err := f.Swap(t.Context(), followed, record(20), bad); !errors.Is(err, ErrMalformed) {
		t.Errorf("a record that is not its checkpoint's: %v", err)
	}
	if err := f.Swap(t.Context(), "other.example", Record{}, record(20)); !errors.Is(err, ErrMalformed) {
		t.Errorf("another log's record: %v", err)
	}
	for _, r := range []*FileRecords{f, f.reopened(t)} {
		if got, err := r.Load(t.Context(), followed); err != nil || got.Size != 20 || got.Root != log.root(t, 20) || !bytes.Equal(got.Checkpoint, log.signed(t, 20)) {
			t.Errorf("%+v, %v", got, err)
		}
		if got, err := r.Load(t.Context(), "other.example"); err != nil || got.Checkpoint != nil {
			t.Errorf("a log that was never seen: %+v, %v", got, err)
		}
	}
	if _, err := CreateFileRecords(f.dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created again: %v", err)
	}
	for _, name := range []string{indexFile, OriginHash(followed)} {
		info, err := os.Stat(filepath.Join(f.dir, name))
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

// Whatever is lost or damaged is an error: a witness that took it for the first
// time would cosign any history.
func TestFileRecordsLost(t *testing.T) {
	log := newWorld("a", 100)
	for what, spoil := range map[string]func(record, index string) error{
		"the record":            func(record, _ string) error { return os.Remove(record) },
		"the index":             func(_, index string) error { return os.Remove(index) },
		"the record's contents": func(record, _ string) error { return os.Truncate(record, 0) },
		"the record's end":      func(record, _ string) error { return os.Truncate(record, 150) },
		"the index's contents":  func(_, index string) error { return os.Truncate(index, 0) },
		"the index's end":       func(_, index string) error { return os.Truncate(index, 90) },
		"another log's record": func(record, _ string) error {
			return os.WriteFile(record, sealFile(recordHeader, note(t, log.checkpoint(t, "other.example", 10), signerFor(t, "x", Ed25519))), 0o600)
		},
		"no note":            func(record, _ string) error { return os.WriteFile(record, sealFile(recordHeader, []byte("x")), 0o600) },
		"the index's record": func(record, index string) error { return os.Rename(index, record) },
		"too much":           func(record, _ string) error { return os.Truncate(record, maxRecordFile+1) },
	} {
		f := newFileRecords(t)
		_, err := newWitness(t, f).Add(t.Context(), log.request(t, 0, 10))
		must(t, err)
		must(t, spoil(filepath.Join(f.dir, OriginHash(followed)), filepath.Join(f.dir, indexFile)))
		for _, old := range []uint64{0, 10} {
			s, err := newWitness(t, f).Add(t.Context(), log.request(t, old, 20))
			e, ok := errors.AsType[*RecordError](err)
			if !ok || s != nil || e.Hint() == "" || status(err) != 500 {
				t.Errorf("without %s the witness answers %v, %v", what, s, err)
			}
		}
	}
	// Every single byte counts.
	f := newFileRecords(t)
	_, err := newWitness(t, f).Add(t.Context(), log.request(t, 0, 10))
	must(t, err)
	for _, name := range []string{indexFile, OriginHash(followed)} {
		file := filepath.Join(f.dir, name)
		whole, err := os.ReadFile(file)
		must(t, err)
		flips(whole, func(i int, b []byte) {
			must(t, os.WriteFile(file, b, 0o600))
			if r, err := f.Load(t.Context(), followed); err == nil {
				t.Errorf("byte %d of %s changed: %+v", i, name, r)
			}
		})
		must(t, os.WriteFile(file, whole, 0o600))
	}
	if _, err := OpenFileRecords(filepath.Join(t.TempDir(), "nowhere")); err == nil {
		t.Error("there are records where there is no directory")
	}
}

// A crash between a first record and its line in the index loses nothing.
func TestFileRecordsCrash(t *testing.T) {
	f := newFileRecords(t)
	log := newWorld("a", 100)
	index := filepath.Join(f.dir, indexFile)
	empty, err := os.ReadFile(index)
	must(t, err)
	_, err = newWitness(t, f).Add(t.Context(), log.request(t, 0, 10))
	must(t, err)
	must(t, os.WriteFile(index, empty, 0o600))
	if _, err := newWitness(t, f.reopened(t)).Add(t.Context(), log.request(t, 0, 20)); err == nil {
		t.Error("the record was forgotten")
	}
	_, err = newWitness(t, f.reopened(t)).Add(t.Context(), log.request(t, 10, 20))
	must(t, err)
	must(t, os.Remove(filepath.Join(f.dir, OriginHash(followed))))
	if _, err := f.Load(t.Context(), followed); err == nil {
		t.Error("the index was not brought up to date")
	}
}

// swapper is the environment variable that makes the test binary a process that
// swaps records: its value is the directory.
const swapper = "TLOG_TEST_SWAPPER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(swapper); dir != "" {
		if err := swapForever(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// swapForever raises the size one by one, and says which steps were its own.
func swapForever(dir string) error {
	f, err := OpenFileRecords(dir)
	if err != nil {
		return err
	}
	ctx, t := context.Background(), &testing.T{}
	log := newWorld("a", 400)
	signer := signerFor(t, followed, Ed25519)
	for {
		last, err := f.Load(ctx, followed)
		if err != nil {
			return err
		}
		if last.Size == log.tree.Size() {
			return nil
		}
		c := log.checkpoint(t, followed, last.Size+1)
		line, err := Sign(ctx, signer, c, 0)
		if err != nil {
			return err
		}
		text, err := c.Text()
		if err != nil {
			return err
		}
		b, err := (&Note{text, []Signature{line}}).Marshal()
		if err != nil {
			return err
		}
		switch err := f.Swap(ctx, followed, last, Record{c.Size, c.Root, b}); {
		case err == nil:
			fmt.Println(c.Size)
		case !errors.Is(err, ErrStale):
			return err
		}
	}
}

// Processes that work on one directory, and are killed: each step was made by
// one of them at most, and after each kill the record is whole.
func TestFileRecordsProcesses(t *testing.T) {
	f := newFileRecords(t)
	var mu sync.Mutex
	var steps []string
	run := func(kill time.Duration) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), swapper+"="+f.dir)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		must(t, cmd.Start())
		if kill > 0 {
			time.AfterFunc(kill, func() { cmd.Process.Kill() })
		}
		err := cmd.Wait()
		if kill == 0 && err != nil || errs.Len() > 0 {
			t.Errorf("%v: %s", err, errs.String())
		}
		mu.Lock()
		steps = append(steps, strings.Fields(out.String())...)
		mu.Unlock()
	}
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			for j := range 4 {
				run(time.Duration(30+20*i+10*j) * time.Millisecond)
			}
		})
	}
	all.Wait()
	run(0)
	r, err := f.Load(t.Context(), followed)
	if err != nil || r.Size != 400 {
		t.Fatalf("%+v, %v", r, err)
	}
	slices.Sort(steps)
	if once := slices.Compact(slices.Clone(steps)); len(once) != len(steps) {
		t.Errorf("%d steps, of which %d were made twice", len(steps), len(steps)-len(once))
	}
}
