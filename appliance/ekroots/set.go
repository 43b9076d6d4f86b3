package ekroots

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Set is what a coordinator believes in. It does not change after [Load].
type Set struct{ list []Certificate }

// Load reads the certificates of the vendors, except those in without, and of
// the operator's directory: files whose names end in .pem, or links to such.
// One certificate in several places is listed as often.
func Load(dir string, without ...string) (*Set, error) {
	carried, err := Vendors()
	if err != nil {
		return nil, err
	}
	s := new(Set)
	for _, vendor := range without {
		if !slices.ContainsFunc(carried, func(c Certificate) bool { return c.Vendor == vendor }) {
			return nil, fmt.Errorf("%w: %q", ErrVendor, vendor)
		}
	}
	for _, c := range carried {
		if !slices.Contains(without, c.Vendor) {
			s.list = append(s.list, c)
		}
	}
	own, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	s.list = append(s.list, own...)
	return s, nil
}

// Pool returns all of the certificates, for a verifier. It is the caller's.
func (s *Set) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range s.list {
		pool.AddCert(c.Cert)
	}
	return pool
}

// List returns all of the certificates: the vendors', then the operator's by
// file.
func (s *Set) List() []Certificate { return slices.Clone(s.list) }

// readDir reads the operator's certificates.
func readDir(dir string) ([]Certificate, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Certificate
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		file := filepath.Join(dir, name)
		if !strings.HasSuffix(name, ".pem") {
			return nil, &FileError{file, errStray}
		}
		certs, err := readFile(file)
		if err != nil {
			return nil, err
		}
		if n := len(list) + len(certs); n > maxCertificates {
			return nil, &FileError{file, fmt.Errorf("%w: %d certificates in the directory up to here, at most %d", ErrTooLarge, n, maxCertificates)}
		}
		for _, cert := range certs {
			list = append(list, Certificate{Cert: cert, File: name})
		}
	}
	return list, nil
}

// readFile reads one file of the directory and judges what is in it.
func readFile(file string) ([]*x509.Certificate, error) {
	data, err := slurp(file)
	if err != nil {
		return nil, &FileError{file, err}
	}
	certs, err := parse(data)
	if err != nil {
		return nil, &FileError{file, err}
	}
	for _, cert := range certs {
		if err := check(cert); err != nil {
			return nil, &FileError{file, err}
		}
	}
	return certs, nil
}

// slurp reads a regular file of at most maxFile bytes.
func slurp(file string) ([]byte, error) {
	info, err := os.Stat(file) // first: opening a FIFO would wait for a writer
	if err != nil {
		return nil, cause(err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: not a regular file", ErrNotCertificate)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, info.Size(), maxFile)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, cause(err)
	}
	return data, nil
}

// cause drops the path from an error of package os; a [FileError] tells it.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
