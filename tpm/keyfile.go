package tpm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/chancery-pki/chancery"
)

// ErrKeyFile says that a key file cannot be read.
var ErrKeyFile = errors.New("tpm: malformed key file")

// A KeyFile is N:SK as it lies on disk: wrapped by the chip's storage root
// key, of use in that chip only, and under its seal. No part of it is secret,
// but whoever deletes it destroys the key.
type KeyFile struct {
	Public         []byte // TPMT_PUBLIC
	Private        []byte // contents of TPM2B_PRIVATE
	CreationData   []byte // TPMS_CREATION_DATA
	CreationTicket []byte // TPMT_TK_CREATION
	PIN            bool   // the key asks for a PIN; such a key is not sealed
	Seal           *Seal  // nil if the key is not sealed
	Approvals      []Approval
}

// An Approval lets a sealed key be used in a newer state.
type Approval struct {
	Epoch     uint64
	PCRDigest [32]byte // see [PCRValues.Digest]
	Signature chancery.Signature
}

const (
	keyFileMagic = "chancery-v1 node key\x00"
	maxField     = 1024
	maxKeyFile   = 8192
	maxApprovals = 16
)

// What protects a key, as its file says it.
const (
	fileUnsealed = 0
	fileSealed   = 1
	fileWithPIN  = 2
)

// PublicKey returns N:PK.
func (f *KeyFile) PublicKey() (chancery.PublicKey, error) {
	k, err := parseNodeKey(f.Public)
	if err != nil {
		return chancery.PublicKey{}, err
	}
	return k.Key, nil
}

// AddApproval adds the approval key's signature over [Seal.Approve] of the
// epoch and values, after verifying it. The newest come first, and of more
// than sixteen the oldest are dropped. A [Key] that was loaded before does not
// know it: load the key again.
func (f *KeyFile) AddApproval(epoch uint64, values PCRValues, signature chancery.Signature) error {
	if f.Seal == nil {
		return errors.New("tpm: the key is not sealed and needs no approvals")
	}
	statement, err := f.Seal.Approve(epoch, values)
	if err != nil {
		return err
	}
	if err := f.Seal.Approval.Verify(chancery.FleetID{}, statement, signature); err != nil {
		return fmt.Errorf("tpm: approval of epoch %d: %w", epoch, err)
	}
	a := Approval{Epoch: epoch, PCRDigest: values.Digest(), Signature: slices.Clone(signature)}
	kept := slices.DeleteFunc(slices.Clone(f.Approvals), func(b Approval) bool {
		return b.Epoch == a.Epoch && b.PCRDigest == a.PCRDigest
	})
	f.Approvals = append([]Approval{a}, kept[:min(len(kept), maxApprovals-1)]...)
	return nil
}

// Marshal returns the file's one encoding.
func (f *KeyFile) Marshal() []byte {
	var b cryptobyte.Builder
	b.AddBytes([]byte(keyFileMagic))
	add2B(&b, f.Public)
	add2B(&b, f.Private)
	add2B(&b, f.CreationData)
	add2B(&b, f.CreationTicket)
	switch {
	case f.PIN:
		b.AddUint8(fileWithPIN)
		return b.BytesOrPanic()
	case f.Seal == nil:
		b.AddUint8(fileUnsealed)
		return b.BytesOrPanic()
	}
	b.AddUint8(fileSealed)
	add2B(&b, f.Seal.Approval.SPKI())
	b.AddBytes(f.Seal.Nonce[:])
	b.AddBytes(bitmap(f.Seal.PCRs))
	b.AddBytes(f.Seal.AK[:])
	b.AddUint64(f.Seal.Epoch)
	b.AddBytes(f.Seal.PCRDigest[:])
	b.AddUint8(uint8(len(f.Approvals)))
	for _, a := range f.Approvals {
		b.AddUint64(a.Epoch)
		b.AddBytes(a.PCRDigest[:])
		b.AddBytes(a.Signature)
	}
	return b.BytesOrPanic()
}

