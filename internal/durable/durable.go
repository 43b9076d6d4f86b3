// Package durable writes files that are there after a power cut, whole.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces a file by one that only its owner reads, whole or not at
// all: write beside it, fsync, rename, fsync the directory. When it returns
// without an error the new content is on the disk.
func WriteFile(file string, b []byte) error { return put(file, b, os.Rename) }

// CreateFile is [WriteFile] for a file that must not exist yet.
func CreateFile(file string, b []byte) error { return put(file, b, os.Link) }

func put(file string, b []byte, place func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = place(f.Name(), file)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already", file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return SyncDir(filepath.Dir(file))
}

// SyncDir makes what was created, renamed or removed in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
