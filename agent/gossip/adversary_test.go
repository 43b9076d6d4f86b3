package gossip_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/gossip"
)

// A lie is what somebody sends who pretends to have more than the node, which
// holds list 2 of the fleet; he knows all that the fleet published.
type lie struct {
	name    string
	hello   func(*says)
	sends   func(*lies) []byte // after the hello
	want    error
	shunned bool
}

// lies is what a liar has to work with.
type lies struct {
	lists  [5][]byte // full lists by number
	deltas [5][]byte // to the list of that number, from the one before
	trust  chancery.Trust
	other  []byte // list 3 of another fleet
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[(at+len(b))%len(b)] ^= 1
	return b
}

func size(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

var theLies = []lie{
	{"nothing, and stays", nil, nil, io.EOF, false},
	{"half of a length", nil, func(l *lies) []byte { return []byte{0, 0} }, io.ErrUnexpectedEOF, false},
	{"half of a list", nil, func(l *lies) []byte { f := frame(l.lists[3]); return f[:len(f)/2] }, io.ErrUnexpectedEOF, false},
	{"a list without its last byte", nil, func(l *lies) []byte { f := frame(l.lists[3]); return f[:len(f)-1] }, io.ErrUnexpectedEOF, false},
	{"a list whose length is one too little", nil, func(l *lies) []byte { return append(size(uint32(len(l.lists[3])-1)), l.lists[3]...) }, chancery.ErrMalformed, true},
	{"a list with a byte too much", nil, func(l *lies) []byte { return frame(append(bytes.Clone(l.lists[3]), 0)) }, chancery.ErrMalformed, true},
	{"a length beyond the limit", nil, func(l *lies) []byte { return size(64<<20 + 1) }, chancery.ErrMalformed, true},
	{"the greatest length", nil, func(l *lies) []byte { return size(1<<32 - 1) }, chancery.ErrMalformed, true},
	{"no bytes at all", nil, func(l *lies) []byte { return size(0) }, chancery.ErrMalformed, true},
	{"junk", nil, func(l *lies) []byte { return frame([]byte(strings.Repeat("junk", 1000))) }, chancery.ErrMalformed, true},
	{"64 MiB of junk", nil, func(l *lies) []byte { return append(size(64<<20), make([]byte, 1<<20)...) }, chancery.ErrMalformed, true},
	{"an older list", nil, func(l *lies) []byte { return frame(l.lists[1]) }, gossip.ErrPromise, true},
	{"the list that is held", nil, func(l *lies) []byte { return frame(l.lists[2]) }, gossip.ErrPromise, true},
	{"the delta to the list that is held", nil, func(l *lies) []byte { return frame(l.deltas[2]) }, gossip.ErrPromise, true},
	{"a newer list than was said", nil, func(l *lies) []byte { return frame(l.lists[4]) }, gossip.ErrPromise, true},
	{"a delta from a list that is not held", func(h *says) { h.number = 4 }, func(l *lies) []byte { return frame(l.deltas[4]) }, chancery.ErrCRLGap, false},
	{"another fleet's list", nil, func(l *lies) []byte { return frame(l.other) }, chancery.ErrSignature, true},
	{"a list with a bit of its signature changed", nil, func(l *lies) []byte { return frame(flip(l.lists[3], -20)) }, nil, true},
	{"a list with a bit of its body changed", nil, func(l *lies) []byte { return frame(flip(l.lists[3], -1)) }, nil, true},
	{"a delta with a bit of its change changed", nil, func(l *lies) []byte { return frame(flip(l.deltas[3], -1)) }, nil, true},
	{"a record that is not there", func(h *says) { h.seq++ }, nil, io.EOF, false},
	{"a record beyond the limit", func(h *says) { h.seq++ }, func(l *lies) []byte { return size(64<<10 + 1) }, chancery.ErrMalformed, true},
	{"a record of junk", func(h *says) { h.seq++ }, func(l *lies) []byte { return frame([]byte("junk")) }, chancery.ErrMalformed, true},
	{"the record that is held for a newer one", func(h *says) { h.seq++ }, func(l *lies) []byte { return frame(l.trust.Pointer.Marshal()) }, gossip.ErrPromise, true},
	{"half of a record", func(h *says) { h.seq++ }, func(l *lies) []byte { f := frame(l.trust.Pointer.Marshal()); return f[:100] }, io.ErrUnexpectedEOF, false},
	{"a record that is forged, as it was said", nil, nil, chancery.ErrSignature, true},
}

// Whatever a liar sends, from either side, nothing changes for the node, and
// who sent what nobody honest sends is not talked to for a while.
func TestLiars(t *testing.T) {
	w, elsewhere := newWorld(t), newWorld(t)
	l := &lies{}
	l.lists[1] = w.Trust().CRL.Marshal()
	honest := w.enroll("honest")
	for n := 2; n <= 4; n++ {
		before := w.Trust().CRL
		l.lists[n] = w.publish()
		var err error
		if l.deltas[n], err = w.Trust().CRL.Delta(before); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere.publish()
	l.other, l.trust = elsewhere.publish(), w.Trust()
	honest.update(l.lists[2])
	held := honest.verifier.Trust()
	forged := *l.trust.Pointer
	forged.Seq++
	forged.Previous = l.trust.Pointer.Hash()
	forged.CRLURL = "https://evil.example"

	for _, test := range theLies {
		hello := as(l.trust)
		hello.number = 3
		var bytes []byte
		switch {
		case test.name == "a record that is forged, as it was said":
			hello.seq, hello.record = forged.Seq, forged.Hash()
			bytes = frame(forged.Marshal())
		case test.sends != nil:
			bytes = test.sends(l)
		}
		if test.hello != nil {
			test.hello(&hello)
		}
		speak := func(c net.Conn) {
			io.ReadFull(c, make([]byte, 112))
			c.Write(hello.bytes())
			c.Write(bytes)
		}
		t.Run(test.name+", dialled", func(t *testing.T) {
			victim := w.enrollAt("victim", held)
			address := impostor(t, speak)
			moved, err := victim.gossip.Exchange(t.Context(), address)
			if moved || err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("moved %t, %v; want %v", moved, err, test.want)
			}
			victim.wantTook(2)
			// The first time may be an accident, if it is not a forgery; the third is none.
			_, err = victim.gossip.Exchange(t.Context(), address)
			if shunned := errors.Is(err, gossip.ErrShunned); shunned != test.shunned {
				t.Errorf("again: %v, want shunned: %t", err, test.shunned)
			}
			victim.gossip.Exchange(t.Context(), address)
			if _, err = victim.gossip.Exchange(t.Context(), address); test.want != chancery.ErrCRLGap {
				checkIs(t, err, gossip.ErrShunned)
			}
			// Others are talked to meanwhile, and he is again later.
			if _, err := victim.ask(honest); err != nil {
				t.Errorf("an honest node: %v", err)
			}
			w.advance(11 * time.Minute)
			if _, err = victim.gossip.Exchange(t.Context(), address); errors.Is(err, gossip.ErrShunned) {
				t.Error("shunned for ever")
			}
			victim.wantTook(2)
		})
		t.Run(test.name+", dialling", func(t *testing.T) {
			victim := w.enrollAt("victim", held)
			s := dial(t, victim)
			s.Write(hello.bytes())
			s.Write(bytes)
			s.Conn.(interface{ CloseWrite() error }).CloseWrite()
			if told := s.rest(); len(told) > 112 {
				t.Errorf("the node answers with %d bytes", len(told))
			}
			victim.wantTook(2)
			s, err := tryDial(t, victim)
			if refused := err != nil; refused != test.shunned {
				t.Errorf("again: %v, want refused: %t", err, test.shunned)
			}
		})
	}
}

// A list that is good is taken, also from somebody who then goes wrong.
func TestTruthThenLie(t *testing.T) {
	w := newWorld(t)
	victim := w.enroll("victim")
	second := w.publish()
	trust := w.Trust()
	hello := as(trust)
	hello.number = 3
	address := impostor(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 112))
		c.Write(hello.bytes())
		c.Write(append(frame(second), frame(second)...))
	})
	moved, err := victim.gossip.Exchange(t.Context(), address)
	if !moved || !errors.Is(err, gossip.ErrPromise) {
		t.Errorf("moved %t, %v", moved, err)
	}
	victim.wantTook(2, "crl")
	_, err = victim.gossip.Exchange(t.Context(), address)
	checkIs(t, err, gossip.ErrShunned)
}

