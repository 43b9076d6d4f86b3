package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A File is one of a set.
type File struct {
	Name    string
	Mode    fs.FileMode
	Content []byte
}

const (
	current   = ".set"  // a link to the directory that the files are in
	setPrefix = ".set-" // of those directories
)

// WriteSet replaces files of a directory, which is made if it is not there, all
// at once. Each name in it is a symbolic link through another one, which is
// moved:
//
//	DIR/NAME -> .set/NAME
//	DIR/.set -> .set-RANDOM
//
// So whoever opens the files one after the other finds all of them old or all of
// them new, unless the move is in between; whoever resolves DIR/.set once and
// opens them there finds one set in any case. Who reads the set before is not
// disturbed: it stays until the next one. There must be one writer.
func WriteSet(dir string, files []File) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := link(filepath.Join(dir, f.Name), filepath.Join(current, f.Name)); err != nil {
			return err
		}
	}
	next, err := os.MkdirTemp(dir, setPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(next)
		}
	}()
	if err := os.Chmod(next, 0o755); err != nil { // each file says who may read it
		return err
	}
	for _, f := range files {
		if err := writeNew(filepath.Join(next, f.Name), f); err != nil {
			return err
		}
	}
	if err := SyncDir(next); err != nil {
		return err
	}
	before, err := os.Readlink(filepath.Join(dir, current))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	moved := next + ".link"
	if err := os.Symlink(filepath.Base(next), moved); err != nil {
		return err
	}
	if err := os.Rename(moved, filepath.Join(dir, current)); err != nil {
		os.Remove(moved)
		return err
	}
	if err := SyncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	return sweep(dir, filepath.Base(next), before)
}

// link makes a symbolic link, or finds it there; what else has the name is
// nobody's to replace.
func link(name, to string) error {
	err := os.Symlink(to, name)
	if errors.Is(err, fs.ErrExist) {
		if have, _ := os.Readlink(name); have == to {
			return nil
		}
		return fmt.Errorf("%s is there already", name)
	}
	return err
}

func writeNew(name string, f File) error {
	w, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode)
	if err != nil {
		return err
	}
	_, err = w.Write(f.Content)
	return errors.Join(err, w.Chmod(f.Mode), w.Sync(), w.Close()) // whatever the umask
}

// sweep removes the sets before the last two, and what a crash has left.
func sweep(dir string, keep ...string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), setPrefix) && e.Name() != keep[0] && e.Name() != keep[1] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
