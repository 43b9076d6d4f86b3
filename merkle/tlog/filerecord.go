//go:build unix

package tlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery/internal/durable"
)

// The files in a directory of records. Each begins with its type and the hash
// of what follows, so that damage is told from another history.
const (
	indexFile    = "index"
	indexHeader  = "witness-index/v1"
	recordHeader = "witness-record/v1"

	maxRecordFile = 128 + MaxNoteSize
	maxIndexFile  = 8 << 20
)

// A FileRecords keeps the records of a witness in a directory: a file for each
// log, called after [OriginHash], and an index of the logs that have one. The
// record comes before its line in the index, so a log that is in the index and
// has no record has lost it: that is an error, and never the first time. So is a
// damaged file, and an index that is gone.
//
// What it cannot tell is an older copy of the whole directory. Its methods may
// be called concurrently, by several processes too.
type FileRecords struct {
	dir string
	mu  sync.Mutex // held for a whole Swap, so that one goroutine at a time waits for the lock
}

// A RecordError says that the records of a witness are not what it left. It
// unwraps to nothing: that a record is malformed says nothing about a request.
type RecordError struct {
	File string
	Err  error
}

func (e *RecordError) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }

// Hint says how to go on.
func (e *RecordError) Hint() string {
	return "a witness that has lost a record could be made to cosign another history: make a new one, with new keys, unless the very last state of the file can be had"
}

// CreateFileRecords makes the directory, which must not exist yet, and records
// of nothing in it.
func CreateFileRecords(dir string) (*FileRecords, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := durable.CreateFile(filepath.Join(dir, indexFile), sealFile(indexHeader, nil)); err != nil {
		return nil, err
	}
	return &FileRecords{dir: dir}, durable.SyncDir(filepath.Dir(dir))
}

// OpenFileRecords opens what [CreateFileRecords] made. A [*RecordError] means
// that it is not there as it was.
func OpenFileRecords(dir string) (*FileRecords, error) {
	f := &FileRecords{dir: dir}
	_, err := f.index()
	return f, err
}

// Load returns the record of a log. The error is a [*RecordError] if the log had
// one that is lost or damaged.
func (f *FileRecords) Load(_ context.Context, origin string) (Record, error) {
	// The index first: while a record is new, its line comes later.
	index, err := f.index()
	if err != nil {
		return Record{}, err
	}
	file := filepath.Join(f.dir, OriginHash(origin))
	note, err := openFile(file, recordHeader, maxRecordFile)
	if errors.Is(err, fs.ErrNotExist) && !slices.Contains(index, origin) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, &RecordError{file, err}
	}
	_, c, err := parseSigned(note)
	if err == nil && c.Origin != origin {
		err = fmt.Errorf("%w: %.80q", ErrOrigin, c.Origin)
	}
	if err != nil {
		return Record{}, &RecordError{file, err}
	}
	return Record{Size: c.Size, Root: c.Root, Checkpoint: note}, nil
}

// Swap puts a record in the place of another.
func (f *FileRecords) Swap(ctx context.Context, origin string, old, new Record) error {
	if _, c, err := parseSigned(new.Checkpoint); err != nil || c.Origin != origin || c.Size != new.Size || c.Root != new.Root {
		return malformed("record of %.80q is not that of its checkpoint", origin)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	last, err := f.Load(ctx, origin)
	if err != nil {
		return err
	}
	if last.Size != old.Size || last.Root != old.Root {
		return ErrStale
	}
	if err := durable.WriteFile(filepath.Join(f.dir, OriginHash(origin)), sealFile(recordHeader, new.Checkpoint)); err != nil {
		return err
	}
	index, err := f.index()
	if err != nil || slices.Contains(index, origin) {
		return err
	}
	index = append(index, origin)
	slices.Sort(index)
	return durable.WriteFile(filepath.Join(f.dir, indexFile), sealFile(indexHeader, []byte(strings.Join(index, "\n")+"\n")))
}

// lock waits for its turn among processes. It is the directory that is locked: a
// file for the purpose could be removed under those who hold it.
func (f *FileRecords) lock() (unlock func(), err error) {
	d, err := os.Open(f.dir)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { d.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.dir, err), d.Close())
		}
	}
}

// index returns the origins of the logs that have a record, in order.
func (f *FileRecords) index() ([]string, error) {
	file := filepath.Join(f.dir, indexFile)
	b, err := openFile(file, indexHeader, maxIndexFile)
	if err != nil {
		return nil, &RecordError{file, err}
	}
	if len(b) == 0 {
		return nil, nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"), nil
}

func sealFile(header string, b []byte) []byte {
	return append(fmt.Appendf(nil, "%s %s\n", header, fileSum(b)), b...)
}

func openFile(file, header string, limit int) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readAll(f, limit)
	if err != nil {
		return nil, err
	}
	head, rest, _ := bytes.Cut(b, []byte("\n"))
	if string(head) != header+" "+fileSum(rest) {
		return nil, malformed("damaged, or not a %s", header)
	}
	return rest, nil
}

func fileSum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
