package tlog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

const (
	addCheckpointPath = "/add-checkpoint"
	signSubtreePath   = "/sign-subtree"

	textType = "text/plain; charset=utf-8"
	sizeType = "text/x.tlog.size" // of the body of a 409
)

// Handler serves add-checkpoint, sign-subtree if the witness has a key for it,
// and the newest checkpoint of each log, all under the root (tlog-witness, "HTTP
// Interface", "Monitor Retrieval Mechanism"). Limits on time and rate are up to
// the server.
func (w *Witness) Handler() http.Handler {
	origins := map[string]string{}
	for origin := range w.logs {
		origins[OriginHash(origin)] = origin
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+addCheckpointPath, func(rw http.ResponseWriter, r *http.Request) {
		answerTo(w, rw, r, ParseAddRequest, w.Add)
	})
	if slices.ContainsFunc(w.Signers, func(s Signer) bool { return s.Key().kind == Cosigner }) {
		mux.HandleFunc("POST "+signSubtreePath, func(rw http.ResponseWriter, r *http.Request) {
			answerTo(w, rw, r, ParseSubtreeRequest, w.SignSubtree)
		})
	}
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

// answerTo reads a request and answers with signature lines.
func answerTo[R any](w *Witness, rw http.ResponseWriter, r *http.Request, parse func([]byte) (R, error), sign func(context.Context, R) ([]Signature, error)) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, int64(maxRequestSize)))
	if err != nil {
		w.fail(rw, err)
		return
	}
	request, err := parse(body)
	if err != nil {
		w.fail(rw, err)
		return
	}
	signatures, err := sign(r.Context(), request)
	if err != nil {
		w.fail(rw, err)
		return
	}
	var lines strings.Builder
	for _, s := range signatures {
		lines.WriteString(s.Line())
	}
	answer(rw, http.StatusOK, textType, lines.String())
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

// status says which answer "add-checkpoint" and "sign-subtree" have for an
// error.
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
		{ErrNotCosigned, http.StatusForbidden},
		{ErrInconsistent, http.StatusUnprocessableEntity},
		{ErrSubtree, http.StatusUnprocessableEntity},
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
