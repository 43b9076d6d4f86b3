package papertpm_test

import (
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"

	"github.com/chancery-pki/chancery/simulator/papertpm"
)

// tool runs one of tpm2-tools, which share no code with anything here, without
// a TPM. A machine that does not have it fails the test.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v (install tpm2-tools)", err)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// files writes what a chip said into a directory and returns a path to each.
func files(t *testing.T, contents map[string][]byte) func(string) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range contents {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func(name string) string { return filepath.Join(dir, name) }
}

func sized(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }

// TestPrinted has tpm2_print say what it makes of one chip's structures. Of
// attestations it knows quotes only.
func TestPrinted(t *testing.T) {
	chip := newChip(t, papertpm.Options{EK: papertpm.P384, ResetCount: 5})
	e := collect(t, chip, newApprover(t).sealing())
	at := files(t, map[string][]byte{
		"ek": e.ek.Public, "ak": e.ak.Public, "node": e.file.Public, "quote": e.quote.Attest,
	})
	policy, pcrs := nodeKey(t, e.file).Policy, e.values.Digest()
	qualified := hex.EncodeToString(must(tpm2.Unmarshal[tpm2.TPMSAttest](e.quote.Attest))(t).QualifiedSigner.Buffer)
	for _, test := range []struct {
		kind, file string
		says       []string
	}{
		{"TPMT_PUBLIC", "ek", []string{"value: sha384", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt", "value: NIST p384", "value: cfb"}},
		{"TPMT_PUBLIC", "ak", []string{"fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign", "value: ecdsa", "value: NIST p256"}},
		{"TPMT_PUBLIC", "node", []string{"fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|noda|sign", hex.EncodeToString(policy[:])}},
		{"TPMS_ATTEST", "quote", []string{
			"magic: ff544347", "type: 8018", "qualifiedSigner: " + qualified, "extraData: " + hex.EncodeToString(qualifying[:]),
			"resetCount: 5", "safe: 1", "pcrDigest: " + hex.EncodeToString(pcrs[:]),
		}},
	} {
		out := tool(t, "tpm2_print", "-t", test.kind, at(test.file))
		for _, want := range test.says {
			if !strings.Contains(out, want) {
				t.Errorf("tpm2_print of %s does not say %q:\n%s", test.file, want, out)
			}
		}
	}
}

// TestQuoteChecked has tpm2_checkquote verify a quote and its PCR values.
func TestQuoteChecked(t *testing.T) {
	chip := newChip(t, papertpm.Options{})
	if err := chip.ExtendPCR(7, measurement); err != nil {
		t.Fatal(err)
	}
	e := collect(t, chip, nil)
	var values []byte
	for _, pcr := range e.values.Numbers() {
		value := e.values[pcr]
		values = append(values, value[:]...)
	}
	at := files(t, map[string][]byte{
		"ak": sized(e.ak.Public), "quote": e.quote.Attest, "signature": e.quote.Signature, "values": values,
	})
	tool(t, "tpm2_checkquote", "-u", at("ak"), "-m", at("quote"), "-s", at("signature"), "-g", "sha256",
		"-f", at("values"), "-l", "sha256:0,2,4,7", "-q", hex.EncodeToString(qualifying[:]))
}

// TestCredentialMade has a paper chip open the credential that
// tpm2_makecredential made, for each kind of endorsement key.
func TestCredentialMade(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			chip := newChip(t, papertpm.Options{EK: kind})
			ak := must(chip.AK())(t)
			at := files(t, map[string][]byte{"ek": sized(must(chip.EK())(t).Public), "secret": []byte("a secret")})
			tool(t, "tpm2_makecredential", "-T", "none", "-u", at("ek"), "-s", at("secret"), "-n", ak.Name.String(), "-o", at("made"))

			// A magic number and a version come before the two structures.
			made := cryptobyte.String(must(os.ReadFile(at("made")))(t))
			var credential, encrypted cryptobyte.String
			if !made.Skip(8) || !made.ReadUint16LengthPrefixed(&credential) || !made.ReadUint16LengthPrefixed(&encrypted) || !made.Empty() {
				t.Fatalf("tpm2_makecredential wrote %x", made)
			}
			if got, err := chip.Activate(credential, encrypted); err != nil || string(got) != "a secret" {
				t.Errorf("activated %q (%v)", got, err)
			}
		})
	}
}
