package tlog

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// checkpointPath is where a log has its checkpoint (tlog-tiles,
// "Checkpoints").
const checkpointPath = "checkpoint"

// An HTTP fetches a log from a web server (tlog-tiles, "APIs"). It takes no
// more bytes than a tile may have, and no encodings but identity and gzip.
type HTTP struct {
	prefix string // without a slash at the end
	client *http.Client
}

// NewHTTP returns a reader of the log under a prefix. That of an issuance log
// is the CA's prefix, a slash and the log number (mtc-tlog, "Serving Issuance
// Logs"), as in "https://ca.example/logs/1". A nil client is one that waits 30
// seconds.
func NewHTTP(prefix string, client *http.Client) (*HTTP, error) {
	prefix, err := checkPrefix(prefix)
	if err != nil {
		return nil, err
	}
	return &HTTP{prefix, orDefault(client)}, nil
}

func checkPrefix(prefix string) (string, error) {
	u, err := url.Parse(prefix)
	if err != nil {
		return "", malformed("prefix: %v", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", malformed("%q is not an http or https URL without query", prefix)
	}
	return strings.TrimRight(prefix, "/"), nil
}

func orDefault(client *http.Client) *http.Client {
	if client != nil {
		return client
	}
	return &http.Client{Timeout: 30 * time.Second}
}

// ReadTile fetches a tile or an entry bundle.
func (h *HTTP) ReadTile(ctx context.Context, t Tile) ([]byte, error) {
	return h.get(ctx, t.Path(), t.maxBytes())
}

// ReadCheckpoint fetches the newest signed checkpoint, unverified.
func (h *HTTP) ReadCheckpoint(ctx context.Context) ([]byte, error) {
	return h.get(ctx, checkpointPath, MaxNoteSize)
}

func (h *HTTP) get(ctx context.Context, path string, limit int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.prefix+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	// Asked for by name, the client leaves the body as it is, and so the
	// limits below hold for what comes over the wire too. A log may compress
	// without being asked (tlog-tiles, "Log entries").
	req.Header.Set("Accept-Encoding", "gzip, identity")
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("%s: %w", resp.Status, fs.ErrNotExist)
	default:
		return nil, fmt.Errorf("GET %s: %s", req.URL, resp.Status)
	}
	body, err := decode(resp, limit)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", req.URL, err)
	}
	b, err := readAll(body, limit)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", req.URL, err)
	}
	return b, nil
}

// decode undoes the content encoding. A gzip stream can be endless and hold
// nothing, so its own bytes are limited as well.
func decode(resp *http.Response, limit int) (io.Reader, error) {
	const overhead = 64 << 10
	switch encoding := resp.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		return resp.Body, nil
	case "gzip":
		return gzip.NewReader(io.LimitReader(resp.Body, int64(limit)+overhead))
	default:
		return nil, fmt.Errorf("content encoding %q, want gzip or identity", encoding)
	}
}