// A liar cannot pass what CA:SK did not sign by saying that he has another
// record; it may be an honest node's mistake, and so three of them are one.
func TestOtherRecordIsNoExcuse(t *testing.T) {
	w, elsewhere := newWorld(t), newWorld(t)
	victim := w.enroll("victim")
	elsewhere.publish()
	hello, list := as(w.Trust()), elsewhere.publish()
	hello.number, hello.seq, hello.record = 3, 0, [32]byte{1}
	address := impostor(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 112))
		c.Write(hello.bytes())
		c.Write(frame(list))
		io.Copy(io.Discard, c)
	})
	for range 3 {
		if _, err := victim.gossip.Exchange(t.Context(), address); err == nil || errors.Is(err, gossip.ErrShunned) {
			t.Errorf("%v", err)
		}
	}
	_, err := victim.gossip.Exchange(t.Context(), address)
	checkIs(t, err, gossip.ErrShunned)
	victim.wantTook(1)
}

// enrollAt enrols a node that holds something older than the newest.
func (w *world) enrollAt(name string, held chancery.Trust) *node {
	n := w.enroll(name)
	n.start(held)
	return n
}

// Hellos that are none.
func TestBadHello(t *testing.T) {
	w := newWorld(t)
	good := as(w.Trust())
	for name, hello := range map[string][]byte{
		"none":                 nil,
		"half of one":          good.bytes()[:56],
		"a byte is missing":    good.bytes()[:111],
		"an HTTP request":      []byte("GET / HTTP/1.1\r\nHost: here\r\n\r\n"),
		"a fleet that is none": make([]byte, 112),
	} {
		t.Run(name, func(t *testing.T) {
			n := w.enroll("n")
			s := dial(t, n)
			s.Write(hello)
			s.Conn.(interface{ CloseWrite() error }).CloseWrite()
			if told := s.rest(); len(told) > 0 {
				t.Errorf("the node answers with %x", told)
			}
			n.wantTook(1)
		})
	}
}

