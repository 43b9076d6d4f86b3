package run

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
)

// spiffeSocket has the next start serve SPIFFE.
func (m *machine) spiffeSocket() string {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "spiffe.sock")
	dir := m.open()
	defer dir.Close()
	config, err := dir.Config()
	if err == nil {
		config.SPIFFESocket = path
		err = dir.SaveConfig(config)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return path
}

// source is what a program that knows SPIFFE has.
func (m *machine) source(socket string) *workloadapi.X509Source {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	s, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+socket)))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { s.Close() })
	return s
}

// Programs that know SPIFFE talk by its own library, each with the other's
// name, and go on when the certificates are new.
func TestSPIFFE(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{Life: 6 * time.Second})
	web, db := enrol(t, c, "web-1"), enrol(t, c, "db-1")
	webSocket, dbSocket := web.spiffeSocket(), db.spiffeSocket()
	web.startReady()
	db.startReady()
	webSource, dbSource := web.source(webSocket), db.source(dbSocket)
	domain, err := spiffeid.TrustDomainFromString(web.nodeCertificate().TrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	webID, dbID := spiffeid.RequireFromPath(domain, "/node/web-1"), spiffeid.RequireFromPath(domain, "/node/db-1")

	l, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(dbSource, dbSource, tlsconfig.AuthorizeID(webID)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
	dial := func(peer spiffeid.ID) error {
		conn, err := tls.Dial("tcp", l.Addr().String(), tlsconfig.MTLSClientConfig(webSource, webSource, tlsconfig.AuthorizeID(peer)))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err = io.WriteString(conn, "hello"); err == nil {
			err = conn.CloseWrite()
		}
		if err == nil {
			var b []byte
			if b, err = io.ReadAll(conn); err == nil && string(b) != "hello" {
				err = errors.New("it says " + string(b))
			}
		}
		return err
	}
	patience, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := map[string]bool{}
	for len(seen) < 3 { // certificates
		svid, err := webSource.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		if serial := svid.Certificates[0].SerialNumber.String(); !seen[serial] {
			seen[serial] = true
			if svid.ID != webID {
				t.Errorf("it is %s", svid.ID)
			}
			if err := dial(dbID); err != nil {
				t.Errorf("with certificate %d: %v", len(seen), err)
			}
		}
		if len(seen) < 3 {
			if err := webSource.WaitUntilUpdated(patience); err != nil {
				t.Fatal("there is no next certificate: ", err)
			}
		}
	}
	if err := dial(webID); err == nil {
		t.Error("db-1 passed for web-1")
	}
}

// The socket is there from the start on, and gone with the agent; without a
// coordinator programs that come get nothing, and those that came keep what
// they have.
func TestSPIFFEWithoutCoordinator(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	socket := m.spiffeSocket()
	c.Stop()
	m.start()
	client, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+socket))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.FetchX509SVID(t.Context()); err == nil || !strings.Contains(err.Error(), "Unavailable") {
		t.Errorf("without a coordinator: %v", err)
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end of the agent: %v", err)
	}
}

// A socket that cannot be had is said at the start.
func TestSPIFFESocketIsTaken(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	l, err := net.Listen("unix", m.spiffeSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := m.open()
	defer dir.Close()
	if err := Run(t.Context(), dir, m.options()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a socket that somebody has: %v", err)
	}
}