// ParseKeyFile reads what [KeyFile.Marshal] wrote. A file whose parts do not
// belong together, such as a seal that is not the key's, is refused; one of
// another chip is not recognised here but by [TPM.LoadKey].
func ParseKeyFile(file []byte) (*KeyFile, error) {
	if len(file) > maxKeyFile {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrKeyFile, len(file), maxKeyFile)
	}
	body, ok := bytes.CutPrefix(file, []byte(keyFileMagic))
	if !ok {
		return nil, fmt.Errorf("%w: it does not start as one", ErrKeyFile)
	}
	s := cryptobyte.String(body)
	f := &KeyFile{}
	var protection uint8
	for _, field := range []*[]byte{&f.Public, &f.Private, &f.CreationData, &f.CreationTicket} {
		if !read2B(&s, field) || len(*field) > maxField {
			return nil, fmt.Errorf("%w: length of a field", ErrKeyFile)
		}
		*field = bytes.Clone(*field)
	}
	if !s.ReadUint8(&protection) || protection > fileWithPIN {
		return nil, fmt.Errorf("%w: what protects the key", ErrKeyFile)
	}
	if f.PIN = protection == fileWithPIN; protection == fileSealed {
		var err error
		if f.Seal, f.Approvals, err = readSeal(&s); err != nil {
			return nil, err
		}
	}
	if !s.Empty() {
		return nil, fmt.Errorf("%w: %d bytes after the end", ErrKeyFile, len(s))
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return f, nil
}

func readSeal(s *cryptobyte.String) (*Seal, []Approval, error) {
	var seal Seal
	var count uint8
	var spki []byte
	bits := make([]byte, 3)
	if !read2B(s, &spki) || !s.CopyBytes(seal.Nonce[:]) || !s.CopyBytes(bits) || !s.CopyBytes(seal.AK[:]) ||
		!s.ReadUint64(&seal.Epoch) || !s.CopyBytes(seal.PCRDigest[:]) || !s.ReadUint8(&count) || count > maxApprovals {
		return nil, nil, fmt.Errorf("%w: seal", ErrKeyFile)
	}
	var err error
	if seal.Approval, err = chancery.ParsePublicKey(spki); err != nil {
		return nil, nil, fmt.Errorf("%w: approval key: %w", ErrKeyFile, err)
	}
	seal.PCRs = fromBitmap(bits)
	var approvals []Approval
	for range count {
		a := Approval{Signature: make([]byte, chancery.P256.SignatureSize())}
		if !s.ReadUint64(&a.Epoch) || !s.CopyBytes(a.PCRDigest[:]) || !s.CopyBytes(a.Signature) {
			return nil, nil, fmt.Errorf("%w: approval", ErrKeyFile)
		}
		approvals = append(approvals, a)
	}
	return &seal, approvals, nil
}

// check tells whether the parts belong together.
func (f *KeyFile) check() error {
	k, err := parseNodeKey(f.Public)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	if k.Sealed != (f.Seal != nil) {
		return fmt.Errorf("%w: sealed key without seal or the reverse", ErrKeyFile)
	}
	if f.PIN && f.Seal != nil {
		return fmt.Errorf("%w: a sealed key with a PIN", ErrKeyFile)
	}
	if _, err := parseCreation(f.CreationData); err != nil {
		return fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	if f.Seal == nil {
		return nil
	}
	if err := f.Seal.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	if err := k.CheckSeal(*f.Seal); err != nil {
		return fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	return nil
}

// creationHash is what the ticket is over (TPM 2.0 Part 2, section 15.1).
func (f *KeyFile) creationHash() []byte {
	h := sha256.Sum256(f.CreationData)
	return h[:]
}

func (f *KeyFile) clone() *KeyFile {
	c := &KeyFile{
		Public:         bytes.Clone(f.Public),
		Private:        bytes.Clone(f.Private),
		CreationData:   bytes.Clone(f.CreationData),
		CreationTicket: bytes.Clone(f.CreationTicket),
		PIN:            f.PIN,
	}
	if f.Seal != nil {
		seal := *f.Seal
		seal.PCRs = slices.Clone(seal.PCRs)
		c.Seal = &seal
	}
	for _, a := range f.Approvals {
		a.Signature = slices.Clone(a.Signature)
		c.Approvals = append(c.Approvals, a)
	}
	return c
}
