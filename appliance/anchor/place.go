package anchor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/chancery-pki/chancery/internal/durable"
	"github.com/chancery-pki/chancery/tpm"
)

// A Place keeps one mark where no copy of the database is put back.
type Place interface {
	// Load returns what was saved last. The error is fs.ErrNotExist where
	// nothing was.
	Load() (*Mark, error)
	// Save replaces it, durably.
	Save(*Mark) error
	// Every is the least time between two saves.
	Every() time.Duration
	// String names the place for people.
	String() string
}

// tpmScheme begins the name of a place in a TPM.
const tpmScheme = "tpm:"

// At returns the place of a name: "tpm:" and a TPM's device, or the path of a
// file.
func At(name string) Place {
	if device, ok := strings.CutPrefix(name, tpmScheme); ok {
		return chip(device)
	}
	return file(name)
}

type file string

func (f file) String() string       { return string(f) }
func (f file) Every() time.Duration { return 0 }
func (f file) Save(m *Mark) error   { return durable.WriteFile(string(f), m.Marshal()) }

func (f file) Load() (*Mark, error) {
	info, err := os.Stat(string(f))
	if err != nil {
		return nil, err
	}
	if info.Size() != int64(markSize) {
		return nil, fmt.Errorf("%s: %w", f, ErrDamaged)
	}
	b, err := os.ReadFile(string(f))
	if err != nil {
		return nil, err
	}
	m, err := ParseMark(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	return m, nil
}

// chip is a record in a TPM. The chip is opened for each use, so that others on
// the machine may use it meanwhile.
type chip string

func (c chip) String() string { return tpmScheme + string(c) }

// Every is what a chip's memory bears: some hundred thousand writes.
func (c chip) Every() time.Duration { return 10 * time.Minute }

func (c chip) Load() (*Mark, error) {
	t, err := tpm.Open(string(c))
	if err != nil {
		return nil, err
	}
	defer t.Close()
	b, err := t.Record()
	if errors.Is(err, tpm.ErrNoRecord) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	m, err := ParseMark(b[:markSize])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	return m, nil
}

func (c chip) Save(m *Mark) error {
	t, err := tpm.Open(string(c))
	if err != nil {
		return err
	}
	record := make([]byte, tpm.RecordSize)
	copy(record, m.Marshal())
	return errors.Join(t.SetRecord(record), t.Close())
}