// One address has as many exchanges as eight at once and then one in two
// seconds; nodes that dial for sessions have their places.
func TestFlood(t *testing.T) {
	w := newWorld(t)
	n, peer := w.enroll("n"), w.enroll("peer")
	list := w.publish()
	n.update(list)
	peer.update(list)
	admitted := 0
	var silent []*stranger
	for range 50 {
		if s, err := tryDial(t, n); err == nil {
			admitted++
			silent = append(silent, s)
		}
	}
	if admitted != 8 {
		t.Errorf("%d connections were admitted, want 8", admitted)
	}
	if s, err := peer.mesh.Dial(t.Context(), "tcp", n.address(), "n"); err != nil {
		t.Errorf("a node among the flood: %v", err)
	} else {
		s.Close()
	}
	// All places are taken by those who say nothing. With time the address may
	// come again, and is told that there is no place.
	w.advance(time.Minute)
	s, err := tryDial(t, n)
	if err != nil {
		t.Fatal(err)
	}
	s.Write(as(w.Trust()).bytes())
	if told := s.rest(); len(told) > 0 {
		t.Errorf("nine exchanges at a time: told %x", told)
	}
	for _, s := range silent {
		s.Close()
	}
	eventually(t, func() bool {
		w.advance(time.Minute)
		moved, err := peer.ask(n)
		return err == nil && !moved
	})
	n.wantTook(2)
}

// Nobody holds an exchange open for longer than a minute, however slowly he
// goes on.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		g, err := gossip.New(gossip.Config{Trust: w.Trust, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		here, there := net.Pipe()
		var all sync.WaitGroup
		all.Go(func() {
			for _, b := range as(w.Trust()).bytes() {
				if _, err := there.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(5 * time.Second)
			}
		})
		began := time.Now()
		checkIs(t, g.Serve(here), os.ErrDeadlineExceeded)
		if took := time.Since(began); took != time.Minute {
			t.Errorf("after %s", took)
		}
		here.Close()
		all.Wait()
	})
}

// A peer that does not answer is given up with the caller's context, and
// nothing is held against it then.
func TestGivenUp(t *testing.T) {
	w := newWorld(t)
	n := w.enroll("n")
	heard := make(chan struct{}, 10)
	address := impostor(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 112))
		heard <- struct{}{}
		io.Copy(io.Discard, c)
	})
	for range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-heard; cancel() }()
		_, err := n.gossip.Exchange(ctx, address)
		checkIs(t, err, context.Canceled)
	}
}
