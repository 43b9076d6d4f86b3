package issuer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/internal/child"
)

// patience is how long a third party may take. It is not a measure.
const patience = time.Minute

// openssl runs openssl and returns all that it says.
func (w *world) openssl(args ...string) (string, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", args...)
	cmd.Dir = w.dir
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		w.t.Fatalf("%v: install openssl (make deps-test)", err)
	}
	return string(out), err
}

// verify has openssl verify a certificate with the lists of a file; it returns
// why it is not good, "" if it is.
func (w *world) verify(c *companion, lists string, flags ...string) string {
	w.t.Helper()
	args := append([]string{"verify", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", lists}, flags...)
	out, err := w.openssl(append(args, c.file)...)
	if err == nil {
		return ""
	}
	_, reason, found := strings.Cut(out, "lookup: ")
	if !found {
		w.t.Fatalf("openssl verify: %v\n%s", err, out)
	}
	reason, _, _ = strings.Cut(reason, "\n")
	return reason
}

// OpenSSL verifies the list, finds in it what was revoked, and takes a partition
// for what is in its range and nothing else.
func TestOpenSSL(t *testing.T) {
	const block = chancery.X509PartitionSpan
	w := newWorld(t, block+10)
	good, bad, far := w.companion(1), w.companion(2), w.companion(block+3)
	w.revoke(chancery.ReasonKeyCompromise, bad.index, far.index)
	all, first, second := w.export("all.pem", w.all()), w.export("first.pem", w.partition(0)), w.export("second.pem", w.partition(1))
	both := w.export("both.pem", w.partition(0), w.partition(1))

	for file, wants := range map[string][]string{
		all:    {"Key Compromise", "01000000000002", "01000000010003", "X509v3 CRL Number"},
		second: {"01000000010003", "X509v3 Issuing Distribution Point: critical", "URI:" + w.points(1)[0], "URI:" + w.points(1)[1]},
	} {
		out, err := w.openssl("crl", "-in", file, "-CAfile", "ca.pem", "-noout", "-text")
		if err != nil || !strings.Contains(out, "verify OK") {
			t.Errorf("openssl crl: %v\n%s", err, out)
		}
		for _, want := range wants {
			if !strings.Contains(strings.ReplaceAll(out, ":", ""), strings.ReplaceAll(want, ":", "")) {
				t.Errorf("there is no %q in\n%s", want, out)
			}
		}
	}
	const revoked, none = "certificate revoked", "different CRL scope"
	for _, test := range []struct {
		what  string
		cert  *companion
		lists string
		want  string
		flags []string
	}{
		{"good, all", good, all, "", nil},
		{"revoked, all", bad, all, revoked, nil},
		{"revoked in the other block, all", far, all, revoked, nil},
		{"good, its partition", good, first, "", nil},
		{"revoked, its partition", bad, first, revoked, nil},
		{"revoked in the other block, its partition", far, second, revoked, nil},
		{"good, the wrong partition", good, second, none, nil},
		{"revoked, the wrong partition", bad, second, none, nil},
		{"good, both partitions", good, both, "", nil},
		{"revoked, both partitions", far, both, revoked, nil},
		{"good, the issuer's certificate too", good, all, "", []string{"-crl_check_all"}},
		{"good, the issuer's certificate too, which is on no partition", good, both, none, []string{"-crl_check_all"}},
		{"good, by the standard to the letter", good, all, "", []string{"-x509_strict"}},
		{"good, its partition by the standard to the letter", good, first, "", []string{"-x509_strict"}},
	} {
		if got := w.verify(test.cert, test.lists, test.flags...); got != test.want {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}

	// What somebody has changed, or has let get old, is no list.
	l, _ := w.list(w.all())
	forged := bytes.Replace(l.DER, []byte{1, 0, 0, 0, 0, 0, 2}, []byte{1, 0, 0, 0, 0, 0, 4}, 1)
	if got := w.verify(bad, w.write("forged.pem", "X509 CRL", forged)); got != "CRL signature failure" {
		t.Errorf("a list with another serial number in it: %q", got)
	}
	if got := w.verify(good, all, "-attime", w.unix(2*time.Hour)); got != "CRL has expired" {
		t.Errorf("a list that is old: %q", got)
	}
}

func (w *world) unix(later time.Duration) string {
	return big.NewInt(w.Clock.Now().Add(later).Unix()).String()
}

// Go verifies the list, and finds in it what was revoked.
func TestGo(t *testing.T) {
	w := newWorld(t, 10)
	good, bad := w.companion(1), w.companion(2)
	w.revoke(chancery.ReasonCessationOfOperation, bad.index)
	for _, part := range []issuer.Part{w.all(), w.partition(0)} {
		l, list := w.list(part) // has CheckSignatureFrom in it
		for _, c := range []*companion{good, bad} {
			if !bytes.Equal(list.RawIssuer, c.cert.RawIssuer) || !bytes.Equal(list.AuthorityKeyId, c.cert.AuthorityKeyId) {
				t.Errorf("the list is of %x, key %x; the certificate of %x, key %x", list.RawIssuer, list.AuthorityKeyId, c.cert.RawIssuer, c.cert.AuthorityKeyId)
			}
			listed := slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(c.cert.SerialNumber) == 0 })
			if listed != (c == bad) {
				t.Errorf("certificate %s is listed: %v", c.cert.SerialNumber, listed)
			}
		}
		l.DER[len(l.DER)-1] ^= 1
		if forged, err := x509.ParseRevocationList(l.DER); err == nil && forged.CheckSignatureFrom(w.cert) == nil {
			t.Error("a list with another signature verifies")
		}
		l.DER[len(l.DER)-1] ^= 1
	}
}

// nginx lets the client in, and as soon as it has the list that names it, it
// does not. It looks for the issuer's own certificate on a list, too, and takes
// none but the list of all for that.
func TestNginx(t *testing.T) {
	w := newWorld(t, 10)
	server, good, bad := w.companion(1), w.companion(2), w.companion(9)
	w.export("crl.pem", w.all())
	n := w.nginx(server)
	for _, c := range []*companion{good, bad} {
		if err := n.get(c); err != nil {
			t.Errorf("before the revocation, certificate %d: %v", c.index, err)
		}
	}
	if err := n.get(nil); err == nil {
		t.Error("who shows no certificate gets in")
	}
	w.revoke(chancery.ReasonKeyCompromise, bad.index)
	w.export("crl.pem", w.all())
	n.reload()
	for deadline := time.Now().Add(patience); n.get(bad) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("after the revocation it still gets in")
		}
	}
	if err := n.get(good); err != nil {
		t.Errorf("after the revocation of another: %v", err)
	}
}

