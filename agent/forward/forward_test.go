package forward_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/chancery-pki/chancery/agent/forward"
)

// Whatever a program sends arrives, in pieces of any size, and the end of one
// direction leaves the other one open.
func TestCarries(t *testing.T) {
	w := newWorld(t, options{})
	for _, size := range []int{0, 1, 511, 512, 513, 16 << 10, 32<<10 + 1, 3 << 20} {
		what := make([]byte, size)
		rand.Read(what)
		c := w.dial()
		go func() {
			for rest := what; len(rest) > 0; {
				n := min(len(rest), 1+mathrand.IntN(70_000))
				if _, err := c.Write(rest[:n]); err != nil {
					t.Error(err)
				}
				rest = rest[n:]
			}
			c.CloseWrite()
		}()
		heard, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(heard, what) {
			t.Errorf("%d bytes: heard %d, %v", size, len(heard), err)
		}
	}
	eventually(t, "nothing is carried any more", func() bool {
		return len(w.front.Connections())+len(w.back.Connections())+len(w.web.Sessions())+len(w.db.Sessions()) == 0
	})
}

// The program that is dialled may end first too, and what it sent arrives.
func TestFarEndFirst(t *testing.T) {
	w := newWorld(t, options{target: serve(t, func(c net.Conn) {
		io.WriteString(c, "and that is all")
		c.(*net.TCPConn).CloseWrite()
		heard, _ := io.ReadAll(c)
		if string(heard) != "thanks" {
			t.Errorf("heard %q", heard)
		}
	})})
	c := w.dial()
	if heard, err := io.ReadAll(c); err != nil || string(heard) != "and that is all" {
		t.Errorf("%q, %v", heard, err)
	}
	io.WriteString(c, "thanks")
	c.Close()
	eventually(t, "nothing is carried any more", func() bool { return len(w.back.Connections()) == 0 })
}

// A program that crashes is a reset at the other one, not an end.
func TestReset(t *testing.T) {
	far := make(chan net.Conn, 1)
	w := newWorld(t, options{target: serve(t, func(c net.Conn) {
		io.CopyN(c, c, 5)
		far <- c
		io.Copy(io.Discard, c)
	})})
	c := w.dial()
	if err := talks(c, "hello"); err != nil {
		t.Fatal(err)
	}
	there := <-far
	there.(*net.TCPConn).SetLinger(0)
	there.Close()
	isReset(t, c)
}

