package lint_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
)

// A published certificate is one of those that leave the coordinator or a node.
type published struct {
	name string
	der  []byte
}

// everything returns certificates of all kinds: N:C of each kind, alone and at
// all places of a batch, the CA's own, a session certificate, and both kinds for
// third parties.
func everything(t *testing.T) (list []published) {
	t.Helper()
	for _, k := range kinds {
		w, s := k.of(t)
		list = append(list, published{"N:C " + k.name, w.issue(0, s)[0].Raw()})
	}
	w := newWorld(t)
	for i, c := range w.issue(5, w.subject(), w.subject(), w.subject(), w.subject(), w.subject()) {
		list = append(list, published{fmt.Sprintf("N:C %d of a batch", i), c.Raw()})
	}
	ca, err := w.pointer.Current().CA()
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	cert, issuer := thirdParty(t)
	return append(list, published{"CA", der}, published{"session", session(t, w)}, published{"X.509 with a DNS name", cert}, published{"X.509 issuer", issuer})
}

// thirdParty returns the X.509 certificate of a node, and the issuer's own.
func thirdParty(t *testing.T) (cert, issuer []byte) {
	t.Helper()
	x := newX509(t, newKey(t).PublicKey())
	p := x.world.pointer
	tbs, _, err := chancery.NewX509CA(p, p.Current())
	if err != nil {
		t.Fatal(err)
	}
	own, err := x.issuer.Sign(t.Context(), p.FleetID(), tbs)
	if err != nil {
		t.Fatal(err)
	}
	key, err := chancery.ParsePublicKey(x.SPKI)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := chancery.NewX509(p, x.nc, key)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := x.issuer.Sign(t.Context(), p.FleetID(), leaf)
	if err != nil {
		t.Fatal(err)
	}
	return leaf.Certificate(sig), tbs.Certificate(own)
}

// session returns the certificate of a session key, which a node signs.
func session(t *testing.T, w *world) []byte {
	t.Helper()
	node, key := newKey(t), newKey(t)
	nc := w.issue(0, w.subject(func(s *chancery.Subject) { s.NodeKey = node.PublicKey() }))[0]
	tbs, err := chancery.NewSession(nc, key.PublicKey(), [16]byte{1}, nc.NotBefore, nc.NotBefore.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := node.Sign(context.Background(), w.pointer.FleetID(), tbs)
	if err != nil {
		t.Fatal(err)
	}
	return tbs.Certificate(chancery.P256, sig)
}

// notOurs are lints whose findings stand, and why. Those that find nothing any
// more have to go.
var notOurs = map[string]string{
	"w_distribution_point_missing_ldap_or_uri": "it wants LDAP or plain HTTP; a coordinator has one port, with TLS, and nodes take the list from there by its pin. " +
		"Others are given it as a file, so that nobody has to verify a certificate in order to get its list",
	"e_ext_authority_key_identifier_no_key_identifier": "RFC 5280 section 4.2.1.1 wants it to tell an issuer's keys apart. " +
		"A CA id has one key for ever, and so has the name of a node in its session's chain; the CA's certificate is signed by nobody (RFC 9925)",
	"e_ext_subject_key_identifier_missing_ca": "it is what the identifier above would refer to; the draft leaves it out or has it repeat " +
		"the CA id (Representing Certification Authorities), and its own examples leave it out",
	"w_ext_subject_key_identifier_missing_sub_cert": "a node certifies sessions by its key, which the verifier has; the identifier would cost 31 bytes a certificate",
}

// Zlint, the linter of public certification authorities, has nothing against
// what leaves a coordinator or a node.
func TestZLint(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "zlint")
	build := exec.Command("go", "build", "-C", "zlint", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\nthe first time it needs the Go module proxy", err, out)
	}
	list := everything(t)
	cmd := exec.Command(program)
	for i, c := range list {
		file := filepath.Join(dir, fmt.Sprintf("%d.der", i))
		if err := os.WriteFile(file, c.der, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Args = append(cmd.Args, file)
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var reports []struct {
		Applied  []string
		Error    string
		Findings []struct{ Lint, Status, Source, Citation, Details string }
	}
	if err := json.Unmarshal(out, &reports); err != nil || len(reports) != len(list) {
		t.Fatalf("%d reports of %d certificates, %v", len(reports), len(list), err)
	}
	found := map[string]bool{}
	t.Logf("%d lints looked at %s", len(reports[0].Applied), list[0].name)
	for i, r := range reports {
		if r.Error != "" || len(r.Applied) < 40 {
			t.Errorf("%s: %d lints looked at it: %s", list[i].name, len(r.Applied), r.Error)
		}
		for _, f := range r.Findings {
			found[f.Lint] = true
			if notOurs[f.Lint] == "" {
				t.Errorf("%s: %s %s: %s (%s, %s)", list[i].name, f.Status, f.Lint, f.Details, f.Source, f.Citation)
			}
		}
	}
	for name := range notOurs {
		if !found[name] {
			t.Errorf("%s finds nothing", name)
		}
	}
}

// Programs that know nothing of the draft read every certificate: the
// signature's algorithm is all that they do not know.
func TestOthersParse(t *testing.T) {
	for _, c := range everything(t) {
		if _, err := x509.ParseCertificate(c.der); err != nil {
			t.Errorf("%s: crypto/x509: %v", c.name, err)
		}
		text := openssl(t, c, "x509", "-noout", "-text", "-nameopt", "RFC2253")
		for _, want := range expected(c.name) {
			if !strings.Contains(text, want) {
				t.Errorf("%s: openssl prints no %q:\n%s", c.name, want, text)
			}
		}
		openssl(t, c, "asn1parse")
		if again := openssl(t, c, "x509", "-outform", "DER"); !bytes.Equal([]byte(again), c.der) {
			t.Errorf("%s: openssl writes other bytes", c.name)
		}
	}
}

// expected is what the text of a certificate has to have.
func expected(name string) []string {
	switch {
	case name == "CA":
		return []string{"CA:TRUE", "Certificate Sign"}
	case name == "X.509 issuer":
		return []string{"CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "Not After : Dec 31 23:59:59 9999 GMT", "CN=Chancery X.509 issuer 32473.1."}
	case name == "X.509 with a DNS name":
		return append(expected("N:C"), "Subject: CN=edge-1", "DNS:edge-1.nodes.example", "Signature Algorithm: ecdsa-with-SHA256", "URI:https://one.example:8443/crl/x509/32473.1.")
	case strings.HasSuffix(name, "with a DNS name"):
		return append(expected("N:C"), "Subject: CN=edge-1", "URI:spiffe://fleet.example/node/edge-1, DNS:edge-1.nodes.fleet.example")
	}
	return []string{"Version: 3", "CA:FALSE", "X509v3 Key Usage: critical\n                Digital Signature\n", "TLS Web Server Authentication, TLS Web Client Authentication", "URI:spiffe://"}
}

// openssl runs the program on the certificate.
func openssl(t *testing.T, c published, args ...string) string {
	t.Helper()
	cmd := exec.Command("openssl", slices.Concat(args, []string{"-inform", "PEM"})...)
	cmd.Stdin = bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.der}))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: openssl %s: %v: %s (make deps-test installs it)", c.name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}
