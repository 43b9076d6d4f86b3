package ekroots

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestVendors(t *testing.T) {
	list, err := Vendors()
	if err != nil {
		t.Fatal(err)
	}
	sources, err := os.ReadFile("vendors/SOURCES.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, c := range list {
		what := c.Vendor + ": " + c.Subject()
		if err := check(c.Cert); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if other, ok := seen[c.Fingerprint()]; ok {
			t.Errorf("%s is %s too", what, other)
		}
		seen[c.Fingerprint()] = what
		if !strings.Contains(string(sources), c.Fingerprint()) {
			t.Errorf("%s: SOURCES.md does not tell where %s is from", what, c.Fingerprint())
		}
		if now.After(c.NotAfter()) || now.Before(c.Cert.NotBefore) {
			t.Errorf("%s is valid from %s to %s", what, c.Cert.NotBefore, c.NotAfter())
		}
		if len(c.Cert.UnhandledCriticalExtensions) > 0 {
			t.Errorf("%s: nothing below it can be verified: %v", what, c.Cert.UnhandledCriticalExtensions)
		}
		checkIssuer(t, what, c, list, string(sources))
	}
	if mentioned := regexp.MustCompile(`[0-9a-f]{64}`).FindAllString(string(sources), -1); len(slices.Compact(slices.Sorted(slices.Values(mentioned)))) != len(list)+2 {
		t.Errorf("SOURCES.md has %d digests for %d certificates, one left out and one package", len(mentioned), len(list))
	}
}

// checkIssuer checks that the issuer is among the list or named as missing,
// and that it signed the certificate. Go verifies no SHA-1, and SOURCES.md
// marks those that have it.
func checkIssuer(t *testing.T, what string, c Certificate, list []Certificate, sources string) {
	t.Helper()
	row := regexp.MustCompile(`(?m)^.*` + c.Fingerprint() + `.*$`).FindString(sources)
	issuers := slices.DeleteFunc(slices.Clone(list), func(i Certificate) bool {
		return string(i.Cert.RawSubject) != string(c.Cert.RawIssuer) || c.Root() && !i.Cert.Equal(c.Cert)
	})
	if len(issuers) == 0 {
		if !strings.Contains(row, "issuer missing") {
			t.Errorf("%s: its issuer %s is neither here nor named as missing", what, c.Issuer())
		}
		return
	}
	if weak := c.Cert.SignatureAlgorithm == x509.SHA1WithRSA; weak {
		if !strings.Contains(row, "SHA-1") {
			t.Errorf("%s: SOURCES.md does not mark its SHA-1 signature", what)
		}
		if marked := len(c.Notes(now)) > 0; marked == c.Root() {
			t.Errorf("%s: notes %q", what, c.Notes(now))
		}
		return
	}
	if !slices.ContainsFunc(issuers, func(i Certificate) bool { return c.Cert.CheckSignatureFrom(i.Cert) == nil }) {
		t.Errorf("%s: not signed by %s", what, c.Issuer())
	}
}

// The comments before each certificate are true.
func TestComments(t *testing.T) {
	files, err := filepath.Glob("vendors/*.pem")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	block := regexp.MustCompile(`(?s)^# Subject: ([^\n]+)\n(?:# Issuer: ([^\n]+)\n)?# Source: ([^\n]+)\n# SHA-256: ([0-9a-f]{64})\n(-----BEGIN CERTIFICATE-----\n.*-----END CERTIFICATE-----\n)$`)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split(string(b), "\n\n") {
			part = strings.TrimSuffix(part, "\n") + "\n"
			m := block.FindStringSubmatch(part)
			if m == nil {
				t.Errorf("%s: not in the form of a bundle:\n%s", file, part)
				continue
			}
			der, _ := pem.Decode([]byte(m[5]))
			cert, err := x509.ParseCertificate(der.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			c := Certificate{Cert: cert}
			if m[4] != c.Fingerprint() {
				t.Errorf("%s: %s says %s", file, c.Fingerprint(), m[4])
			}
			if !strings.Contains(m[1], cert.Subject.CommonName) || (m[2] == "") != c.Root() || !strings.Contains(m[2], cert.Issuer.CommonName) && !c.Root() {
				t.Errorf("%s: subject %q, issuer %q of %s", file, m[1], m[2], c.Subject())
			}
			if string(pemOf(cert)) != m[5] {
				t.Errorf("%s: %s is not in the usual form of PEM", file, c.Subject())
			}
		}
	}
}
