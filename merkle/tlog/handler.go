package tlog

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
)

const (
	addCheckpointPath = "/add-checkpoint"

	textType = "text/plain; charset=utf-8"
	sizeType = "text/x.tlog.size" // of the body of a 409
)

// Handler serves add-checkpoint and the newest checkpoint of each log, both
// under the root (tlog-witness, "HTTP Interface", "Monitor Retrieval
// Mechanism"). Time limits are up to the server.
func (w *Witness) Handler() http.Handler {
	origins := map[string]string{}
	for origin := range w.logs {
		origins[OriginHash(origin)] = origin
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+addCheckpointPath, w.serveAdd)
	mux.HandleFunc("GET /{hash}/"+checkpointPath, func(rw http.ResponseWriter, r *http.Request) {
		w.serveCheckpoint(rw, r, origins[r.PathValue("hash")])
	})
	return mux
}

// OriginHash is how a log is called under the monitoring prefix of a witness:
// the newest checkpoint that it cosigned is [HTTP.ReadCheckpoint] under prefix,
// slash and hash.
func OriginHash(origin string) string {
	h := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(h[:])
}

func (w *Witness) serveAdd(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, int64(maxRequestSize)))
	if err != nil {
		w.fail(rw, err)
		return
	}
	request, err := ParseAddRequest(body)
	if err != nil {
		w.fail(rw, err)
		return
	}
	cosignature, err := w.Add(r.Context(), request)
	if err != nil {
		w.fail(rw, err)
		return
	}
	answer(rw, http.StatusOK, textType, cosignature.Line())
}

func (w *Witness) serveCheckpoint(rw http.ResponseWriter, r *http.Request, origin string) {
	var record Record
	if origin != "" {
		var err error
		if record, err = w.Records.Load(r.Context(), origin); err != nil {
			w.fail(rw, err)
			return
		}
	}
	if len(record.Checkpoint) == 0 {
		answer(rw, http.StatusNotFound, textType, "nothing was cosigned for this log\n")
		return
	}
	answer(rw, http.StatusOK, textType, string(record.Checkpoint))
}

// status says which answer "add-checkpoint" has for an error.
func status(err error) int {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	if _, ok := errors.AsType[*ConflictError](err); ok {
		return http.StatusConflict
	}
	if _, ok := errors.AsType[*ForkError](err); ok {
		return http.StatusUnprocessableEntity
	}
	for _, c := range []struct {
		err    error
		status int
	}{
		{ErrUnknownLog, http.StatusNotFound},
		{ErrNoSignature, http.StatusForbidden},
		{ErrSignature, http.StatusForbidden},
		{ErrQuorum, http.StatusForbidden},
		{ErrInconsistent, http.StatusUnprocessableEntity},
		{ErrMalformed, http.StatusBadRequest},
	} {
		if errors.Is(err, c.err) {
			return c.status
		}
	}
	return http.StatusInternalServerError
}

// fail answers with an error. Those of the witness itself are its operator's
// to read; a fork is worth keeping for everybody.
func (w *Witness) fail(rw http.ResponseWriter, err error) {
	code := status(err)
	if conflict, ok := errors.AsType[*ConflictError](err); ok {
		answer(rw, code, sizeType, fmt.Sprintf("%d\n", conflict.Size))
		return
	}
	if fork, ok := errors.AsType[*ForkError](err); ok {
		w.Logger.Error("fork", "err", err, "older", string(fork.Older.Raw), "newer", string(fork.Newer.Raw))
	}
	if code == http.StatusInternalServerError {
		w.Logger.Error("witness", "err", err)
		err = errors.New(http.StatusText(code))
	}
	answer(rw, code, textType, err.Error()+"\n")
}

func answer(rw http.ResponseWriter, status int, kind, body string) {
	rw.Header().Set("Content-Type", kind)
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	rw.WriteHeader(status)
	_, _ = io.WriteString(rw, body) // whoever hung up asks again
}
