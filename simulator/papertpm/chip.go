package papertpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/tpm"
)

// Options of a chip. The zero value is good.
type Options struct {
	EK           Kind   // default P256
	Manufacturer string // TCG vendor identifier, at most four letters; default "PAPR", which nobody has
	Vendor       string // vendor string and certified model; default "paper TPM"
	Firmware     uint64 // vendor's version; default 1.0.0.0
	ResetCount   uint32 // reboots so far
}

// A Chip is a TPM on paper. Its methods may be called from any goroutine; the
// chip does one thing after the other, as chips do.
type Chip struct {
	info  tpm.Info
	ek    *endorsement
	ak    primary // in the endorsement hierarchy
	srk   primary // in the owner hierarchy
	made  time.Time
	seed  [32]byte // of the storage root key: protects what leaves the chip
	proof [32]byte // of the owner hierarchy: makes tickets

	// mu is held for a whole operation. It guards what is below.
	mu         sync.Mutex
	pcrs       [24][32]byte // of the SHA-256 bank
	resetCount uint32
	epoch      *counter // nil until a sealed key is made
}

// primary is a primary key on P-256.
type primary struct {
	key             *ecdsa.PrivateKey
	public          []byte // TPMT_PUBLIC
	name, qualified tpm.Name
}

func newPrimary(hierarchy tpm2.TPMHandle, area func(*ecdsa.PublicKey) []byte) (primary, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return primary{}, fmt.Errorf("papertpm: %w", err)
	}
	p := primary{key: key, public: area(&key.PublicKey)}
	p.name = nameOf(p.public)
	p.qualified = qualified(hierarchy, p.name)
	return p, nil
}

// New makes a chip, powers it on, and certifies its endorsement key.
func (m *Maker) New(o Options) (*Chip, error) {
	if o.Manufacturer == "" {
		o.Manufacturer = "PAPR"
	}
	if o.Vendor == "" {
		o.Vendor = "paper TPM"
	}
	if o.Firmware == 0 {
		o.Firmware = 1 << 48
	}
	if len(o.Manufacturer) > 4 {
		return nil, fmt.Errorf("papertpm: manufacturer %q has %d letters, at most 4", o.Manufacturer, len(o.Manufacturer))
	}
	c := &Chip{
		info: tpm.Info{Manufacturer: o.Manufacturer, Vendor: o.Vendor, Firmware: o.Firmware, Simulator: true},
		made: time.Now(), resetCount: o.ResetCount,
	}
	rand.Read(c.seed[:])
	rand.Read(c.proof[:])
	var err error
	if c.ek, err = m.endorse(o.EK, c.info); err != nil {
		return nil, err
	}
	if c.ak, err = newPrimary(tpm2.TPMRHEndorsement, func(key *ecdsa.PublicKey) []byte {
		return signingArea(attributesAK, nil, key)
	}); err != nil {
		return nil, err
	}
	if c.srk, err = newPrimary(tpm2.TPMRHOwner, srkArea); err != nil {
		return nil, err
	}
	c.resetPCRs()
	return c, nil
}

// Info returns what the chip says about itself. It does not deny that it is a
// simulator.
func (c *Chip) Info() tpm.Info { return c.info }

// EK returns the endorsement key. A chip carries no chain; see [Maker.Roots].
func (c *Chip) EK() (tpm.EK, error) {
	ek := c.ek.EK
	for _, b := range []*[]byte{&ek.Public, &ek.SPKI, &ek.Certificate} {
		*b = bytes.Clone(*b)
	}
	return ek, nil
}

// AK returns the attestation key.
func (c *Chip) AK() (tpm.AK, error) {
	return tpm.AK{Public: bytes.Clone(c.ak.public), Name: c.ak.name}, nil
}

// Reset is a reboot of the machine: PCRs start over and resetCount goes up.
func (c *Chip) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resetPCRs()
	c.resetCount++
}
