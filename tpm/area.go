package tpm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/chancery-pki/chancery"
)

// A Name is a TPM's own identifier of an object or NV index whose nameAlg is
// SHA-256: 000b and the hash of its public area (TPM 2.0 Part 1, section 16).
type Name [34]byte

// String returns the name in hexadecimal.
func (n Name) String() string { return hex.EncodeToString(n[:]) }

// nameOf hashes a TPMT_PUBLIC or a TPMS_NV_PUBLIC.
func nameOf(public []byte) Name {
	h := sha256.Sum256(public)
	return Name(append([]byte{0x00, 0x0b}, h[:]...))
}

// qualified is the Qualified Name of a primary object: the hash of its
// hierarchy's handle and its Name. It tells where the object really is.
func qualified(hierarchy uint32, n Name) Name {
	var b cryptobyte.Builder
	b.AddUint32(hierarchy)
	b.AddBytes(n[:])
	return nameOf(b.BytesOrPanic())
}

// Hierarchies (TPM 2.0 Part 2, section 7.4).
const (
	owner       = 0x40000001
	endorsement = 0x4000000b
)

// Algorithms and curves (TPM 2.0 Part 2, sections 6.3 and 6.4).
const (
	algRSA    = 0x0001
	algAES    = 0x0006
	algSHA256 = 0x000b
	algSHA384 = 0x000c
	algNull   = 0x0010
	algECDSA  = 0x0018
	algECC    = 0x0023
	algCFB    = 0x0043
	curveP256 = 0x0003
	curveP384 = 0x0004
)

// Object attributes (TPM 2.0 Part 2, section 8.3.2).
const (
	fixedTPM            = 1 << 1
	fixedParent         = 1 << 4
	sensitiveDataOrigin = 1 << 5
	userWithAuth        = 1 << 6
	adminWithPolicy     = 1 << 7
	noDA                = 1 << 10
	restricted          = 1 << 16
	decrypt             = 1 << 17
	sign                = 1 << 18

	// born says that the chip made the key and never gives it away.
	born = fixedTPM | fixedParent | sensitiveDataOrigin

	attributesAK       = born | userWithAuth | noDA | restricted | sign
	attributesSealed   = born | adminWithPolicy | noDA | sign
	attributesUnsealed = born | userWithAuth | noDA | sign
	attributesSRK      = born | userWithAuth | noDA | restricted | decrypt
	attributesExternal = userWithAuth | sign // the approval key, as LoadExternal takes it
)

// attributeNames in the order in which a person is told about them.
var attributeNames = []struct {
	bit  uint32
	name string
}{
	{fixedTPM, "fixedTPM"}, {fixedParent, "fixedParent"}, {sensitiveDataOrigin, "sensitiveDataOrigin"},
	{userWithAuth, "userWithAuth"}, {adminWithPolicy, "adminWithPolicy"}, {noDA, "noDA"},
	{restricted, "restricted"}, {decrypt, "decrypt"}, {sign, "sign"},
}

// checkAttributes compares all 32 bits and names the first that differs.
func checkAttributes(got, want uint32) error {
	if got == want {
		return nil
	}
	for _, a := range attributeNames {
		switch {
		case got&a.bit == 0 && want&a.bit != 0:
			return fmt.Errorf("%w: %s is not set", ErrAttribute, a.name)
		case got&a.bit != 0 && want&a.bit == 0:
			return fmt.Errorf("%w: %s is set", ErrAttribute, a.name)
		}
	}
	return fmt.Errorf("%w: attributes %08x, want %08x", ErrAttribute, got, want)
}

