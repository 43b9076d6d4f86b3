package tpm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	legacy "github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/swtpm"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// These tests hold package tpm, with an swtpm, against programs that share no
// code with it: Debian's tpm2-tools and openssl. They accept what is good and
// refuse what is not. go-tpm-tools' server is asked by package secondopinion,
// and paper chips have such tests of their own.

// A toolbox is a directory that programs of other people work in.
type toolbox struct {
	t       *testing.T
	dir     string
	tcti    string // the chip that tools may use; empty: none
	context context.Context
}

// newToolbox makes one with files in it. The chip, if there is one, must not be
// open while a tool uses it: an swtpm has one client.
func newToolbox(t *testing.T, chip *tpmtest.TPM, files map[string][]byte) *toolbox {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	b := &toolbox{t: t, dir: t.TempDir(), tcti: "none", context: ctx}
	if chip != nil {
		b.tcti = "swtpm:path=" + chip.Socket()
	}
	for name, content := range files {
		b.write(name, content)
	}
	return b
}

func (b *toolbox) write(name string, content []byte) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), content, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *toolbox) read(name string) []byte {
	b.t.Helper()
	return must(os.ReadFile(filepath.Join(b.dir, name)))(b.t)
}

// try runs a program and returns what it says. A machine that does not have it
// fails the test.
func (b *toolbox) try(name string, args ...string) (string, error) {
	b.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		b.t.Fatalf("%v: apt-get install tpm2-tools openssl (make deps-test)", err)
	}
	cmd := exec.CommandContext(b.context, path, args...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+b.tcti, "TSS2_LOG=all+error", "OPENSSL_CONF="+os.DevNull)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (b *toolbox) run(name string, args ...string) string {
	b.t.Helper()
	out, err := b.try(name, args...)
	if err != nil {
		b.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// wantRefused runs a program that must end with a failure and say why.
func (b *toolbox) wantRefused(what, why, name string, args ...string) {
	b.t.Helper()
	out, err := b.try(name, args...)
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || !e.Exited() || !strings.Contains(out, why) {
		b.t.Errorf("%s: %s %s: %v, want a failure that says %q\n%s", what, name, strings.Join(args, " "), err, why, out)
	}
}

func publicPEM(key chancery.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key.SPKI()})
}

// TestToolsCheckQuote has tpm2_checkquote verify a quote with its PCR values,
// under both forms in which it takes the attestation key.
func TestToolsCheckQuote(t *testing.T) {
	chip := tpmtest.New(t).Open(t)
	if err := chip.ExtendPCR(7, measurement); err != nil {
		t.Fatal(err)
	}
	ak, nonce := must(chip.AK())(t), [32]byte{4, 2}
	quote, values, err := chip.Quote([]int{0, 2, 4, 7}, nonce)
	if err != nil {
		t.Fatal(err)
	}
	var pcrs []byte
	for _, pcr := range values.Numbers() {
		value := values[pcr]
		pcrs = append(pcrs, value[:]...)
	}
	// The last byte is of the signature's s, or of the value of PCR 7.
	flipped := func(b []byte) []byte { return append(bytes.Clone(b[:len(b)-1]), b[len(b)-1]^1) }
	b := newToolbox(t, nil, map[string][]byte{
		"ak.pem": publicPEM(attestationKey(t, chip).Key()), "ak.tpm2b": sized(ak.Public),
		"stranger.pem": publicPEM(newApprover(t).key),
		"quote":        quote.Attest, "signature": quote.Signature, "pcrs": pcrs,
		"forged": flipped(quote.Signature), "lied": flipped(pcrs),
	})
	args := func(key, signature, pcrs string, nonce [32]byte) []string {
		return []string{"-u", key, "-m", "quote", "-s", signature, "-g", "sha256", "-f", pcrs, "-l", "sha256:0,2,4,7", "-q", hex.EncodeToString(nonce[:])}
	}
	for _, key := range []string{"ak.pem", "ak.tpm2b"} {
		b.run("tpm2_checkquote", args(key, "signature", "pcrs", nonce)...)
		b.wantRefused("another nonce", "nonce", "tpm2_checkquote", args(key, "signature", "pcrs", [32]byte{4, 3})...)
		b.wantRefused("another signature", "signature", "tpm2_checkquote", args(key, "forged", "pcrs", nonce)...)
		b.wantRefused("other values", "PCR", "tpm2_checkquote", args(key, "signature", "lied", nonce)...)
	}
	b.wantRefused("another key", "signature", "tpm2_checkquote", args("stranger.pem", "signature", "pcrs", nonce)...)
}

// The magic number and the version at the start of a file of
// tpm2_makecredential.
var credentialHeader = []byte{0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1}

