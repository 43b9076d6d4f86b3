package hsm

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// What a Pool and a signer process say to each other: frames of a type and a
// length, then the body. hello, ready and failed are JSON, for they are said
// once; sign and signed hold as many entries as there were to tell.
const (
	frameHello    = 1 // to the process: hello
	frameReady    = 2 // from the process: ready
	frameFailed   = 3 // from the process, its last word: remoteError
	frameSign     = 4 // to the process: u32 id, u8 key, u8 length, digest
	frameSigned   = 5 // from the process: u32 id, u32 microseconds in the token, u8 retries, u8 failed, u16 length, signature or remoteError
	frameSessions = 6 // from the process: u16, how many sessions it has more
)

const (
	frameHeader = 5
	maxFrame    = 1 << 20
)

// hello says what a signer process is to do.
type hello struct {
	URI       string
	Keys      []string // URIs of the keys, in the order that frameSign counts
	Sessions  int
	Latch     Latch
	Wrappable bool
	// Pause is between looks for more sessions.
	Pause time.Duration
	// TagKey and Known recognise the PIN that the token took last; the PIN
	// itself never leaves the signer process.
	TagKey, Known []byte
}

// ready says what the process found.
type ready struct {
	Info   Info
	Keys   []readyKey
	PINTag []byte
}

type readyKey struct {
	SPKI       []byte
	Attributes KeyAttributes
}

// beginFrame leaves room for a header that endFrame fills in.
func beginFrame(b []byte) []byte { return append(b[:0], make([]byte, frameHeader)...) }

func endFrame(b []byte, kind byte) []byte {
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-frameHeader))
	return b
}

func writeJSON(w io.Writer, kind byte, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d", len(body), maxFrame)
	}
	_, err = w.Write(endFrame(append(beginFrame(nil), body...), kind))
	return err
}

type frameReader struct {
	r   *bufio.Reader
	buf []byte
}

func newFrameReader(r io.Reader) *frameReader { return &frameReader{r: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next frame. The body is good until the call after.
func (f *frameReader) next() (kind byte, body []byte, err error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes, at most %d", n, maxFrame)
	}
	if int(n) > cap(f.buf) {
		f.buf = make([]byte, n)
	}
	f.buf = f.buf[:n]
	_, err = io.ReadFull(f.r, f.buf)
	return head[0], f.buf, err
}

func appendSign(b []byte, id uint32, key int, digest []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, id)
	b = append(b, byte(key), byte(len(digest)))
	return append(b, digest...)
}

var errFrame = errors.New("frame of an unknown form")

// eachSign calls f for the entries of a sign frame. The digest is good until
// f returns.
func eachSign(body []byte, f func(id uint32, key int, digest []byte) error) error {
	for len(body) > 0 {
		if len(body) < 6 || len(body) < 6+int(body[5]) {
			return errFrame
		}
		n := 6 + int(body[5])
		if err := f(binary.BigEndian.Uint32(body), int(body[4]), body[6:n]); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}

// A signed is an entry of a signed frame.
type signed struct {
	id      uint32
	took    time.Duration // in the token
	retries int
	raw     []byte
	err     error // why there is no signature
}

const signedHeader = 12

func appendSigned(b []byte, s signed) []byte {
	failed := byte(0)
	if s.err != nil {
		failed = 1
		s.raw, _ = json.Marshal(remote(s.err)) // strings and numbers
		if len(s.raw) > 1<<16-1 {
			s.raw = []byte(`{"text":"failed, at length"}`)
		}
	}
	b = binary.BigEndian.AppendUint32(b, s.id)
	b = binary.BigEndian.AppendUint32(b, uint32(min(s.took.Microseconds(), 1<<32-1)))
	b = append(b, byte(min(s.retries, 255)), failed)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.raw)))
	return append(b, s.raw...)
}

// eachSigned calls f for the entries of a signed frame.
func eachSigned(body []byte, f func(signed)) error {
	for len(body) > 0 {
		if len(body) < signedHeader {
			return errFrame
		}
		n := signedHeader + int(binary.BigEndian.Uint16(body[10:]))
		if len(body) < n {
			return errFrame
		}
		s := signed{id: binary.BigEndian.Uint32(body), took: time.Duration(binary.BigEndian.Uint32(body[4:])) * time.Microsecond, retries: int(body[8])}
		if body[9] == 0 {
			s.raw = append([]byte(nil), body[signedHeader:n]...)
		} else {
			s.err = parseRemote(body[signedHeader:n])
		}
		f(s)
		body = body[n:]
	}
	return nil
}

// A remoteError carries an error out of a signer process. Of the types that
// callers tell apart one member is set; of others text and hint arrive.
type remoteError struct {
	Code     *Error            `json:"code,omitempty"`
	PIN      *PINError         `json:"pin,omitempty"`
	Latched  *LatchedError     `json:"latched,omitempty"`
	Token    *TokenError       `json:"token,omitempty"`
	NotFound *KeyNotFoundError `json:"not_found,omitempty"`
	Refused  *KeyRefusedError  `json:"refused,omitempty"`
	URI      *URIError         `json:"uri,omitempty"`
	Source   *string           `json:"source,omitempty"` // path of a [PINSourceError]
	Text     string            `json:"text"`
	Advice   string            `json:"hint,omitempty"`
	Fatal    bool              `json:"fatal,omitempty"`
}

func remote(err error) *remoteError {
	r := &remoteError{Text: err.Error(), Fatal: dead(err)}
	r.Code, _ = errors.AsType[*Error](err)
	r.PIN, _ = errors.AsType[*PINError](err)
	r.Latched, _ = errors.AsType[*LatchedError](err)
	r.Token, _ = errors.AsType[*TokenError](err)
	r.NotFound, _ = errors.AsType[*KeyNotFoundError](err)
	r.Refused, _ = errors.AsType[*KeyRefusedError](err)
	r.URI, _ = errors.AsType[*URIError](err)
	if source, ok := errors.AsType[*PINSourceError](err); ok {
		r.Source, r.Text = &source.Path, source.Err.Error()
	}
	if h, ok := errors.AsType[hinter](err); ok {
		r.Advice = h.Hint()
	}
	return r
}

func parseRemote(b []byte) error {
	var r remoteError
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("signer process: %w", err)
	}
	return &r
}

func (r *remoteError) Error() string {
	if e := r.Unwrap(); e != nil && r.Source != nil {
		return e.Error()
	}
	return r.Text
}

// Unwrap returns the typed error, with which [errors.As] works as it would in
// the signer process.
func (r *remoteError) Unwrap() error {
	switch {
	case r.Latched != nil:
		return r.Latched
	case r.PIN != nil:
		return r.PIN
	case r.Token != nil:
		return r.Token
	case r.NotFound != nil:
		return r.NotFound
	case r.Refused != nil:
		return r.Refused
	case r.URI != nil:
		return &URIError{Attribute: r.URI.Attribute, Problem: r.URI.Problem, hint: r.Advice}
	case r.Source != nil:
		return &PINSourceError{Path: *r.Source, Err: errors.New(r.Text), hint: r.Advice}
	case r.Code != nil:
		return r.Code
	}
	return nil
}

// Dead reports whether the token must be taken as lost.
func (r *remoteError) Dead() bool { return r.Fatal }

// Hint tells what to do.
func (r *remoteError) Hint() string { return r.Advice }