// Who is revoked loses the connections that are open, and gets no new ones.
func TestRevocation(t *testing.T) {
	w := newWorld(t, options{})
	c := w.dial()
	if err := talks(c, "hello"); err != nil {
		t.Fatal(err)
	}
	w.revoke(w.web, w.db)
	isReset(t, c)
	w.refused()
	if n := len(w.db.Sessions()); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// Without a rule that allows it nobody gets in.
func TestRules(t *testing.T) {
	for _, test := range []struct {
		rules []string
		in    bool
	}{
		{[]string{}, false},
		{[]string{"any"}, true},
		{[]string{"role:web"}, true},
		{[]string{"role:db"}, false},
		{[]string{"role:db", "name:web-*"}, true},
		{[]string{"role:web name:edge-*"}, false},
		{[]string{"role:web role:db"}, false},
		{[]string{"role:web name:web-[0-9]"}, true},
		{[]string{"name:web"}, false},
		{[]string{"assurance:quote-matched"}, false},
		{[]string{"hardware"}, false},
		{[]string{"role:web assurance:software"}, true},
	} {
		w := newWorld(t, options{rules: test.rules, roles: []string{"web"}})
		if !test.in {
			w.refused()
		} else if err := talks(w.dial(), "hello"); err != nil {
			t.Errorf("%q: %v", test.rules, err)
		}
	}
}

func TestParseRule(t *testing.T) {
	for _, s := range []string{"", " ", "role:", "role", "name:[", "assurance:high", "assurance:", "any role:web", "any:any", "Role:web", "hardware:yes", "role:WEB!"} {
		_, err := forward.ParseRule(s)
		if e, ok := errors.AsType[*forward.RuleError](err); !ok || e.Hint() == "" {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// New rules count for what is open already.
func TestSetRules(t *testing.T) {
	w := newWorld(t, options{rules: []string{"role:web"}, roles: []string{"web"}})
	c := w.dial()
	if err := talks(c, "hello"); err != nil {
		t.Fatal(err)
	}
	same, _ := forward.ParseRules([]string{"name:web-1"})
	if cut := w.back.SetRules(same); cut != 0 {
		t.Errorf("%d connections cut", cut)
	}
	if err := talks(c, "still there"); err != nil {
		t.Fatal(err)
	}
	if cut := w.back.SetRules(nil); cut != 1 {
		t.Errorf("%d connections cut", cut)
	}
	isReset(t, c)
	w.refused()
}

// A target that is not there is a reset.
func TestNoTarget(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	w := newWorld(t, options{target: l.Addr().String()})
	w.refused()
}

// One connection too many is reset, and there is room again when one ends.
func TestTooMany(t *testing.T) {
	w := newWorld(t, options{limits: forward.Limits{Connections: 2}})
	a, b := w.dial(), w.dial()
	for _, c := range []net.Conn{a, b} {
		if err := talks(c, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	w.refused()
	a.Close()
	eventually(t, "there is room", func() bool { return talks(w.dial(), "hello") == nil })
}

// Silence ends a connection, and a word now and then keeps it.
func TestIdle(t *testing.T) {
	const idle = 300 * time.Millisecond
	w := newWorld(t, options{limits: forward.Limits{Idle: idle}})
	c, silent := w.dial(), w.dial()
	if err := talks(silent, "hello"); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		isReset(t, silent)
	}()
	for {
		if err := talks(c, "x"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-over:
			return
		case <-time.After(idle / 20):
		}
	}
}

// A relay that stops takes no more, lets what is open end, and resets what
// does not.
func TestDrain(t *testing.T) {
	w := newWorld(t, options{limits: forward.Limits{Drain: soon}})
	ctx, cancel := context.WithCancel(context.Background())
	l, err := forward.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(w.back.Addr().String())
	for _, patient := range []bool{true, false} {
		limits := forward.Limits{Drain: soon}
		if !patient {
			limits.Drain = time.Millisecond
			ctx, cancel = context.WithCancel(context.Background())
			if l, err = forward.Listen("127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
		}
		r, err := forward.NewForward(l, w.dialer(), "db-1", port, limits, discard)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(soon))
		if err := talks(c, "hello"); err != nil {
			t.Fatal(err)
		}
		cancel()
		eventually(t, "it does not listen", func() bool {
			late, err := net.Dial("tcp", l.Addr().String())
			if err == nil {
				late.Close()
			}
			return err != nil
		})
		if patient {
			if err := talks(c, "goodbye"); err != nil {
				t.Error(err)
			}
			c.Close()
		} else {
			isReset(t, c)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// A program behind a relay is told who the peer is.
func TestProxyHeader(t *testing.T) {
	type said struct {
		*proxyproto.Header
		name string
		rest string
	}
	heard := make(chan said, 1)
	w := newWorld(t, options{proxy: true, target: serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		h, err := proxyproto.Read(r)
		if err != nil {
			t.Error(err)
			return
		}
		tlvs, err := h.TLVs()
		ssl, ok := tlvparse.FindSSL(tlvs)
		name, _ := ssl.ClientCN()
		if err != nil || !ok || !ssl.ClientSSL() || !ssl.ClientCertConn() || !ssl.Verified() {
			t.Errorf("%v %v: %+v", ok, err, ssl)
		}
		rest, _ := io.ReadAll(r)
		heard <- said{h, name, string(rest)}
	})})
	c := w.dial()
	io.WriteString(c, "and the rest")
	c.CloseWrite()
	io.ReadAll(c)
	got := <-heard
	source, destination, ok := got.TCPAddrs()
	if !ok || got.Version != 2 || got.Command != proxyproto.PROXY || !source.IP.Equal(net.IPv4(127, 0, 0, 1)) || destination.String() != w.back.Addr().String() {
		t.Errorf("%+v", got.Header)
	}
	if got.name != "web-1" || got.rest != "and the rest" {
		t.Errorf("of %q, with %q", got.name, got.rest)
	}
}

// Unix sockets at both sides; one that a crash left is replaced, one that is in
// use is not, and nor is a file.
func TestUnix(t *testing.T) {
	dir := t.TempDir()
	target, err := net.Listen("unix", filepath.Join(dir, "target"))
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	go func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	front := filepath.Join(dir, "front")
	left, err := net.Listen("unix", front)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	w := newWorld(t, options{front: "unix:" + front, target: "unix:" + target.Addr().String()})
	c, err := net.Dial("unix", front)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(soon))
	if err := talks(c, "hello"); err != nil {
		t.Error(err)
	}
	c.(*net.UnixConn).CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
	if l, err := forward.Listen("unix:" + front); err == nil {
		l.Close()
		t.Error("a socket in use was taken over")
	}
	if got := forward.Describe(w.front.Addr()); got != "unix:"+front {
		t.Error(got)
	}
}

// Who does not read holds up whoever writes to him, and nobody's memory grows.
func TestBackpressure(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, options{target: serve(t, func(c net.Conn) {
		<-release
		io.Copy(io.Discard, c)
	})})
	c := w.dial()
	c.SetWriteBuffer(64 << 10)
	c.SetWriteDeadline(time.Now().Add(2 * time.Second))
	chunk, sent := make([]byte, 1<<20), 0
	for sent < 1<<30 {
		n, err := c.Write(chunk)
		if sent += n; err != nil {
			break
		}
	}
	close(release)
	if sent >= 1<<30 {
		t.Errorf("%d bytes went to somebody who read none", sent)
	}
}

// Many at once, some of which break off wherever they are.
func TestMany(t *testing.T) {
	w := newWorld(t, options{})
	const n = 1000
	var all sync.WaitGroup
	var meet sync.WaitGroup // all of them are open at the same time
	meet.Add(n)
	for i := range n {
		all.Go(func() {
			c, err := net.Dial("tcp", w.front.Addr().String())
			if err != nil {
				t.Error(err)
				meet.Done()
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Minute))
			err = talks(c, fmt.Sprintf("this is %d", i))
			meet.Done()
			meet.Wait()
			if err == nil && i%3 > 0 {
				err = talks(c, "again")
			}
			if err != nil {
				t.Errorf("%d: %v", i, err)
			}
			if i%3 == 0 {
				c.(*net.TCPConn).SetLinger(0)
			}
		})
	}
	all.Wait()
	eventually(t, "nothing is carried any more", func() bool {
		return len(w.front.Connections())+len(w.back.Connections())+len(w.web.Sessions())+len(w.db.Sessions()) == 0
	})
}

// What is carried can be looked at.
func TestConnections(t *testing.T) {
	w := newWorld(t, options{})
	c := w.dial()
	if err := talks(c, "hello"); err != nil {
		t.Fatal(err)
	}
	for r, peer := range map[*forward.Relay]string{w.front: "db-1", w.back: "web-1"} {
		list := r.Connections()
		if len(list) != 1 || list[0].Peer != peer || list[0].In != 5 || list[0].Out != 5 || list[0].Relay != r.String() || list[0].Program == "" || list[0].Serial == "" {
			t.Errorf("%+v", list)
		}
	}
	if forward.Describe(c.LocalAddr()) != w.front.Connections()[0].Program {
		t.Error("another program")
	}
}

func TestParseAddress(t *testing.T) {
	for _, s := range []string{"", "unix:", "5432", "host"} {
		_, _, err := forward.ParseAddress(s)
		if e, ok := errors.AsType[*forward.AddressError](err); !ok || e.Hint() == "" {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// HTTP/2 has many requests under way on one connection, in both directions.
func TestHTTP2(t *testing.T) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("served by %s", r.Proto)
		}
		io.Copy(w, r.Body)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	w := newWorld(t, options{target: l.Addr().String()})
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			what := bytes.Repeat([]byte{byte(i)}, i*1000)
			resp, err := client.Post("http://"+w.front.Addr().String(), "", bytes.NewReader(what))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if heard, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(heard, what) {
				t.Errorf("%d: %d bytes, %v", i, len(heard), err)
			}
		})
	}
	all.Wait()
	if n := len(w.front.Connections()); n == 0 || n > 10 {
		t.Errorf("100 requests over %d connections", n)
	}
}

// A program that has said all and is gone before the answer has ended leaves
// nothing behind: neither the session that its connection was carried over, nor
// a connection in the list.
func TestGoneBeforeTheEnd(t *testing.T) {
	said, end := make(chan struct{}), make(chan struct{})
	w := newWorld(t, options{target: serve(t, func(c net.Conn) {
		io.Copy(io.Discard, c) // all of it, and then there is silence
		close(said)
		<-end
	})})
	c := w.dial()
	if err := errors.Join(c.CloseWrite(), c.SetLinger(0)); err != nil {
		t.Fatal(err)
	}
	<-said
	c.Close()
	close(end)
	eventually(t, "both ends of the session are gone", func() bool { return w.web.Stats().Live+w.db.Stats().Live == 0 })
	eventually(t, "no connection is carried", func() bool { return len(w.front.Connections())+len(w.back.Connections()) == 0 })
}
