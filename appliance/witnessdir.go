package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/logs"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

// A witnessDir is the directory of a witness, on the machine of its own that
// makes it worth something. The files in it are its identity, its keys, the
// newest pointer record of each fleet, and what it cosigned last.
type witnessDir string

func (d witnessDir) identity() string { return filepath.Join(string(d), "witness.toml") }
func (d witnessDir) keys() string     { return filepath.Join(string(d), "keys.pem") }
func (d witnessDir) fleets() string   { return filepath.Join(string(d), "fleets") }
func (d witnessDir) records() string  { return filepath.Join(string(d), "records") }

func (d witnessDir) fleet(f chancery.FleetID) string { return filepath.Join(d.fleets(), f.Pin()) }

// A witnessIdentity is witness.toml: under which names the two keys sign.
type witnessIdentity struct {
	// Name is that of the Ed25519 key, for whoever follows logs: a URL without
	// a scheme.
	Name string `toml:"name"`
	// ID is the trust anchor ID of the ECDSA key, under which it signs in
	// certificates.
	ID string `toml:"id"`
}

// create makes a witness. The identity is written last: without it the
// directory is none of a witness.
func (d witnessDir) create(identity witnessIdentity) ([]tlog.Signer, error) {
	switch _, err := os.Stat(d.identity()); {
	case err == nil:
		return nil, cli.Failure("a witness with other keys is another witness: choose another directory", "there is a witness in %s already", d)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	_, plain, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	cosigner, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	signers, err := identity.signers(plain, cosigner)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, key := range []crypto.PrivateKey{plain, cosigner} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		if err := pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
			return nil, err
		}
	}
	text, err := toml.Marshal(identity)
	if err != nil {
		return nil, err
	}
	err = os.MkdirAll(string(d), 0o700)
	if err == nil {
		err = durable.CreateFile(d.keys(), b.Bytes())
	}
	if err == nil {
		err = os.Mkdir(d.fleets(), 0o700)
	}
	if err == nil {
		_, err = tlog.CreateFileRecords(d.records())
	}
	if err == nil {
		err = durable.CreateFile(d.identity(), text)
	}
	if err != nil {
		return nil, cli.Failure("if an earlier init did not come to its end, remove the directory: nobody knows its keys", "%v", err)
	}
	return signers, nil
}

// signers gives the keys their names. One that cannot be named so is a usage
// error.
func (i witnessIdentity) signers(plain ed25519.PrivateKey, cosigner *ecdsa.PrivateKey) ([]tlog.Signer, error) {
	first, err := tlog.NewEd25519Signer(i.Name, tlog.CosignatureV1, plain)
	if err != nil {
		return nil, cli.Usage("a URL without a scheme, as in witness.example/w1", "name: %v", err)
	}
	id, err := merkle.ParseTrustAnchorID(i.ID)
	if err != nil {
		return nil, cli.Usage("an object identifier under 1.3.6.1.4.1, without that: the organization's private enterprise number and more, as in 32473.9", "id: %v", err)
	}
	key, err := tlog.NewCosignerKey(id, &cosigner.PublicKey)
	if err != nil {
		return nil, cli.Usage("choose a shorter one", "id: %v", err)
	}
	second, err := tlog.NewECDSASigner(key, cosigner)
	if err != nil {
		return nil, err
	}
	return []tlog.Signer{first, second}, nil
}

// A witnessState is what is in the directory.
type witnessState struct {
	witnessIdentity
	signers  []tlog.Signer
	pointers []*chancery.Pointer // in the order of their pins
	policies []*tlog.Policy      // in the order of the pointer records
	records  *tlog.FileRecords
}

func (d witnessDir) load() (*witnessState, error) {
	b, err := os.ReadFile(d.identity())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cli.Failure("run: chancery witness init --dir "+string(d), "there is no witness in %s", d)
	}
	if err != nil {
		return nil, err
	}
	s := new(witnessState)
	if err := strictTOML(d.identity(), b, &s.witnessIdentity); err != nil {
		return nil, err
	}
	if s.signers, err = d.loadKeys(s.witnessIdentity); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(d.fleets())
	if err != nil {
		return nil, err
	}
	for _, f := range files { // in the order of their names
		pin, err := chancery.ParsePin(f.Name())
		if err != nil {
			continue // half of a file, from a crash
		}
		p, err := d.pointer(pin)
		if err != nil {
			return nil, err
		}
		s.pointers = append(s.pointers, p)
	}
	if s.policies, err = cosignedLogs(s.pointers); err != nil {
		return nil, cli.Failure("", "%s: %v", d.fleets(), err)
	}
	s.records, err = tlog.OpenFileRecords(d.records())
	return s, err
}

