package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// read returns a noun's value. The error for a file that is not there is
// [fs.ErrNotExist].
func read[T any](d *Dir, name string, parse func([]byte) (T, error)) (T, error) {
	var none T
	b, err := d.root.ReadFile(name)
	if err != nil {
		return none, err
	}
	v, err := parse(b)
	if err != nil {
		return none, fmt.Errorf("%s/%s: %w", d.path, name, err)
	}
	return v, nil
}

// write replaces a file so that after a crash it has its old content or its
// new content, and so that it has the new one once write has returned:
//
//	openat(dir, "NAME.tmp", O_WRONLY|O_CREAT|O_TRUNC, 0600)
//	write, fsync, close
//	renameat(dir, "NAME.tmp", dir, "NAME")
//	fsync(dir)
//
// A temporary file that a crash leaves behind is overwritten by the next write
// of the noun.
func (d *Dir) write(name string, b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lock == nil {
		return errors.New("state directory: opened for reading only")
	}
	tmp := name + ".tmp"
	f, err := d.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := d.root.Rename(tmp, name); err != nil {
		return err
	}
	return d.sync()
}

// remove deletes a file, durably. One that is not there is no error.
func (d *Dir) remove(name string) error {
	if d.lock == nil {
		return errors.New("state directory: opened for reading only")
	}
	if err := d.root.Remove(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return d.sync()
}

func (d *Dir) sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *Dir) exists(name string) bool {
	_, err := d.root.Stat(name)
	return err == nil
}