// signingArea is the TPMT_PUBLIC (TPM 2.0 Part 2, section 12.2.4) of an ECDSA
// P-256 key with SHA-256. As a template it has a label in place of the point.
func signingArea(attributes uint32, policy, x, y []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint16(algECC)
	b.AddUint16(algSHA256)
	b.AddUint32(attributes)
	add2B(&b, policy)
	b.AddUint16(algNull) // symmetric
	b.AddUint16(algECDSA)
	b.AddUint16(algSHA256)
	b.AddUint16(curveP256)
	b.AddUint16(algNull) // kdf
	add2B(&b, x)
	add2B(&b, y)
	return b.BytesOrPanic()
}

// signingKey is what parseSigningArea finds in a signingArea.
type signingKey struct {
	attributes uint32
	policy     []byte
	key        chancery.PublicKey
	name       Name
}

// parseSigningArea is strict: it accepts what signingArea writes with a point
// on the curve, and nothing else. The attributes are the caller's to check.
func parseSigningArea(public []byte) (signingKey, error) {
	var k signingKey
	var kind, nameAlg, symmetric, scheme, hash, curve, kdf uint16
	var x, y []byte
	s := cryptobyte.String(public)
	if !s.ReadUint16(&kind) || !s.ReadUint16(&nameAlg) || !s.ReadUint32(&k.attributes) || !read2B(&s, &k.policy) ||
		!s.ReadUint16(&symmetric) || !s.ReadUint16(&scheme) {
		return k, fmt.Errorf("%w: TPMT_PUBLIC", ErrMalformed)
	}
	for _, f := range []struct {
		what      string
		got, want uint16
	}{
		{"type", kind, algECC}, {"nameAlg", nameAlg, algSHA256},
		{"symmetric algorithm", symmetric, algNull}, {"scheme", scheme, algECDSA},
	} {
		if f.got != f.want {
			return k, fmt.Errorf("%w: %s is %#04x, want %#04x", ErrAttribute, f.what, f.got, f.want)
		}
	}
	if !s.ReadUint16(&hash) || !s.ReadUint16(&curve) || !s.ReadUint16(&kdf) ||
		!read2B(&s, &x) || !read2B(&s, &y) || !s.Empty() {
		return k, fmt.Errorf("%w: TPMT_PUBLIC", ErrMalformed)
	}
	if hash != algSHA256 || curve != curveP256 || kdf != algNull {
		return k, fmt.Errorf("%w: scheme hash %#04x, curve %#04x, kdf %#04x; want ECDSA P-256 with SHA-256", ErrAttribute, hash, curve, kdf)
	}
	if len(k.policy) != 0 && len(k.policy) != sha256.Size {
		return k, fmt.Errorf("%w: authPolicy has %d bytes", ErrMalformed, len(k.policy))
	}
	point, err := uncompressed(x, y, 32)
	if err != nil {
		return k, err
	}
	public256, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return k, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	k.key, err = chancery.NewPublicKey(public256)
	if err != nil {
		return k, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	k.name = nameOf(public)
	return k, nil
}

// uncompressed joins coordinates to a SEC 1 point. Some chips strip leading
// zeros of a coordinate.
func uncompressed(x, y []byte, size int) ([]byte, error) {
	if len(x) == 0 || len(y) == 0 || len(x) > size || len(y) > size {
		return nil, fmt.Errorf("%w: coordinates of %d and %d bytes", ErrMalformed, len(x), len(y))
	}
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	return point, nil
}

// approvalArea is the public area under which the chip knows the approval
// key. Its Name is part of every seal, so agent and coordinator share it.
func approvalArea(approval chancery.PublicKey) []byte {
	point, err := approval.ECDSA().Bytes()
	if err != nil {
		panic("tpm: internal error: a public key does not marshal: " + err.Error())
	}
	return signingArea(attributesExternal, nil, point[1:33], point[33:])
}

// add2B writes a sized buffer (TPM2B_..., TPM 2.0 Part 2, section 10.4).
func add2B(b *cryptobyte.Builder, value []byte) {
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(value) })
}

func read2B(s *cryptobyte.String, value *[]byte) bool {
	return s.ReadUint16LengthPrefixed((*cryptobyte.String)(value))
}