// TestToolsCredential takes credentials both ways, for each kind of endorsement
// key: the chip activates through package tpm what tpm2_makecredential made,
// and through tpm2_activatecredential what package tpm made. An swtpm shows the
// kind for which it holds a certificate, so these are removed one by one;
// L-2 is made anew for each use.
func TestToolsCredential(t *testing.T) {
	process := tpmtest.New(t)
	for _, test := range []struct {
		template, algorithm string
		policy              bool           // its use needs PolicySecret(endorsement)
		remove              tpm2.TPMHandle // certificate to remove afterwards
	}{
		{"H-3 (ECC P-384)", "ecc384", false, 0x01c00016},
		{"L-1 (RSA 2048)", "rsa", true, 0x01c00002},
		{"L-2 (ECC P-256)", "ecc", true, 0},
	} {
		t.Run(test.template, func(t *testing.T) {
			chip := process.Open(t)
			ek, ak := must(chip.EK())(t), must(chip.AK())(t)
			key := must(tpm.ParseEndorsementKey(ek.Public))(t)
			if key.Template() != test.template {
				t.Fatalf("EK is %s", key.Template())
			}
			secret := []byte("thirty-two bytes, that only the ")
			b := newToolbox(t, process, map[string][]byte{"ek": sized(ek.Public), "secret": secret})

			b.run("tpm2_makecredential", "-T", "none", "-u", "ek", "-s", "secret", "-n", ak.Name.String(), "-o", "theirs")
			theirs := cryptobyte.String(b.read("theirs"))
			var credential, encrypted cryptobyte.String
			if !bytes.HasPrefix(theirs, credentialHeader) || !theirs.Skip(len(credentialHeader)) ||
				!theirs.ReadUint16LengthPrefixed(&credential) || !theirs.ReadUint16LengthPrefixed(&encrypted) || !theirs.Empty() {
				t.Fatalf("tpm2_makecredential wrote %x", b.read("theirs"))
			}
			if got, err := chip.Activate(credential, encrypted); err != nil || !bytes.Equal(got, secret) {
				t.Errorf("activated %q (%v), want %q", got, err, secret)
			}

			ours, sent, err := key.MakeCredential(ak.Name, secret)
			if err != nil {
				t.Fatal(err)
			}
			stray, straySent, err := key.MakeCredential(tpm.Name{0, 0x0b, 1}, secret)
			if err != nil {
				t.Fatal(err)
			}
			if test.remove != 0 {
				undefinePlatform(t, chip, test.remove)
			}
			closeChip(t, chip)
			b.write("ours", append(append(bytes.Clone(credentialHeader), sized(ours)...), sized(sent)...))
			b.write("stray", append(append(bytes.Clone(credentialHeader), sized(stray)...), sized(straySent)...))

			// Their EK is made from their template, and must be ours.
			b.run("tpm2_createek", "-G", test.algorithm, "-c", "ek.context", "-u", "their-ek")
			if their := b.read("their-ek"); !bytes.Equal(their, sized(ek.Public)) {
				t.Errorf("tpm2_createek made another endorsement key: %x", their)
			}
			b.flush("-t")
			if out := b.activate("ours", test.policy); out != string(secret) {
				t.Errorf("tpm2_activatecredential activated %q, want %q", out, secret)
			}
			b.wantNotActivated("a credential for another AK", "stray", test.policy)
		})
	}
}

// flush has a tool empty the chip, which has no resource manager: each tool
// leaves what it loaded.
func (b *toolbox) flush(what string) {
	b.t.Helper()
	b.run("tpm2_flushcontext", what)
}

// activation is the command line that activates a credential with the EK of
// ek.context and the persistent AK. The tool saves the session that it used.
func (b *toolbox) activation(credential string, policy bool) (args []string, done func()) {
	b.t.Helper()
	args = []string{"-c", fmt.Sprintf("%#x", uint32(tpm.AKHandle)), "-C", "ek.context", "-i", credential, "-o", "activated"}
	if !policy {
		return args, func() { b.flush("-t") }
	}
	b.run("tpm2_startauthsession", "--policy-session", "-S", "session")
	b.run("tpm2_policysecret", "-S", "session", "-c", "e")
	return append(args, "-P", "session:session"), func() {
		b.flush("session")
		b.flush("-t")
	}
}

func (b *toolbox) activate(credential string, policy bool) string {
	b.t.Helper()
	args, done := b.activation(credential, policy)
	defer done()
	b.run("tpm2_activatecredential", args...)
	return string(b.read("activated"))
}

func (b *toolbox) wantNotActivated(what, credential string, policy bool) {
	b.t.Helper()
	args, done := b.activation(credential, policy)
	defer done()
	b.wantRefused(what, "integrity", "tpm2_activatecredential", args...)
}

