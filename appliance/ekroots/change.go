package ekroots

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/chancery-pki/chancery/internal/durable"
)

// AddFile is [Add] of a file, after which the new one is named.
func AddFile(dir, file string, at time.Time, without ...string) ([]Certificate, error) {
	data, err := slurp(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	added, err := Add(dir, filepath.Base(file), data, at, without...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return added, nil
}

// Add puts certificates into the operator's directory, as a new file named
// after name, and returns those that it put there. The data is PEM, or a
// single certificate in DER. If one certificate cannot be an anchor nothing is
// added. Those that are already in the set, which is that of [Load] with the
// same vendors left out, are not added again; if that leaves none it is
// [ErrPresent]. The same subject and key with another validity is another
// certificate.
//
// When it returns without an error the file is on the disk. A crash leaves it
// there whole or not at all, though perhaps readable for its owner only.
func Add(dir, name string, data []byte, at time.Time, without ...string) ([]Certificate, error) {
	certs, err := parse(data)
	if err != nil {
		return nil, err
	}
	for _, cert := range certs {
		if err := check(cert); err != nil {
			return nil, err
		}
		if at.After(cert.NotAfter) {
			return nil, fmt.Errorf("%q %w on %s", line(cert.Subject.String()), ErrExpired, cert.NotAfter.UTC().Format(time.DateOnly))
		}
	}
	set, err := Load(dir, without...)
	if err != nil {
		return nil, err
	}
	fresh, err := set.fresh(certs)
	if err != nil {
		return nil, err
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	file, err := create(dir, name, fresh)
	if err != nil {
		return nil, err
	}
	added := make([]Certificate, len(fresh))
	for i, cert := range fresh {
		added[i] = Certificate{Cert: cert, File: file}
	}
	return added, nil
}

// fresh returns the certificates that are not in the set, each once.
func (s *Set) fresh(certs []*x509.Certificate) ([]*x509.Certificate, error) {
	var fresh []*x509.Certificate
	var present []string
	own := 0
	for _, c := range s.list {
		if c.File != "" {
			own++
		}
	}
	for _, cert := range certs {
		if i := slices.IndexFunc(s.list, func(c Certificate) bool { return c.Cert.Equal(cert) }); i >= 0 {
			present = append(present, fmt.Sprintf("%q (%s)", s.list[i].Subject(), s.list[i].Origin()))
		} else if !slices.ContainsFunc(fresh, cert.Equal) {
			fresh = append(fresh, cert)
		}
	}
	switch {
	case len(fresh) == 0:
		return nil, fmt.Errorf("%w: %s", ErrPresent, strings.Join(present, ", "))
	case own+len(fresh) > maxCertificates:
		return nil, fmt.Errorf("%w: %d certificates of the operator's, at most %d", ErrTooLarge, own+len(fresh), maxCertificates)
	}
	return fresh, nil
}

// Remove takes a certificate out of the operator's directory, out of each file
// that it is in, and returns what it took. The fingerprint is that of
// [Certificate.Fingerprint], in either case, with colons or without, or at
// least its first 8 digits. A file without further certificates is removed;
// one with others is written anew, without the comments that it had.
//
// A certificate that the program carries too is believed as before.
func Remove(dir, fingerprint string) ([]Certificate, error) {
	digits, err := parseFingerprint(fingerprint)
	if err != nil {
		return nil, err
	}
	own, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	var removed []Certificate
	for _, c := range own {
		if !strings.HasPrefix(c.Fingerprint(), digits) {
			continue
		}
		if len(removed) > 0 && !removed[0].Cert.Equal(c.Cert) {
			return nil, fmt.Errorf("%w: %s", ErrAmbiguous, fingerprint)
		}
		removed = append(removed, c)
	}
	if len(removed) == 0 {
		return nil, absent(digits)
	}
	for _, c := range removed {
		if err := rewrite(dir, c, own); err != nil {
			return nil, err
		}
	}
	return removed, nil
}

// absent says why there is nothing to remove.
func absent(digits string) error {
	carried, err := Vendors()
	if err != nil {
		return err
	}
	for _, c := range carried {
		if strings.HasPrefix(c.Fingerprint(), digits) {
			return fmt.Errorf("%w: %q (%s)", ErrShipped, c.Subject(), c.Origin())
		}
	}
	return fmt.Errorf("%w: %s", ErrUnknown, digits)
}

func parseFingerprint(s string) (string, error) {
	digits := strings.ToLower(strings.ReplaceAll(s, ":", ""))
	_, err := hex.DecodeString(digits + strings.Repeat("0", len(digits)%2))
	if err != nil || len(digits) < 8 || len(digits) > 64 {
		return "", fmt.Errorf("%w: %q", ErrFingerprint, s)
	}
	return digits, nil
}

// rewrite writes c's file without it.
func rewrite(dir string, c Certificate, own []Certificate) error {
	var rest []*x509.Certificate
	for _, other := range own {
		if other.File == c.File && !other.Cert.Equal(c.Cert) {
			rest = append(rest, other.Cert)
		}
	}
	file := filepath.Join(dir, c.File)
	if len(rest) == 0 {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return durable.SyncDir(dir)
	}
	data, err := encode(rest)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(file, data); err != nil {
		return err
	}
	return publish(file)
}

// create writes a file that was not there and returns its name: the sanitised
// one, or where that is taken, with the start of the first certificate's
// fingerprint behind it.
func create(dir, name string, certs []*x509.Certificate) (string, error) {
	data, err := encode(certs)
	if err != nil {
		return "", err
	}
	base := sanitise(name)
	file := base + ".pem"
	if _, err := os.Lstat(filepath.Join(dir, file)); err == nil {
		file = base + "-" + (Certificate{Cert: certs[0]}).Fingerprint()[:16] + ".pem"
	}
	if err := durable.CreateFile(filepath.Join(dir, file), data); err != nil {
		return "", err
	}
	return file, publish(filepath.Join(dir, file))
}

// publish lets everybody read a file: it is no secret, and the coordinator may
// be another user than the operator.
func publish(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o644), f.Sync(), f.Close())
}

// makeDir makes the directory if it is not there; its parent must be.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// encode writes certificates for the directory, and reads them back: a file
// that the next start refuses must not be written.
func encode(certs []*x509.Certificate) ([]byte, error) {
	var b bytes.Buffer
	for i, cert := range certs {
		if i > 0 {
			b.WriteByte('\n')
		}
		c := Certificate{Cert: cert}
		fmt.Fprintf(&b, "# Subject: %s\n# Issuer: %s\n# SHA-256: %s\n", c.Subject(), c.Issuer(), c.Fingerprint())
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return nil, err
		}
	}
	again, err := parse(b.Bytes())
	if err == nil && !slices.EqualFunc(again, certs, (*x509.Certificate).Equal) {
		err = errors.New("internal error: the file would not hold the certificates")
	}
	return b.Bytes(), err
}

// sanitise makes a file's name, without its ending, of what somebody called
// it.
func sanitise(name string) string {
	name = filepath.Base(strings.ReplaceAll(name, `\`, "/"))
	name = strings.TrimSuffix(name, filepath.Ext(name))
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, name)
	name = strings.Trim(name[:min(len(name), 64)], ".-")
	if name == "" {
		return "certificate"
	}
	return name
}
