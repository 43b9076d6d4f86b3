package tlog

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
)

// serve puts a log on the web, as any server of files would.
func serve(t *testing.T, w *world, checkpoint []byte) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{checkpointPath: {Data: checkpoint}}
	for tile := range TilesSince(0, w.tree.Size()) {
		b, err := w.tile(tile)
		must(t, err)
		files[tile.Path()] = &fstest.MapFile{Data: b}
	}
	return files
}

func TestHTTP(t *testing.T) {
	const size = 600
	w := newWorld("a", size)
	key := signerFor(t, "log.example", Ed25519)
	signed := note(t, w.checkpoint(t, "log.example", size), key)
	files := serve(t, w, signed)

	for name, handler := range map[string]http.Handler{
		"plain": http.FileServerFS(files),
		"gzip": http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			f, err := files.Open(strings.TrimPrefix(r.URL.Path, "/"))
			if err != nil {
				http.NotFound(rw, r)
				return
			}
			rw.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(rw)
			_, _ = io.Copy(z, f)
			_ = z.Close()
		}),
	} {
		server := httptest.NewServer(handler)
		defer server.Close()
		reader, err := NewHTTP(server.URL+"/", nil)
		must(t, err)
		got, err := reader.ReadCheckpoint(t.Context())
		if err != nil || !bytes.Equal(got, signed) {
			t.Fatalf("%s: checkpoint %q, %v", name, got, err)
		}
		c, err := policy(t, "log.example", key).Open(got)
		must(t, err)
		for _, reader := range []Reader{reader, Dir(files)} {
			tree, err := Open(t.Context(), reader, c.Size, c.Root, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			var n int
			for entry, err := range tree.Entries(t.Context(), 0, c.Size) {
				if err != nil || !bytes.Equal(entry, w.entries[n]) {
					t.Fatalf("%s: entry %d is %q, %v", name, n, entry, err)
				}
				n++
			}
			if _, err := reader.ReadTile(t.Context(), Tile{3, 0, 1}); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: a tile that is not there: %v", name, err)
			}
		}
	}
}

func TestHTTPRefuses(t *testing.T) {
	var answer atomic.Value // http.HandlerFunc
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { answer.Load().(http.HandlerFunc)(rw, r) }))
	defer server.Close()
	reader, err := NewHTTP(server.URL, server.Client())
	must(t, err)
	compressed := func(contents string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, contents)
		_ = z.Close()
		return b.Bytes()
	}
	for what, h := range map[string]http.HandlerFunc{
		"an error":               func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) },
		"another success":        func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) },
		"too much":               func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(make([]byte, 33)) },
		"another encoding":       func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("Content-Encoding", "br") },
		"no gzip":                func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("Content-Encoding", "gzip") },
		"too much behind gzip":   gzipped(compressed(strings.Repeat("x", 1<<20))),
		"a stream that is empty": gzipped(bytes.Repeat(compressed(""), 10000)),
	} {
		answer.Store(h)
		if b, err := reader.ReadTile(t.Context(), Tile{0, 0, 1}); err == nil {
			t.Errorf("%s: %d bytes", what, len(b))
		}
	}
	answer.Store(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(410) }))
	if _, err := reader.ReadTile(t.Context(), Tile{0, 0, 1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a tile that is gone: %v", err)
	}
	server.Close()
	if _, err := reader.ReadTile(t.Context(), Tile{0, 0, 1}); err == nil {
		t.Error("a server that is not there answered")
	}
	for _, prefix := range []string{"", "log.example", "ftp://log.example", "https://", "https://log.example?x", "https://log.example#x", "http://%zz"} {
		if _, err := NewHTTP(prefix, nil); !errors.Is(err, ErrMalformed) {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
	large := fstest.MapFS{"tile/0/000.p/1": {Data: make([]byte, 33)}}
	if _, err := Dir(large).ReadTile(t.Context(), Tile{0, 0, 1}); err == nil {
		t.Error("a file larger than its tile")
	}
}

func gzipped(b []byte) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Encoding", "gzip")
		_, _ = rw.Write(b)
	}
}
