package papertpm

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/chancery-pki/chancery/internal/durable"
)

// The files of a saved maker.
const (
	rootsFile  = "makers.pem"
	issuerFile = "issuer-key.pem"
)

// warning stands before the key in its file.
const warning = `This key is a simulator's and protects nothing. Whoever has it makes TPMs out
of paper, and a coordinator that believes in makers.pem takes them for chips.
`

// ErrNoMaker means that a directory holds no maker that [Maker.Save] wrote.
var ErrNoMaker = errors.New("papertpm: there is no maker")

// A MakerExistsError says that there is a maker in a directory already.
// Coordinators may believe in it, so it is not replaced.
type MakerExistsError struct{ Dir string }

func (e *MakerExistsError) Error() string { return "there is a maker of paper chips in " + e.Dir }

// Hint tells what to do with it.
func (e *MakerExistsError) Hint() string {
	return "use it as it is, its certificates are in " + RootsFile(e.Dir) + "; or choose another directory"
}

// RootsFile returns the file with the certificates of the maker in a
// directory, in the form of [Maker.RootsPEM].
func RootsFile(dir string) string { return filepath.Join(dir, rootsFile) }

// Save writes the maker to a directory, which it makes if need be, so that
// the coordinator that believes in its certificates meets its chips again in
// another process. A maker that is there already is a [*MakerExistsError].
//
// The key is in a file, readable by its owner, that says that it protects
// nothing. The primes of RSA endorsement keys are not saved: the next process
// finds others.
func (m *Maker) Save(dir string) error {
	for _, file := range []string{RootsFile(dir), filepath.Join(dir, issuerFile)} {
		if _, err := os.Lstat(file); err == nil {
			return &MakerExistsError{dir}
		}
	}
	key, err := x509.MarshalPKCS8PrivateKey(m.key)
	if err != nil {
		return fmt.Errorf("papertpm: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("papertpm: %w", err)
	}
	text := append([]byte(warning), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := durable.CreateFile(filepath.Join(dir, issuerFile), text); err != nil {
		return fmt.Errorf("papertpm: %w", err)
	}
	if err := durable.CreateFile(RootsFile(dir), m.RootsPEM()); err != nil {
		return fmt.Errorf("papertpm: %w", err)
	}
	return nil
}

// LoadMaker reads the maker that [Maker.Save] wrote to a directory. Without
// one the error is [ErrNoMaker].
func LoadMaker(dir string) (*Maker, error) {
	text, err := os.ReadFile(RootsFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoMaker, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("papertpm: %w", err)
	}
	m := &Maker{}
	for _, to := range []**x509.Certificate{&m.root, &m.issuer} {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("papertpm: %s does not hold the two certificates of a maker", RootsFile(dir))
		}
		if *to, err = x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("papertpm: %s: %w", RootsFile(dir), err)
		}
	}
	if err := m.issuer.CheckSignatureFrom(m.root); err != nil {
		return nil, fmt.Errorf("papertpm: %s: %w", RootsFile(dir), err)
	}
	if m.key, err = readKey(filepath.Join(dir, issuerFile)); err != nil {
		return nil, err
	}
	if !m.key.PublicKey.Equal(m.issuer.PublicKey) {
		return nil, fmt.Errorf("papertpm: %s and %s are of two makers", issuerFile, RootsFile(dir))
	}
	return m, nil
}

func readKey(file string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("papertpm: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("papertpm: %s holds no key", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("papertpm: %s: %w", file, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("papertpm: %s holds a key of another kind", file)
	}
	return ec, nil
}