// TestToolsPrint has tpm2_print say what it makes of the structures.
func TestToolsPrint(t *testing.T) {
	qualifying := [32]byte{5}
	e := collect(t, newApprover(t), qualifying)
	srk := must(tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(tpm.SRKHandle)}.Execute(e.chip.Raw()))(t)
	b := newToolbox(t, nil, map[string][]byte{
		"ek": sized(must(e.chip.EK())(t).Public), "ak": sized(must(e.chip.AK())(t).Public), "srk": sized(srk.OutPublic.Bytes()),
		"sealed": sized(e.file.Public), "unsealed": sized(createKey(t, e.chip, nil).Public), "quote": e.quote.Attest,
	})
	policy, pcrs := e.node.Policy, e.values.Digest()
	for _, test := range []struct {
		kind, file string
		says       []string
	}{
		{"TPM2B_PUBLIC", "ek", []string{"value: sha384", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt", "value: NIST p384", "value: cfb"}},
		{"TPM2B_PUBLIC", "ak", []string{"value: sha256", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign", "value: ecdsa", "value: NIST p256"}},
		{"TPM2B_PUBLIC", "srk", []string{"fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt", "value: NIST p256", "value: cfb"}},
		{"TPM2B_PUBLIC", "sealed", []string{"fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|noda|sign", "value: ecdsa", "value: NIST p256", hex.EncodeToString(policy[:])}},
		{"TPM2B_PUBLIC", "unsealed", []string{"fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign", "value: ecdsa", "value: NIST p256"}},
		{"TPMS_ATTEST", "quote", []string{
			"magic: ff544347", "type: 8018", "extraData: " + hex.EncodeToString(qualifying[:]), "safe: 1", "pcrDigest: " + hex.EncodeToString(pcrs[:]),
		}},
	} {
		out := b.run("tpm2_print", "-t", test.kind, test.file)
		for _, want := range test.says {
			if !strings.Contains(out, want) {
				t.Errorf("tpm2_print of %s does not say %q:\n%s", test.file, want, out)
			}
		}
	}
}

// TestOtherAttestations is of those that tpm2-tools 5.4 do not know: tpm2_print
// gives up after the common part of what TPM2_CertifyCreation and
// TPM2_NV_Certify return, and tpm2_checkquote takes neither. go-tpm's older
// package reads the first, and openssl verifies the signatures of both.
func TestOtherAttestations(t *testing.T) {
	approver, qualifying := newApprover(t), [32]byte{5}
	e := collect(t, approver, qualifying)
	b := newToolbox(t, nil, map[string][]byte{"ak.pem": publicPEM(e.ak.Key()), "stranger.pem": publicPEM(approver.key)})
	for what, a := range map[string]tpm.Attestation{"creation": e.creation, "counter": e.counter} {
		ecc := must(must(tpm2.Unmarshal[tpm2.TPMTSignature](a.Signature))(t).Signature.ECDSA())(t)
		r, s := new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer)
		b.write(what, a.Attest)
		b.write(what+".sig", must(chancery.NewSignature(chancery.P256, r, s))(t).ASN1())
		signer := must(tpm2.Unmarshal[tpm2.TPMSAttest](a.Attest))(t).QualifiedSigner
		verify := func(key string) []string {
			return []string{"dgst", "-sha256", "-verify", key, "-signature", what + ".sig", what}
		}
		b.run("openssl", verify("ak.pem")...)
		printed, _ := b.try("tpm2_print", "-t", "TPMS_ATTEST", what)
		for _, want := range []string{
			"magic: ff544347", "type: " + hex.EncodeToString(a.Attest[4:6]), "qualifiedSigner: " + hex.EncodeToString(signer.Buffer),
			"extraData: " + hex.EncodeToString(qualifying[:]), "safe: 1",
		} {
			if !strings.Contains(printed, want) {
				t.Errorf("tpm2_print of the %s does not say %q:\n%s", what, want, printed)
			}
		}
		b.wantRefused(what+" under another key", "Verification failure", "openssl", verify("stranger.pem")...)
	}

	attest := must(legacy.DecodeAttestationData(e.creation.Attest))(t)
	hash := sha256.Sum256(e.file.CreationData)
	info := attest.AttestedCreationInfo
	if info == nil || !bytes.Equal(attest.ExtraData, qualifying[:]) || !bytes.Equal(info.OpaqueDigest, hash[:]) {
		t.Fatalf("the attestation of the creation is %+v", attest)
	}
	if name := must(info.Name.Digest.Encode())(t); !bytes.Equal(name, e.node.Name[:]) {
		t.Errorf("it is of object %x, not %v", name, e.node.Name)
	}
}

// TestOpenSSLVerifiesEK has openssl follow the certificate of the endorsement
// key to its manufacturer.
func TestOpenSSLVerifiesEK(t *testing.T) {
	dir := t.TempDir()
	ca := filepath.Join(dir, "manufacturer")
	state := must(swtpm.Manufacture(dir, "node", ca))(t)
	process := must(swtpm.Start(state))(t)
	defer process.Stop()
	chip := must(tpm.Open(process.Device()))(t)
	defer chip.Close()
	ek := must(chip.EK())(t)
	b := newToolbox(t, nil, map[string][]byte{
		"ek.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ek.Certificate}),
	})
	root, issuer := swtpm.Roots(ca)[0], swtpm.Roots(ca)[1]
	b.run("openssl", "verify", "-CAfile", root, "-untrusted", issuer, "ek.pem")
	b.wantRefused("without the issuer", "unable to get local issuer certificate", "openssl", "verify", "-CAfile", root, "ek.pem")
	if spki := decode(t, []byte(b.run("openssl", "x509", "-in", "ek.pem", "-noout", "-pubkey")), "PUBLIC KEY"); !bytes.Equal(spki, ek.SPKI) {
		t.Errorf("the certificate is over another key: %x", spki)
	}
}
