package tpm_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	encasn1 "encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/child"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// tss2Sample is the file of a key that an swtpm made, and tss2SampleKey its
// public key as the tpm2 provider printed it.
const (
	tss2Sample = `-----BEGIN TSS2 PRIVATE KEY-----
MIHzBgZngQUKAQOgAwEB/wIFAIEAAAEEWgBYACMACwAEBHIAAAAQABgACwADABAA
IBRGR5nOR0IXYrzp3SLMhmBeB7GTRvIQxdt117DddUNmACCPZENtBVM5X5diLdF/
cLfks3WtgcxCAMnE7eB77rwjRQSBgAB+ACBmykUpCMSyXFdvb3yZRtb/DhpyuMiW
Mna0MLuybeTWvgAQj/IGEXSwZvGj50Y83laygJ4AXIfDWIZFhQnbkEeTzPsqxh/A
WNyyjjh1Z6MusZ1xwGL2/LJFe8/lpU+NVY5MBH5eIxETIR76h61dZiiZ8Na7QPM4
co2my/Nh
-----END TSS2 PRIVATE KEY-----
`
	tss2SampleKey = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEFEZHmc5HQhdivOndIsyGYF4HsZNG
8hDF23XXsN11Q2aPZENtBVM5X5diLdF/cLfks3WtgcxCAMnE7eB77rwjRQ==
-----END PUBLIC KEY-----
`
)

const ownerHierarchy = 0x40000001

func TestTSS2(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	file := createKey(t, chip, nil)
	encoded := must(file.TSS2())(t)
	key := must(tpm.ParseTSS2(encoded))(t)
	if !bytes.Equal(key.Marshal(), encoded) {
		t.Error("the file has two encodings")
	}
	if !must(key.PublicKey())(t).Equal(must(file.PublicKey())(t)) {
		t.Error("the file is of another key")
	}
	if key.Parent != uint32(tpm.SRKHandle) {
		t.Errorf("parent %#x, want %#x", key.Parent, tpm.SRKHandle)
	}
	// What the file says is what the chip needs to load the key.
	parent := must(tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(key.Parent)}.Execute(chip.Raw()))(t)
	loaded := must(tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(key.Parent), Name: parent.Name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: key.Private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](key.Public),
	}.Execute(chip.Raw()))(t)
	must(tpm2.FlushContext{FlushHandle: loaded.ObjectHandle}.Execute(chip.Raw()))(t)

	sealed := createKey(t, chip, newApprover(t).sealing())
	_, err := sealed.TSS2()
	var advised interface{ Hint() string }
	if !errors.Is(err, tpm.ErrTSS2Sealed) || !errors.As(err, &advised) || !strings.Contains(advised.Hint(), "--unsealed") {
		t.Errorf("a sealed key: %v, want %v and its hint", err, tpm.ErrTSS2Sealed)
	}
	sealed.Seal = nil
	if _, err := sealed.TSS2(); !errors.Is(err, tpm.ErrKeyFile) {
		t.Errorf("a sealed key without its seal: %v, want %v", err, tpm.ErrKeyFile)
	}
}

func TestTSS2Sample(t *testing.T) {
	sample := []byte(tss2Sample)
	key := must(tpm.ParseTSS2(sample))(t)
	if !bytes.Equal(key.Marshal(), sample) {
		t.Errorf("marshalled again:\n%s", key.Marshal())
	}
	if !bytes.Equal(must(key.PublicKey())(t).SPKI(), decode(t, []byte(tss2SampleKey), "PUBLIC KEY")) {
		t.Error("another public key")
	}
	for n := range sample {
		if _, err := tpm.ParseTSS2(sample[:n]); !errors.Is(err, tpm.ErrTSS2) {
			t.Errorf("its first %d bytes: %v, want %v", n, err, tpm.ErrTSS2)
		}
		damaged := bytes.Clone(sample)
		damaged[n] ^= 0x10
		read, err := tpm.ParseTSS2(damaged)
		if err != nil {
			continue
		}
		if !bytes.Equal(read.Marshal(), damaged) {
			t.Errorf("byte %d changed: the file has two encodings", n)
		}
		if !bytes.Equal(read.Public, key.Public) {
			t.Errorf("byte %d changed gives another key", n)
		}
	}
}

// A tpmKey is the file's TPMKey field by field, to be put together wrongly.
type tpmKey struct {
	kind    encasn1.ObjectIdentifier
	options []byte // in DER
	parent  []byte // INTEGER
	public  []byte // TPM2B_PUBLIC
	private []byte // TPM2B_PRIVATE
	after   []byte // in DER
}

func (k tpmKey) der(t testing.TB) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(k.kind)
		b.AddBytes(k.options)
		b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(k.parent) })
		b.AddASN1OctetString(k.public)
		b.AddASN1OctetString(k.private)
		b.AddBytes(k.after)
	})
	return must(b.Bytes())(t)
}

func tss2PEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der})
}

// sized puts two bytes of length before a value.
func sized(value []byte) []byte {
	return append([]byte{byte(len(value) >> 8), byte(len(value))}, value...)
}

// The draft's other fields, and other encodings of ours, are refused.
func TestTSS2IsStrict(t *testing.T) {
	sample := must(tpm.ParseTSS2([]byte(tss2Sample)))(t)
	emptyAuth := []byte{0xa0, 3, 1, 1, 0xff}
	good := func() tpmKey {
		return tpmKey{
			kind:    encasn1.ObjectIdentifier{2, 23, 133, 10, 1, 3},
			options: bytes.Clone(emptyAuth),
			parent:  []byte{0, 0x81, 0, 0, 1},
			public:  sized(sample.Public),
			private: sized(sample.Private),
		}
	}
	der := good().der(t)
	if got := tss2PEM(der); string(got) != tss2Sample {
		t.Fatalf("put together rightly:\n%s\nwant:\n%s", got, tss2Sample)
	}

	for _, c := range []struct {
		what   string
		change func(*tpmKey)
		reason error
	}{
		{"importable key", func(k *tpmKey) { k.kind[5] = 4 }, nil},
		{"sealed data", func(k *tpmKey) { k.kind[5] = 5 }, nil},
		{"old OID", func(k *tpmKey) { k.kind = encasn1.ObjectIdentifier{2, 23, 133, 10, 2} }, nil},
		{"no emptyAuth", func(k *tpmKey) { k.options = nil }, nil},
		{"emptyAuth true in BER", func(k *tpmKey) { k.options[4] = 1 }, nil},
		{"emptyAuth implicit", func(k *tpmKey) { k.options = []byte{0x80, 1, 0xff} }, nil},
		{"emptyAuth with more", func(k *tpmKey) { k.options = []byte{0xa0, 6, 1, 1, 0xff, 1, 1, 0xff} }, nil},
		{"emptyAuth twice", func(k *tpmKey) { k.options = append(k.options, emptyAuth...) }, nil},
		{"policy", func(k *tpmKey) { k.options = append(k.options, 0xa1, 2, 0x30, 0) }, nil},
		{"secret", func(k *tpmKey) { k.options = append(k.options, 0xa2, 2, 4, 0) }, nil},
		{"authPolicy", func(k *tpmKey) { k.options = append(k.options, 0xa3, 2, 0x30, 0) }, nil},
		{"description", func(k *tpmKey) { k.options = append(k.options, 0xa4, 3, 0x0c, 1, 'x') }, nil},
		{"rsaParent", func(k *tpmKey) { k.options = append(k.options, 0xa5, 3, 1, 1, 0xff) }, nil},
		{"field of the future", func(k *tpmKey) { k.options = append(k.options, 0xa6, 2, 5, 0) }, nil},
		{"parent 0", func(k *tpmKey) { k.parent = []byte{0} }, nil},
		{"parent in memory", func(k *tpmKey) { k.parent = []byte{0, 0x80, 0, 0, 0} }, nil},
		{"parent in the endorsement hierarchy", func(k *tpmKey) { k.parent = []byte{0x40, 0, 0, 0x0b} }, nil},
		{"parent of 33 bits", func(k *tpmKey) { k.parent = []byte{1, 0x81, 0, 0, 1} }, nil},
		{"parent as some tools write it, negative", func(k *tpmKey) { k.parent = k.parent[1:] }, nil},
		{"parent with a zero too many", func(k *tpmKey) { k.parent = append([]byte{0}, k.parent...) }, nil},
		{"parent empty", func(k *tpmKey) { k.parent = nil }, nil},
		{"pubkey empty", func(k *tpmKey) { k.public = nil }, nil},
		{"pubkey without size", func(k *tpmKey) { k.public = sample.Public }, nil},
		{"pubkey with more", func(k *tpmKey) { k.public = append(k.public, 0) }, nil},
		{"pubkey of a restricted key", func(k *tpmKey) { k.public[2+5] |= 1 }, tpm.ErrAttribute},
		{"pubkey of a sealed key", func(k *tpmKey) {
			area := append(bytes.Clone(sample.Public[:7]), 0xb2) // adminWithPolicy for userWithAuth
			area = append(area, sized(make([]byte, 32))...)
			k.public = sized(append(area, sample.Public[10:]...))
		}, tpm.ErrTSS2Sealed},
		{"pubkey off the curve", func(k *tpmKey) { k.public[len(k.public)-1] ^= 1 }, tpm.ErrMalformed},
		{"privkey empty", func(k *tpmKey) { k.private = nil }, nil},
		{"privkey of no bytes", func(k *tpmKey) { k.private = sized(nil) }, nil},
		{"privkey without size", func(k *tpmKey) { k.private = sample.Private }, nil},
		{"privkey with more", func(k *tpmKey) { k.private = append(k.private, 0) }, nil},
		{"privkey too long", func(k *tpmKey) { k.private = sized(make([]byte, 1025)) }, nil},
		{"field after privkey", func(k *tpmKey) { k.after = []byte{5, 0} }, nil},
	} {
		k := good()
		c.change(&k)
		_, err := tpm.ParseTSS2(tss2PEM(k.der(t)))
		if !errors.Is(err, tpm.ErrTSS2) || c.reason != nil && !errors.Is(err, c.reason) {
			t.Errorf("%s: %v, want %v, reason %v", c.what, err, tpm.ErrTSS2, c.reason)
		}
	}

	body := der[3:] // a SEQUENCE with one byte of length in long form
	first, rest, _ := strings.Cut(tss2Sample, "\n")
	base64, last, _ := strings.Cut(rest, "-----")
	last = "-----" + last
	for what, file := range map[string][]byte{
		"nothing":                  nil,
		"DER":                      der,
		"a byte after the DER":     tss2PEM(append(bytes.Clone(der), 0)),
		"length in too many bytes": tss2PEM(append([]byte{0x30, 0x82, 0, byte(len(body))}, body...)),
		"indefinite length":        tss2PEM(append(append([]byte{0x30, 0x80}, body...), 0, 0)),
		"a SET":                    tss2PEM(append([]byte{0x31, 0x81, byte(len(body))}, body...)),
		"a PKCS #8 PEM type":       pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"a PEM header":             []byte(first + "\nA: b\n\n" + rest),
		"text before":              []byte("N:SK\n" + tss2Sample),
		"text after":               []byte(tss2Sample + "N:SK\n"),
		"twice":                    []byte(tss2Sample + tss2Sample),
		"CRLF":                     []byte(strings.ReplaceAll(tss2Sample, "\n", "\r\n")),
		"no last newline":          []byte(strings.TrimSuffix(tss2Sample, "\n")),
		"base64 in one line":       []byte(first + "\n" + strings.ReplaceAll(base64, "\n", "") + "\n" + last),
		"a blank line":             []byte(first + "\n\n" + rest),
		"5000 bytes":               []byte(tss2Sample + strings.Repeat("\n", 5000-len(tss2Sample))),
	} {
		if _, err := tpm.ParseTSS2(file); !errors.Is(err, tpm.ErrTSS2) {
			t.Errorf("%s: %v, want %v", what, err, tpm.ErrTSS2)
		}
	}
}

func FuzzParseTSS2(f *testing.F) {
	f.Add([]byte(tss2Sample))
	f.Add([]byte(tss2SampleKey))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := tpm.ParseTSS2(b)
		if err != nil {
			return
		}
		if !bytes.Equal(key.Marshal(), b) {
			t.Error("a TSS2 key has two encodings")
		}
		if _, err := key.PublicKey(); err != nil {
			t.Errorf("a TSS2 key without a key: %v", err)
		}
	})
}

// OpenSSL does with N:SK what it does with any key, also when the operator
// has set ownerAuth, and leaves the chip as it found it.
func TestTSS2OpenSSL(t *testing.T) {
	device := tpmtest.New(t)
	chip := device.Open(t)
	file := createKey(t, chip, nil)
	public := must(file.PublicKey())(t)
	setOwnerAuth(t, chip)
	closeChip(t, chip)
	o := newOpenSSL(t, device, must(file.TSS2())(t))

	spki := decode(t, o.run("pkey", "-in", "node.pem", "-pubout"), "PUBLIC KEY")
	if !bytes.Equal(spki, public.SPKI()) {
		t.Errorf("pkey: another public key: %x", spki)
	}

	o.write("message", []byte("to be signed"))
	sig := o.run("pkeyutl", "-sign", "-rawin", "-digest", "sha256", "-inkey", "node.pem", "-in", "message")
	digest := sha256.Sum256([]byte("to be signed"))
	if !ecdsa.VerifyASN1(public.ECDSA(), digest[:], sig) {
		t.Errorf("pkeyutl: the signature %x does not verify", sig)
	}

	request := must(x509.ParseCertificateRequest(decode(t,
		o.run("req", "-new", "-key", "node.pem", "-subj", "/CN=node"), "CERTIFICATE REQUEST")))(t)
	if err := request.CheckSignature(); err != nil {
		t.Errorf("req: %v", err)
	}
	wantKey(t, "req", request.PublicKey, public)

	certificate := o.run("req", "-x509", "-new", "-key", "node.pem", "-subj", "/CN=node", "-addext", "subjectAltName=DNS:node")
	o.write("certificate.pem", certificate)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(certificate) {
		t.Fatalf("req -x509: %s", certificate)
	}
	if n := o.loaded(); n != 0 {
		t.Errorf("openssl left %d objects and sessions in the chip", n)
	}

	server, address := o.serve()
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "node", MinVersion: tls.VersionTLS13}}
	conn, err := dialer.DialContext(o.context, "tcp", address)
	if err != nil {
		t.Fatalf("s_server: %v", err)
	}
	defer conn.Close()
	if deadline, ok := o.context.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	state := conn.(*tls.Conn).ConnectionState()
	if state.Version != tls.VersionTLS13 {
		t.Errorf("s_server: version %x", state.Version)
	}
	wantKey(t, "s_server", state.PeerCertificates[0].PublicKey, public)
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Error(err)
	}
	if page, err := io.ReadAll(conn); err != nil || !bytes.HasPrefix(page, []byte("HTTP/1.0 200")) {
		t.Errorf("s_server: %v: %.40q", err, page)
	}

	// A program that is killed cannot unload its key, and an swtpm has room
	// for three: the next owner makes room.
	server.Kill()
	if n := o.loaded(); n == 0 {
		t.Error("the killed server has no key in the chip; the next step shows nothing")
	}
	chip = device.Open(t)
	if n := transients(t, chip); n != 0 {
		t.Errorf("%d objects and sessions are in the opened chip", n)
	}
	wantSigns(t, "after openssl", chip, file)
}

// OpenSSL asks for the PIN of a key that has one, and signs with no other.
func TestTSS2PIN(t *testing.T) {
	device := tpmtest.New(t)
	chip := device.Open(t)
	file := must(chip.CreateKeyWithPIN(newPIN(t, secretPIN)))(t)
	public := must(file.PublicKey())(t)
	key := must(tpm.ParseTSS2(must(file.TSS2())(t)))(t)
	if !key.PIN {
		t.Error("the file does not say that the key asks for a PIN")
	}
	closeChip(t, chip)
	o := newOpenSSL(t, device, key.Marshal())
	o.write("message", []byte("to be signed"))
	sign := func(pin string) ([]byte, error) {
		return o.try("pkeyutl", "-sign", "-rawin", "-digest", "sha256", "-inkey", "node.pem", "-in", "message", "-passin", "pass:"+pin)
	}
	sig, err := sign(secretPIN)
	digest := sha256.Sum256([]byte("to be signed"))
	if err != nil || !ecdsa.VerifyASN1(public.ECDSA(), digest[:], sig) {
		t.Errorf("with the PIN: %v, signature %x", err, sig)
	}
	if sig, err := sign("another of 16 b."); err == nil {
		t.Errorf("another PIN: signature %x", sig)
	}
}

// Both parents are the same key. When ownerAuth is set, ours still serves and
// the owner hierarchy's cannot be made, which is why TSS2 writes ours.
func TestTSS2Parent(t *testing.T) {
	device := tpmtest.New(t)
	chip := device.Open(t)
	file := createKey(t, chip, nil)
	ours := must(tpm.ParseTSS2(must(file.TSS2())(t)))(t)
	owners := *ours
	owners.Parent = ownerHierarchy
	must(tpm.ParseTSS2(owners.Marshal()))(t)
	closeChip(t, chip)

	o := newOpenSSL(t, device, ours.Marshal())
	o.write("owner.pem", owners.Marshal())
	want := o.run("pkey", "-in", "node.pem", "-pubout")
	if got := o.run("pkey", "-in", "owner.pem", "-pubout"); !bytes.Equal(got, want) {
		t.Errorf("the owner hierarchy's key is another: %s", got)
	}

	chip = device.Open(t)
	setOwnerAuth(t, chip)
	closeChip(t, chip)
	if got := o.run("pkey", "-in", "node.pem", "-pubout"); !bytes.Equal(got, want) {
		t.Errorf("with ownerAuth set: %s", got)
	}
	badAuth := "0x000009a2" // TPM_RC_BAD_AUTH, session 1
	if got, err := o.try("pkey", "-in", "owner.pem", "-pubout"); err == nil || !strings.Contains(err.Error(), badAuth) {
		t.Errorf("with ownerAuth set, the owner hierarchy as parent: %v, want %s: %s", err, badAuth, got)
	}
}

// An openSSL runs the openssl program with Debian's tpm2-openssl on a chip.
type openSSL struct {
	t       *testing.T
	device  *tpmtest.TPM
	dir     string // with node.pem
	context context.Context
}

// newOpenSSL fails the test on a machine without the programs. The chip must
// not be open: an swtpm lets others wait while it has a client.
func newOpenSSL(t *testing.T, device *tpmtest.TPM, key []byte) *openSSL {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	o := &openSSL{t: t, device: device, dir: t.TempDir(), context: ctx}
	o.write("node.pem", key)
	// Version 1.1.1 of the provider also hashes in the chip. Without a resource
	// manager a chip has no room for the hashes of a TLS handshake, and with
	// one it is slow. TLS fetches some of them with the default properties,
	// which only a configuration file sets; -propquery does not reach them.
	o.write("tls.cnf", []byte(`openssl_conf = init
[init]
alg_section = algorithms
[algorithms]
default_properties = tpm2.digest!=yes
`))
	if out, err := o.try("list", "-providers"); err != nil || !bytes.Contains(out, []byte("tpm2")) {
		t.Fatalf("openssl has no tpm2 provider: apt-get install openssl tpm2-openssl: %v", err)
	}
	return o
}

func (o *openSSL) write(name string, content []byte) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), content, 0o600); err != nil {
		o.t.Fatal(err)
	}
}

func (o *openSSL) command(config string, args ...string) *exec.Cmd {
	args = append([]string{args[0], "-provider", "tpm2", "-provider", "default"}, args[1:]...)
	cmd := exec.CommandContext(o.context, "openssl", args...)
	cmd.Dir = o.dir
	cmd.Env = append(os.Environ(), "OPENSSL_CONF="+config, "TPM2OPENSSL_TCTI=swtpm:path="+o.device.Socket(), "TSS2_LOG=all+error")
	return cmd
}

func (o *openSSL) try(args ...string) ([]byte, error) {
	out, err := o.command(os.DevNull, args...).Output()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return out, errors.Join(err, errors.New(string(e.Stderr)))
	}
	return out, err
}

func (o *openSSL) run(args ...string) []byte {
	o.t.Helper()
	out, err := o.try(args...)
	if err != nil {
		o.t.Fatalf("openssl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// serve starts a TLS server with certificate.pem and returns its address.
func (o *openSSL) serve() (*child.Child, string) {
	o.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { r.Close() })
	cmd := o.command("tls.cnf", "s_server", "-key", "node.pem", "-cert", "certificate.pem", "-accept", "127.0.0.1:0", "-www")
	cmd.Stdout, cmd.Stderr = w, w
	server, err := child.Start(cmd)
	w.Close()
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		server.Kill()
		if rest, _ := io.ReadAll(r); o.t.Failed() {
			o.t.Logf("s_server: %s", rest)
		}
	})
	var said strings.Builder
	for lines := bufio.NewScanner(r); lines.Scan(); said.WriteString(lines.Text() + "\n") {
		if address, ok := strings.CutPrefix(lines.Text(), "ACCEPT "); ok {
			return server, address
		}
	}
	o.t.Fatalf("s_server does not accept: %s", said.String())
	return nil, ""
}

// loaded counts what is loaded in the chip, without opening it: that would
// unload it.
func (o *openSSL) loaded() int {
	o.t.Helper()
	conn := must(net.Dial("unix", o.device.Socket()))(o.t)
	defer conn.Close()
	chip, count := transport.FromReadWriter(conn), 0
	for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} {
		rsp := must(tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 64}.Execute(chip))(o.t)
		count += len(must(rsp.CapabilityData.Data.Handles())(o.t).Handle)
	}
	return count
}

func setOwnerAuth(t *testing.T, chip *tpm.TPM) {
	t.Helper()
	must(tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("taken")},
	}.Execute(chip.Raw()))(t)
}

func closeChip(t *testing.T, chip *tpm.TPM) {
	t.Helper()
	if err := chip.Close(); err != nil {
		t.Fatal(err)
	}
}

// decode returns the contents of a PEM file with one block.
func decode(t *testing.T, file []byte, kind string) []byte {
	t.Helper()
	block, rest := pem.Decode(file)
	if block == nil || block.Type != kind || len(rest) > 0 {
		t.Fatalf("not one PEM block of type %s: %s", kind, file)
	}
	return block.Bytes
}

func wantKey(t *testing.T, what string, got any, want chancery.PublicKey) {
	t.Helper()
	key, ok := got.(*ecdsa.PublicKey)
	if !ok || !key.Equal(want.ECDSA()) {
		t.Errorf("%s: key %v, want %v", what, got, want)
	}
}
