package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// bought are chips of each kind, as they come with an order.
func bought(t *testing.T) (chips []tpm.EK) {
	t.Helper()
	maker, err := papertpm.NewMaker()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []papertpm.Kind{papertpm.P256, papertpm.P384, papertpm.RSA2048} {
		chip, err := maker.New(papertpm.Options{EK: kind})
		if err != nil {
			t.Fatal(err)
		}
		ek, err := chip.EK()
		if err != nil {
			t.Fatal(err)
		}
		chips = append(chips, ek)
	}
	return chips
}

// digestOf is what chancery-agent identify prints, and what policies and lists
// name a chip by.
func digestOf(ek tpm.EK) string {
	sum := sha256.Sum256(ek.SPKI)
	return hex.EncodeToString(sum[:])
}

// inPEM is a cell of several lines.
func inPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// sheet writes CSV as spreadsheets do, with quotes where they are needed.
func sheet(t *testing.T, rows ...[]string) string {
	t.Helper()
	var b strings.Builder
	w := csv.NewWriter(&b)
	if err := w.WriteAll(rows); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A chip is named by its digest, its key or its certificate, each in any of the
// forms in which vendors write them; all of them name the same chip.
func TestManifestForms(t *testing.T) {
	for _, ek := range bought(t) {
		want := digestOf(ek)
		var pairs []string
		for pair := range slices.Chunk([]byte(want), 2) {
			pairs = append(pairs, string(pair))
		}
		wrapped := base64.StdEncoding.EncodeToString(ek.Certificate)
		wrapped = wrapped[:64] + "\n" + wrapped[64:]
		for _, test := range []struct{ column, cell string }{
			{"ek_sha256", want},
			{"ek_sha256", strings.ToUpper(want)},
			{"ek_sha256", "sha256:" + want},
			{"ek_sha256", strings.ToUpper(strings.Join(pairs, ":"))},
			{"ek_sha256", "\t" + want + "  "},
			{"ek_public", inPEM("PUBLIC KEY", ek.SPKI)},
			{"ek_public", base64.StdEncoding.EncodeToString(ek.SPKI)},
			{"ek_public", hex.EncodeToString(ek.SPKI)},
			{"ek_public", strings.ToUpper(hex.EncodeToString(ek.SPKI))},
			{"ek_certificate", inPEM("CERTIFICATE", ek.Certificate)},
			{"ek_certificate", "\n" + inPEM("CERTIFICATE", ek.Certificate) + "\n"},
			{"ek_certificate", base64.StdEncoding.EncodeToString(ek.Certificate)},
			{"ek_certificate", wrapped},
			{"ek_certificate", hex.EncodeToString(ek.Certificate)},
		} {
			text := sheet(t, []string{"serial", test.column, "note"}, []string{"4711", test.cell, "rack 7"})
			chips, err := readManifest(strings.NewReader(text))
			if err != nil || len(chips) != 1 || chips[0] != (api.EKInfo{EK: want, Note: "rack 7"}) {
				t.Errorf("%s: %+v, %v; want %s\n%s", test.column, chips, err, want, text)
			}
		}
	}
}

// Spreadsheets differ in what they put around the cells.
func TestManifestSheets(t *testing.T) {
	a, b := strings.Repeat("ab", 32), strings.Repeat("01", 32)
	for _, test := range []struct {
		what, text string
		want       []api.EKInfo
	}{
		{"one chip", "ek_sha256\n" + a + "\n", []api.EKInfo{{EK: a}}},
		{"without the last line's end", "ek_sha256\n" + a, []api.EKInfo{{EK: a}}},
		{"lines of Windows", "ek_sha256,note\r\n" + a + ",one\r\n" + b + ",two\r\n", []api.EKInfo{{EK: a, Note: "one"}, {EK: b, Note: "two"}}},
		{"a byte order mark", "\ufeffek_sha256,note\n" + a + ",one\n", []api.EKInfo{{EK: a, Note: "one"}}},
		{"a header as people write it", " EK_SHA256 , Note\n" + a + ", one \n", []api.EKInfo{{EK: a, Note: "one"}}},
		{"columns in another order, and others", "vendor,note,ek_sha256,price\nIFX,one," + a + ",2.5\n", []api.EKInfo{{EK: a, Note: "one"}}},
		{"no note in a line", "note,ek_sha256\n," + a + "\n", []api.EKInfo{{EK: a}}},
		{"a note with commas and lines", "ek_sha256,note\n" + a + ",\"rack 7, unit 3\nspare\"\n", []api.EKInfo{{EK: a, Note: "rack 7, unit 3\nspare"}}},
		{"empty lines", "ek_sha256\n\n" + a + "\n\n\n" + b + "\n\n", []api.EKInfo{{EK: a}, {EK: b}}},
		{"the digest, if there are several columns", "ek_certificate,ek_sha256,ek_public\nnot looked at," + a + ",nor this\n", []api.EKInfo{{EK: a}}},
	} {
		chips, err := readManifest(strings.NewReader(test.text))
		if err != nil || !slices.Equal(chips, test.want) {
			t.Errorf("%s: %+v, %v; want %+v", test.what, chips, err, test.want)
		}
	}
}

// Nothing is imported if a line is wrong, and the error says which.
func TestManifestRefuses(t *testing.T) {
	good := strings.Repeat("ab", 32)
	ek := bought(t)[0]
	long := sheet(t, []string{"ek_certificate"}, []string{inPEM("CERTIFICATE", ek.Certificate)}, []string{"rubbish"})
	lines := strings.Count(long, "\n")
	for _, test := range []struct{ what, text, want string }{
		{"nothing", "", "no header"},
		{"no such column", "serial,digest\n1," + good + "\n", `there are ["serial" "digest"]`},
		{"a digest and no header", good + "\n" + good + "\n", "no column is called ek_sha256, ek_public or ek_certificate"},
		{"a header alone", "ek_sha256,note\n", "no chip"},
		{"an empty cell", "ek_sha256,note\n" + good + ",\n,spare\n", "line 3: ek_sha256"},
		{"a digit less", "ek_sha256\n" + good[1:] + "\n", "line 2: ek_sha256: \"" + good[1:] + "\" is not 64 hexadecimal digits"},
		{"a SHA-1", "ek_sha256\n" + good[:40] + "\n", "line 2"},
		{"not hexadecimal", "ek_sha256\n" + strings.Repeat("xy", 32) + "\n", "line 2"},
		{"after empty lines", "ek_sha256\n\n\nabcd\n", "line 4"},
		{"after a cell of several lines", long, fmt.Sprintf("line %d: ek_certificate", lines)},
		{"a column less", "ek_sha256,note\n" + good + ",a\n" + good + "\n", "line 3"},
		{"a column more", "ek_sha256\n" + good + ",\n", "line 2"},
		{"a quote that does not end", "ek_sha256,note\n" + good + ",\"rack 7\n", "line"},
		{"a key for a certificate", sheet(t, []string{"ek_certificate"}, []string{inPEM("PUBLIC KEY", ek.SPKI)}), "line 2: ek_certificate"},
		{"a certificate for a key", sheet(t, []string{"ek_public"}, []string{inPEM("CERTIFICATE", ek.Certificate)}), "line 2: ek_public"},
		{"a key that is cut", "ek_public\n" + hex.EncodeToString(ek.SPKI[:40]) + "\n", "line 2: ek_public"},
		{"a key and more", "ek_public\n" + hex.EncodeToString(append(bytes.Clone(ek.SPKI), 0)) + "\n", "line 2: ek_public"},
		{"two certificates in one cell", sheet(t, []string{"ek_certificate"}, []string{strings.Repeat(inPEM("CERTIFICATE", ek.Certificate), 2)}), "line 2: ek_certificate"},
		{"neither PEM nor DER", "ek_public\n-----BEGIN\n", "line 2: ek_public: it is neither PEM nor DER in base64 or hexadecimal"},
		{"an empty key", "ek_public,note\n,spare\n", "line 2: ek_public: it is neither"},
	} {
		chips, err := readManifest(strings.NewReader(test.text))
		if err == nil || chips != nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d chips, %v; want an error that says %q", test.what, len(chips), err, test.want)
		}
	}
}