// An nginx listens on a socket with a certificate, and asks for another one.
type nginx struct {
	w       *world
	process *child.Child
	config  string
}

func (w *world) nginx(server *companion) *nginx {
	w.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(server.key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("server.key", "PRIVATE KEY", der)
	config := strings.NewReplacer("DIR", w.dir, "CERT", server.file).Replace(`
daemon off;
master_process on;
pid DIR/nginx.pid;
error_log stderr notice;
events {}
http {
	access_log off;
	client_body_temp_path DIR; proxy_temp_path DIR; fastcgi_temp_path DIR; uwsgi_temp_path DIR; scgi_temp_path DIR;
	server {
		listen unix:DIR/s ssl;
		ssl_certificate CERT;
		ssl_certificate_key DIR/server.key;
		ssl_client_certificate DIR/ca.pem;
		ssl_verify_client on;
		ssl_crl DIR/crl.pem;
		return 200 in;
	}
}
`)
	n := &nginx{w: w, config: w.file("nginx.conf", []byte(config))}
	path, err := exec.LookPath("nginx")
	if err != nil {
		if path = "/usr/sbin/nginx"; !exists(path) { // which is not in everybody's PATH
			w.t.Fatalf("%v: install nginx (make deps-test)", err)
		}
	}
	cmd := exec.Command(path, "-e", "stderr", "-p", w.dir, "-c", n.config)
	log, err := os.Create(filepath.Join(w.dir, "log"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close() // the process has its own
	cmd.Stderr = log
	if n.process, err = child.Start(cmd); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { n.process.Stop(patience) })
	for deadline := time.Now().Add(patience); !exists(filepath.Join(w.dir, "s")); time.Sleep(10 * time.Millisecond) {
		select {
		case <-n.process.Done():
			b, _ := os.ReadFile(log.Name())
			w.t.Fatalf("nginx ended: %s", b)
		default:
		}
		if time.Now().After(deadline) {
			w.t.Fatal("nginx does not listen")
		}
	}
	return n
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// reload has nginx read its files again.
func (n *nginx) reload() {
	n.w.t.Helper()
	if err := syscall.Kill(n.process.PID(), syscall.SIGHUP); err != nil {
		n.w.t.Fatal(err)
	}
}

// get asks nginx with the certificate of a companion, over a new connection.
func (n *nginx) get(c *companion) error {
	roots := x509.NewCertPool()
	roots.AddCert(n.w.cert)
	config := &tls.Config{RootCAs: roots, ServerName: "node.example"}
	if c != nil {
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{c.cert.Raw}, PrivateKey: c.key}}
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.w.dir, "s"))
	}}}
	resp, err := client.Get("https://node.example/")
	if err != nil {
		n.w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || string(b) != "in" {
		return fmt.Errorf("%s: %s", resp.Status, b)
	}
	return nil
}