func (d witnessDir) loadKeys(identity witnessIdentity) ([]tlog.Signer, error) {
	info, err := os.Stat(d.keys())
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, cli.Failure("if nobody else has read it: chmod 600 "+d.keys(), "%s has mode %04o: others than its owner may read the witness's keys", d.keys(), mode)
	}
	b, err := os.ReadFile(d.keys())
	if err != nil {
		return nil, err
	}
	var plain ed25519.PrivateKey
	var cosigner *ecdsa.PrivateKey
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.keys(), err)
		}
		switch key := key.(type) {
		case ed25519.PrivateKey:
			plain = key
		case *ecdsa.PrivateKey:
			cosigner = key
		}
	}
	if plain == nil || cosigner == nil {
		return nil, cli.Failure("init writes two", "%s does not hold an Ed25519 and an ECDSA key", d.keys())
	}
	return identity.signers(plain, cosigner)
}

// pointer returns a fleet's pointer record as it was taken.
func (d witnessDir) pointer(pin chancery.FleetID) (*chancery.Pointer, error) {
	b, err := os.ReadFile(d.fleet(pin))
	if err != nil {
		return nil, err
	}
	p, err := chancery.ParsePointer(b)
	if err == nil {
		err = p.Verify(pin)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.fleet(pin), err)
	}
	return p, nil
}

// take puts a pointer record in the place of the fleet's last one, if it follows
// it as a node would have it.
func (d witnessDir) take(pin chancery.FleetID, b []byte, others []*chancery.Pointer, now time.Time) (*chancery.Pointer, error) {
	p, err := chancery.ParsePointer(b)
	if err != nil {
		return nil, cli.Usage("a pointer record is DATA/pointer on a coordinator, and what it serves under /v1/pointer", "%v", err)
	}
	stored, err := d.pointer(pin)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := chancery.AcceptPointer(pin, stored, p, now); err != nil {
		return nil, cli.WithCode(cli.ExitRefused, err)
	}
	all := append(slices.DeleteFunc(slices.Clone(others), func(o *chancery.Pointer) bool { return o.FleetID() == pin }), p)
	if _, err := cosignedLogs(all); err != nil {
		return nil, cli.WithCode(cli.ExitRefused, err)
	}
	return p, durable.WriteFile(d.fleet(pin), b)
}

// nextLogs is how many log numbers after the greatest one of a CA key the
// witness cosigns as well: an operator starts a new log after some failures, and
// then is no time to ask (mtc-tlog, "Cosigners").
const nextLogs = 3

// cosignedLogs returns whose signatures count under which log of the fleets. A
// CA key that is revoked has none any more.
func cosignedLogs(pointers []*chancery.Pointer) (policies []*tlog.Policy, err error) {
	seen := map[string]bool{}
	add := func(l logs.Log, err error) error {
		if err != nil {
			return err
		}
		if seen[l.Origin] {
			return fmt.Errorf("two fleets have the log %s: their CA ids are not their own", l.Origin)
		}
		seen[l.Origin] = true
		p, err := tlog.NewPolicy(l.Origin, []*tlog.Key{l.Key}, nil, 0)
		policies = append(policies, p)
		return err
	}
	for _, p := range pointers {
		for i := range p.Keys {
			k := &p.Keys[i]
			if k.State == chancery.CAKeyRevoked {
				continue
			}
			numbers := slices.Clone(k.Logs)
			for n := int(slices.Max(k.Logs)); n < 1<<16-1 && len(numbers) < len(k.Logs)+nextLogs; {
				n++
				numbers = append(numbers, uint16(n))
			}
			for _, n := range numbers {
				if err := add(logs.Issuance(k, n)); err != nil {
					return nil, err
				}
			}
			if err := add(logs.Audit(p.FleetID(), k)); err != nil {
				return nil, err
			}
		}
	}
	return policies, nil
}