// A manifest has at most a million chips, and is not read further than that.
func TestManifestLimit(t *testing.T) {
	line := strings.Repeat("ab", 32) + "\n"
	chips, err := readManifest(io.MultiReader(strings.NewReader("ek_sha256\n"), &again{line, maxManifest * len(line)}))
	if err != nil || len(chips) != maxManifest {
		t.Errorf("%d chips, %v", len(chips), err)
	}
	chips, err = readManifest(io.MultiReader(strings.NewReader("ek_sha256\n"), &again{line, 1 << 40}))
	if want := fmt.Sprintf("line %d: more than %d chips", maxManifest+2, maxManifest); err == nil || chips != nil || err.Error() != want {
		t.Errorf("%d chips, %v; want %q", len(chips), err, want)
	}
}

// again reads as a line, over and over.
type again struct {
	line string
	left int
}

func (a *again) Read(b []byte) (int, error) {
	if a.left <= 0 {
		return 0, io.EOF
	}
	n := 0
	for n+len(a.line) <= len(b) && a.left > 0 {
		n += copy(b[n:], a.line)
		a.left -= len(a.line)
	}
	return n, nil
}

// Whatever a manifest is, it has chips by their digests or it has an error.
func FuzzReadManifest(f *testing.F) {
	f.Add([]byte("ek_sha256,note\nsha256:" + strings.Repeat("AB", 32) + ",rack 7\n"))
	f.Add([]byte("\ufeffek_public\n\"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n\"\n"))
	f.Add([]byte("ek_certificate\n3082\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		chips, err := readManifest(bytes.NewReader(text))
		if (err == nil) != (len(chips) > 0) {
			t.Fatalf("%d chips, %v", len(chips), err)
		}
		for _, c := range chips {
			if b, err := hex.DecodeString(c.EK); err != nil || len(b) != 32 || strings.ToLower(c.EK) != c.EK {
				t.Fatalf("a chip is called %q", c.EK)
			}
		}
	})
}
