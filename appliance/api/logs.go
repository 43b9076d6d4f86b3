package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

const (
	// maxTiles bounds the tiles that are read at the same time: auditors must
	// not keep nodes from enrolling.
	maxTiles = 32

	cacheForEver = "public, max-age=31536000, immutable"
	cacheNever   = "no-cache"
)

// serveLogs serves the issuance log and the audit log as tiles
// (c2sp.org/tlog-tiles, "APIs"), each under its path.
func serveLogs(mux *http.ServeMux, l *ledger.Ledger, logger *slog.Logger) {
	slots := make(chan struct{}, maxTiles)
	for _, p := range []*ledger.Public{l.Issuance(), l.Audit()} {
		mux.HandleFunc("GET "+p.Path+"/checkpoint", func(w http.ResponseWriter, r *http.Request) {
			note := p.Checkpoint()
			if note == nil {
				http.Error(w, "the log has no checkpoint yet", http.StatusNotFound)
				return
			}
			serveBytes(w, r, note, "text/plain; charset=utf-8", cacheNever)
		})
		mux.HandleFunc("GET "+p.Path+"/tile/", func(w http.ResponseWriter, r *http.Request) {
			tile, err := tlog.ParsePath(strings.TrimPrefix(r.URL.Path, p.Path+"/"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusNotFound)
				return
			}
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			default:
				w.Header().Set("Retry-After", "1")
				http.Error(w, "too many read the log; try again", http.StatusServiceUnavailable)
				return
			}
			b, err := p.Tile(r.Context(), tile)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				http.Error(w, err.Error(), http.StatusNotFound)
			case err != nil:
				logger.Error("tile cannot be read", "log", p.Origin, "tile", tile.Path(), "error", err)
				http.Error(w, "the coordinator could not do it; its log says why", http.StatusInternalServerError)
			default:
				serveBytes(w, r, b, "application/octet-stream", cacheForEver)
			}
		})
	}
}

// serveBytes answers with b, or that it has not changed.
func serveBytes(w http.ResponseWriter, r *http.Request, b []byte, contentType, caching string) {
	sum := sha256.Sum256(b)
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", caching)
	h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}
