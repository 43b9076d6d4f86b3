package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/google/go-tpm/tpm2"
)

// srkHandle is where the TCG's provisioning guidance puts the storage root
// key.
const srkHandle = tpm2.TPMHandle(0x81000001)

// storageKey is the persistent parent of N:SK and the salt of every session.
type storageKey struct {
	handle tpm2.TPMHandle
	name   Name
	public *tpm2.TPMTPublic
}

// srkTemplate is template H-2 of the TCG EK Credential Profile applied to the
// owner hierarchy, with an empty unique: the parent that TSS2 key files mean.
// go-tpm's ECCSRKTemplate has 32 zero bytes there and gives another key.
func srkTemplate() []byte {
	return eccStorageArea(algSHA256, attributesSRK, nil, 128, curveP256, nil, nil)
}

// eccStorageArea is the TPMT_PUBLIC of an ECC key that wraps (TPM 2.0 Part 2,
// section 12.2.4).
func eccStorageArea(nameAlg uint16, attributes uint32, policy []byte, aesBits, curve uint16, x, y []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint16(algECC)
	b.AddUint16(nameAlg)
	b.AddUint32(attributes)
	add2B(&b, policy)
	b.AddUint16(algAES)
	b.AddUint16(aesBits)
	b.AddUint16(algCFB)
	b.AddUint16(algNull) // scheme
	b.AddUint16(curve)
	b.AddUint16(algNull) // kdf
	add2B(&b, x)
	add2B(&b, y)
	return b.BytesOrPanic()
}

// storageRootKey returns the storage root key and makes it persistent when
// the chip has none.
func (t *TPM) storageRootKey() (*storageKey, error) {
	if t.srk != nil {
		return t.srk, nil
	}
	srk, err := t.readStorageRootKey()
	if errors.Is(err, tpm2.TPMRCHandle) {
		if err = t.makeStorageRootKey(); err == nil {
			srk, err = t.readStorageRootKey()
		}
	}
	if err != nil {
		return nil, err
	}
	t.srk = srk
	return srk, nil
}

// readStorageRootKey accepts what is at the handle if it has the template's
// public area and is a primary key of the owner hierarchy.
func (t *TPM) readStorageRootKey() (*storageKey, error) {
	head := srkTemplate()
	head = head[:len(head)-4] // the two empty coordinates
	fits := func(o object) bool { return bytes.HasPrefix(o.public, head) && o.primary(owner) }
	o, err := t.readPublic(srkHandle, fits)
	if err != nil {
		return nil, err
	}
	if !fits(o) {
		return nil, ErrSRK
	}
	parsed, err := tpm2.Unmarshal[tpm2.TPMTPublic](o.public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSRK, err)
	}
	return &storageKey{handle: srkHandle, name: nameOf(o.public), public: parsed}, nil
}

func (t *TPM) makeStorageRootKey() error {
	rsp, err := t.createPrimary(owner, srkTemplate())
	if err != nil {
		return ownerError(fmt.Errorf("tpm: create storage root key: %w", err))
	}
	defer t.flush(rsp.ObjectHandle)
	return t.persist(rsp.ObjectHandle, rsp.Name, srkHandle)
}

func (t *TPM) createPrimary(h tpm2.TPMHandle, template []byte) (*tpm2.CreatePrimaryResponse, error) {
	return tpm2.CreatePrimary{
		PrimaryHandle: hierarchy(h),
		InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](template),
	}.Execute(t.transport)
}

// persist copies a loaded object into NV (TPM 2.0 Part 3, section 28.5). The
// owner authorizes it, also for keys of the endorsement hierarchy.
func (t *TPM) persist(loaded tpm2.TPMHandle, name tpm2.TPM2BName, at tpm2.TPMHandle) error {
	_, err := tpm2.EvictControl{
		Auth:             hierarchy(owner),
		ObjectHandle:     tpm2.NamedHandle{Handle: loaded, Name: name},
		PersistentHandle: at,
	}.Execute(t.transport)
	if err != nil {
		return ownerError(fmt.Errorf("tpm: make %#x persistent: %w", uint32(at), err))
	}
	return nil
}

// An object is what TPM2_ReadPublic says of one: its TPMT_PUBLIC, its Name and
// its Qualified Name.
type object struct{ public, name, qualifiedName []byte }

// primary reports whether it is a primary key of the hierarchy, with a Name by
// SHA-256. The Qualified Name shows it.
func (o object) primary(hierarchy uint32) bool {
	name := nameOf(o.public)
	full := qualified(hierarchy, name)
	return bytes.Equal(o.name, name[:]) && bytes.Equal(o.qualifiedName, full[:])
}

// whole reports whether the Name is that of the public area, so that neither
// was damaged on the way.
func (o object) whole() bool {
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](o.public)
	if err != nil {
		return false
	}
	name, err := tpm2.ObjectName(area)
	return err == nil && bytes.Equal(o.name, name.Buffer)
}

// readPublic reads the object at a handle, and a second time if it does not
// fit: then it may be the answer that is wrong.
func (t *TPM) readPublic(h tpm2.TPMHandle, fits func(object) bool) (o object, err error) {
	for range 2 {
		rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(t.transport)
		if err != nil {
			return object{}, fmt.Errorf("tpm: read public area of %#x: %w", uint32(h), err)
		}
		o = object{rsp.OutPublic.Bytes(), rsp.Name.Buffer, rsp.QualifiedName.Buffer}
		if fits(o) {
			break
		}
	}
	return o, nil
}

func copyName(n *Name, b []byte) {
	if len(b) == len(n) {
		copy(n[:], b)
	}
}
