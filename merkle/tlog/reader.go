package tlog

import (
	"context"
	"fmt"
	"io"
	"io/fs"
)

// A Reader fetches tiles and entry bundles. What it returns need not be true:
// whoever uses it authenticates it. It is [fs.ErrNotExist] if there is no such
// tile. A Reader is safe for concurrent use, and never changes what it
// returned.
type Reader interface {
	ReadTile(ctx context.Context, t Tile) ([]byte, error)
}

// Dir reads the tiles of a log that lies in a file system, under the paths
// that it has on the web.
func Dir(fsys fs.FS) Reader { return dir{fsys} }

type dir struct{ fsys fs.FS }

func (d dir) ReadTile(_ context.Context, t Tile) ([]byte, error) {
	f, err := d.fsys.Open(t.Path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, t.maxBytes())
}

// readAll is [io.ReadAll] for at most limit bytes.
func readAll(r io.Reader, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(b) > limit {
		return nil, fmt.Errorf("larger than %d bytes", limit)
	}
	return b, err
}
