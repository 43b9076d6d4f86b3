package hsm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// signerName is the first argument (argv[0]) of a signer process; the second
// is the token's URI, for who lists processes.
const signerName = "chancery-hsm-signer"

// signerSocket is the descriptor of a signer process's end of the socket.
const signerSocket = 3

// SignerProcess runs a signer process and ends with it, if this process was
// started as one; else it returns at once. A program that opens a [Pool] calls
// it first thing in main, because the signer process is the same program again.
func SignerProcess() {
	if len(os.Args) == 0 || os.Args[0] != signerName {
		return
	}
	os.Exit(serveSigner())
}

// Exit codes of a signer process, for the log.
const (
	exitDone   = 0 // the other end closed the socket
	exitFailed = 1 // the token could not be opened, or is lost; said on the socket
	exitSocket = 2 // there is no socket, or nonsense on it
)

func serveSigner() int {
	// Signals that are meant for the program's whole group end the parent,
	// which closes the socket when it is done with the token.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// The PIN passes through this process: no core dumps, no tracers of the
	// same user.
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	f := os.NewFile(signerSocket, "socket")
	conn, err := net.FileConn(f)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: a signer process is started by chancery itself")
		return exitSocket
	}
	f.Close()
	frames := newFrameReader(conn)
	kind, body, err := frames.next()
	var h hello
	if err != nil || kind != frameHello || json.Unmarshal(body, &h) != nil {
		return exitSocket
	}
	token, keys, err := h.open()
	if err != nil {
		writeJSON(conn, frameFailed, remote(err)) // if nobody listens there is nobody to tell
		return exitFailed
	}
	w := &worker{token: token, keys: keys, conn: conn, queue: make(chan job, 1024), lost: make(chan struct{}), stop: make(chan struct{})}
	if err := writeJSON(conn, frameReady, w.ready()); err != nil {
		return w.end(exitDone)
	}
	for range token.info.Sessions {
		go w.run()
	}
	go w.grow(h.Pause)
	failed := make(chan int, 1)
	go func() { failed <- w.read(frames) }()
	select {
	case code := <-failed:
		return w.end(code)
	case <-w.lost:
		return w.end(exitFailed)
	}
}

// open finds the token and the keys.
func (h *hello) open() (*Token, []*Key, error) {
	uri, err := ParseURI(h.URI)
	if err != nil {
		return nil, nil, err
	}
	token, err := Open(uri, Options{Sessions: h.Sessions, Latch: h.Latch, Wrappable: h.Wrappable, tagKey: h.TagKey, known: h.Known})
	if err != nil {
		return nil, nil, err
	}
	keys := make([]*Key, len(h.Keys))
	for i, name := range h.Keys {
		uri, err := ParseURI(name)
		if err == nil {
			keys[i], err = token.FindKey(uri)
		}
		if err != nil {
			token.Close()
			return nil, nil, err
		}
	}
	return token, keys, nil
}

// A worker is the signer process between ready and its end.
type worker struct {
	token *Token
	keys  []*Key
	conn  net.Conn
	queue chan job

	// mu guards out and writing; it is not held while out is written, by
	// whoever found that nobody else does.
	mu      sync.Mutex
	out     []byte // entries of a signed frame
	more    int    // sessions that are to be told of
	writing bool

	lose sync.Once
	lost chan struct{} // closed when the token is, and that is said
	stop chan struct{} // closed when no more jobs are to be begun
}

// A job is an entry of a sign frame.
type job struct {
	id     uint32
	key    int
	digest []byte
}

func (w *worker) ready() ready {
	r := ready{Info: w.token.info, PINTag: w.token.pinTag}
	for _, k := range w.keys {
		r.Keys = append(r.Keys, readyKey{SPKI: k.public.SPKI(), Attributes: k.attributes})
	}
	return r
}

// read hands out the jobs until the socket is closed.
func (w *worker) read(frames *frameReader) (code int) {
	for {
		kind, body, err := frames.next()
		if err == io.EOF {
			return exitDone
		}
		if err != nil || kind != frameSign {
			return exitSocket
		}
		err = eachSign(body, func(id uint32, key int, digest []byte) error {
			if key >= len(w.keys) {
				return errFrame
			}
			w.queue <- job{id, key, bytes.Clone(digest)}
			return nil
		})
		if err != nil {
			return exitSocket
		}
	}
}

// run does jobs with a session of its own, which it gives back to the token
// when it ends: Close waits for it.
func (w *worker) run() {
	s := <-w.token.idle
	defer func() { w.token.idle <- s }()
	for {
		select {
		case <-w.stop:
			return
		case j := <-w.queue:
			began := time.Now()
			raw, retries, err := w.token.sign(s, w.keys[j.key].handle, j.digest)
			w.answer(signed{id: j.id, took: time.Since(began), retries: retries, raw: raw, err: err})
			if dead(err) {
				w.lose.Do(func() { close(w.lost) })
				return
			}
		}
	}
}

// grow looks for more sessions now and then, if the token had fewer than were
// wanted: others may have given some back.
func (w *worker) grow(pause time.Duration) {
	for w.token.missing() > 0 {
		select {
		case <-w.stop:
			return
		case <-time.After(pause):
		}
		for w.token.grow() {
			go w.run()
			w.mu.Lock()
			w.more++
			w.write()
			w.mu.Unlock()
		}
	}
}

// answer says how a job ended. What others have to say meanwhile goes into the
// next frame.
func (w *worker) answer(s signed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = appendSigned(w.out, s)
	w.write()
}

// write writes what is to be said, unless somebody does already. The caller
// holds mu.
func (w *worker) write() {
	if w.writing {
		return
	}
	w.writing = true
	var frame []byte
	for len(w.out) > 0 || w.more > 0 {
		kind := byte(frameSigned)
		frame = append(beginFrame(frame), w.out...)
		if w.more > 0 {
			kind, frame, w.more = frameSessions, binary.BigEndian.AppendUint16(beginFrame(frame), uint16(w.more)), 0
		} else {
			w.out = w.out[:0]
		}
		w.mu.Unlock()
		_, err := w.conn.Write(endFrame(frame, kind))
		w.mu.Lock()
		if err != nil {
			break // the reader sees it too, and ends the process
		}
	}
	w.writing = false
}

// farewell is how long a token may take to give its sessions back. Devices
// that count sessions keep those of a process that just ends for a while; a
// module that hangs cannot be helped.
const farewell = 250 * time.Millisecond

func (w *worker) end(code int) int {
	close(w.stop)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		w.token.Close()
	}()
	select {
	case <-closed:
	case <-time.After(farewell):
	}
	return code
}
