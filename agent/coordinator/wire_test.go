package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// peer is a server that is told what to say, byte by byte.
func peer(t *testing.T, say func(conn net.Conn)) http.Client {
	t.Helper()
	lender := httptest.NewTLSServer(nil)
	lender.Close()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: lender.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		say(conn)
		io.Copy(io.Discard, conn)
	}()
	conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.NetConn().Close(); listener.Close(); <-done })
	return http.Client{Transport: newWire(conn), CheckRedirect: noRedirect}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// read waits for the end of a request without a body.
func read(conn net.Conn) {
	var all []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(all), "\r\n\r\n"); all = append(all, b[0]) {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

func get(client http.Client, body io.Reader) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://coordinator.example/", body)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, 100))
	return response.Status + " " + string(b), err
}

// What a server says on the one connection, and whether a second call can
// follow. Whatever leaves a doubt about where the next answer begins ends it.
func TestWire(t *testing.T) {
	for _, test := range []struct {
		name, says string
		want       string // "" is an error
		goesOn     bool
	}{
		{"an answer", ok, "200 OK ok", true},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "200 OK ok", true},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", "204 No Content ", true},
		{"interim responses", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + ok, "200 OK ok", true},
		{"endless interim responses", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100), "", false},
		{"goodbye", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "200 OK ok", false},
		{"two answers at once", ok + ok, "200 OK ok", false},
		{"more than is read", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat("x", 1000), "200 OK " + strings.Repeat("x", 100), false},
		{"a long header", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", "", false},
		{"many headers", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1<<18), "", false},
		{"junk", "SSH-2.0\r\n\r\n", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := peer(t, func(conn net.Conn) {
				read(conn)
				io.WriteString(conn, test.says)
				read(conn)
				io.WriteString(conn, ok)
			})
			got, err := get(client, nil)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("%.120q, %v, want %.120q", got, err, test.want)
			}
			got, err = get(client, nil)
			if test.goesOn && (err != nil || got != "200 OK ok") {
				t.Errorf("the next call: %q, %v", got, err)
			}
			if !test.goesOn && !errors.Is(err, ErrLost) {
				t.Errorf("the next call: %q, %v, want %v", got, err, ErrLost)
			}
		})
	}
}

// A server that refuses a request without reading it is heard.
func TestWireEarlyAnswer(t *testing.T) {
	client := peer(t, func(conn net.Conn) {
		io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
		conn.(*tls.Conn).CloseWrite()
	})
	if got, err := get(client, strings.NewReader(strings.Repeat("x", 8<<20))); err != nil || got != "413 Too Large no" {
		t.Errorf("%q, %v", got, err)
	}
}

// A call that waits for its turn can be given up, and the one under way goes
// on.
func TestWireTurn(t *testing.T) {
	heard, answer := make(chan struct{}), make(chan struct{})
	client := peer(t, func(conn net.Conn) {
		read(conn)
		close(heard)
		<-answer
		io.WriteString(conn, ok)
	})
	first := make(chan error)
	go func() {
		_, err := get(client, nil)
		first <- err
	}()
	<-heard
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://coordinator.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := client.Do(request); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v, want %v", response, err, context.Canceled)
	}
	close(answer)
	if err := <-first; err != nil {
		t.Error(err)
	}
}
