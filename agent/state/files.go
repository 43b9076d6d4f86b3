package state

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"slices"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

// Pointer returns the newest pointer record. It is not verified: its reader
// knows the pin.
func (d *Dir) Pointer() (*chancery.Pointer, error) {
	return read(d, "pointer", chancery.ParsePointer)
}

// SavePointer replaces the pointer record.
func (d *Dir) SavePointer(p *chancery.Pointer) error { return d.write("pointer", p.Marshal()) }

// Key returns the file of N:SK.
func (d *Dir) Key() (*tpm.KeyFile, error) { return read(d, "node.key", tpm.ParseKeyFile) }

// SaveKey replaces the file of N:SK.
func (d *Dir) SaveKey(f *tpm.KeyFile) error { return d.write("node.key", f.Marshal()) }

// Enrolled reports whether the node has an N:C.
func (d *Dir) Enrolled() bool { return d.exists("nc.der") }

// Certificate returns N:C; without one the error is [ErrNotEnrolled].
func (d *Dir) Certificate() (*chancery.Certificate, error) {
	nc, err := read(d, "nc.der", chancery.ParseCertificate)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotEnrolled
	}
	return nc, err
}

// SaveCertificate replaces N:C.
func (d *Dir) SaveCertificate(nc *chancery.Certificate) error { return d.write("nc.der", nc.Raw()) }

// CRL returns the newest CRL, as it travels. It is not verified.
func (d *Dir) CRL() ([]byte, error) {
	return read(d, "crl", func(b []byte) ([]byte, error) { return b, nil })
}

// SaveCRL replaces the CRL.
func (d *Dir) SaveCRL(c *chancery.CRL) error { return d.write("crl", c.Marshal()) }

// Anchor returns the note of how far the node had come. It is not verified.
func (d *Dir) Anchor() (*chancery.Anchor, error) { return read(d, "anchor", chancery.ParseAnchor) }

// SaveAnchor replaces the note.
func (d *Dir) SaveAnchor(a *chancery.Anchor) error { return d.write("anchor", a.Marshal()) }

// Address returns where a peer was last found, or nothing.
func (d *Dir) Address(name string) string { return d.addresses()[name] }

// Addresses returns where peers were last found, in no order.
func (d *Dir) Addresses() []string { return slices.Collect(maps.Values(d.addresses())) }

// SaveAddress remembers where a peer was found.
func (d *Dir) SaveAddress(name, address string) error {
	all := d.addresses()
	if all[name] == address {
		return nil
	}
	all = maps.Clone(all)
	if all == nil || len(all) >= maxAddresses {
		all = map[string]string{}
	}
	all[name] = address
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return d.write("addresses.json", b)
}

// maxAddresses bounds the file of hints; beyond, it starts anew.
const maxAddresses = 1024

// addresses returns the hints. A file that cannot be read is no hint.
func (d *Dir) addresses() map[string]string {
	all, _ := read(d, "addresses.json", func(b []byte) (m map[string]string, err error) {
		return m, json.Unmarshal(b, &m)
	})
	return all
}
