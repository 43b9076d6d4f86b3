package tlog

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/chancery-pki/chancery/merkle"
)

// A Kind is a signature type: what a key signs, and how it stands in a note
// (signed-note, "Signature types").
type Kind byte

const (
	// Ed25519 is a log's signature over the text of the note (signed-note,
	// "Ed25519 signatures").
	Ed25519 Kind = 0x01

	// CosignatureV1 is a witness's Ed25519 signature over the text and the
	// time (tlog-cosignature, "Ed25519 signed message").
	CosignatureV1 Kind = 0x04

	// Cosigner is an ECDSA signature of a Merkle Tree CA's cosigner over a
	// [merkle.CosignedMessage] with the time ("Signature Format" of the
	// draft), P-256 with SHA-256 or P-384 with SHA-384. The signature is DER;
	// it stands in the note as tlog-cosignature has those of ML-DSA-44, after
	// a timestamp. The type is of this package, since no document has one (see
	// the package comment).
	Cosigner Kind = 0xff

	// Named is an ECDSA signature over a message that only its users know, see
	// [NewNamedKey]. In a note and in a verifier key its type is 0xff too, with
	// another name than that of a Cosigner; the number here is of no meaning
	// elsewhere.
	Named Kind = 0
)

// otherType is the type of signatures that signed-note has no number for. In
// key IDs and verifier keys the name of the type follows, and then the key
// ("Signature types").
const otherType = 0xff

// cosignerType follows the byte 0xff in key IDs and verifier keys, and is
// followed by the DER SubjectPublicKeyInfo.
const cosignerType = "github.com/chancery-pki/chancery/ecdsa-cosignature/v1"

// A Key verifies the signatures of one name. It is immutable, and has one
// verifier key as its text form (signed-note, "Verifier keys").
type Key struct {
	name string
	id   uint32
	kind Kind

	ed25519  ed25519.PublicKey    // Ed25519 and CosignatureV1
	ecdsa    *ecdsa.PublicKey     // Cosigner and Named
	cosigner merkle.TrustAnchorID // Cosigner
	message  Message              // Named

	encoded []byte // type and public key
	public  string // the public key alone
}

// NewLogKey returns the Ed25519 key of a log. The name is to be the log's
// origin.
func NewLogKey(name string, public ed25519.PublicKey) (*Key, error) {
	return newEd25519(name, Ed25519, public)
}

// NewWitnessKey returns the Ed25519 key of a witness, which must be used for
// nothing else (tlog-cosignature, "Ed25519 signed message").
func NewWitnessKey(name string, public ed25519.PublicKey) (*Key, error) {
	return newEd25519(name, CosignatureV1, public)
}

func newEd25519(name string, kind Kind, public ed25519.PublicKey) (*Key, error) {
	if len(public) != ed25519.PublicKeySize {
		return nil, malformed("Ed25519 key of %d bytes, want %d", len(public), ed25519.PublicKeySize)
	}
	k := &Key{name: name, kind: kind, ed25519: bytes.Clone(public), public: string(public)}
	k.encoded = append([]byte{byte(kind)}, public...)
	return k.finish()
}

// NewCosignerKey returns the key of a CA cosigner, whose ID is that of the CA
// ("Certification Authority Cosigners"). Its name is the origin form of the
// ID.
func NewCosignerKey(id merkle.TrustAnchorID, public *ecdsa.PublicKey) (*Key, error) {
	if id.IsZero() {
		return nil, malformed("cosigner without an ID")
	}
	return newECDSA(&Key{name: id.Origin(), kind: Cosigner, cosigner: id}, cosignerType, public)
}

// A Message returns the exact bytes that a key of type [Named] signs about a
// checkpoint at a time, in seconds since 1970, and nil for a checkpoint about
// which it does not speak. It has no state: the same arguments, the same bytes.
// What one key may sign besides must not be told from them by the verifier's
// good will: they begin with a label of their own.
type Message func(c *Checkpoint, time uint64) []byte

// NewNamedKey returns an ECDSA key of a signature type that is its users' own,
// P-256 with SHA-256 or P-384 with SHA-384. The type's name is best a URL
// without a scheme, with a version (signed-note, "Signature types"). The
// signature stands in a note as that of a [Cosigner] does: the time, 8 bytes,
// and DER. [ParseKey] does not know the message and so does not parse what
// [Key.String] returns of such a key.
func NewNamedKey(name, typeName string, public *ecdsa.PublicKey, message Message) (*Key, error) {
	if message == nil {
		return nil, malformed("key of %q without a message to sign", name)
	}
	if err := checkName(typeName); err != nil || typeName == cosignerType {
		return nil, malformed("%.80q is not the name of a signature type of one's own", typeName)
	}
	return newECDSA(&Key{name: name, kind: Named, message: message}, typeName, public)
}

func newECDSA(k *Key, typeName string, public *ecdsa.PublicKey) (*Key, error) {
	if public == nil || public.Curve != elliptic.P256() && public.Curve != elliptic.P384() {
		return nil, malformed("cosigner's key is neither P-256 nor P-384")
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, malformed("cosigner's key: %v", err)
	}
	own := *public
	k.ecdsa, k.public = &own, string(spki)
	k.encoded = append([]byte{otherType}, typeName...)
	k.encoded = append(k.encoded, spki...)
	return k.finish()
}

// finish checks the name and computes the ID ("Signatures").
func (k *Key) finish() (*Key, error) {
	if err := checkName(k.name); err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", k.name)
	h.Write(k.encoded)
	k.id = binary.BigEndian.Uint32(h.Sum(nil))
	return k, nil
}

// Name is the key's name.
func (k *Key) Name() string { return k.name }

// ID is the number that signatures have beside the name.
func (k *Key) ID() uint32 { return k.id }

// Kind is the type of the key's signatures.
func (k *Key) Kind() Kind { return k.kind }

// CosignerID is the ID under which a key of type [Cosigner] signs in
// certificates, the zero value for other keys.
func (k *Key) CosignerID() merkle.TrustAnchorID { return k.cosigner }

// Public returns the public half: an ed25519.PublicKey or an *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey {
	if k.ecdsa != nil {
		own := *k.ecdsa
		return &own
	}
	return ed25519.PublicKey(bytes.Clone(k.ed25519))
}

// made tells whether a signature claims to be the key's.
func (k *Key) made(s Signature) bool { return s.Name == k.name && s.ID == k.id }

// String returns the verifier key.
func (k *Key) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.name, k.id, b64.EncodeToString(k.encoded))
}

// ParseKey parses what [Key.String] returns, and nothing else.
func ParseKey(vkey string) (*Key, error) {
	parts := strings.Split(vkey, "+")
	if len(parts) < 3 || len(vkey) > 2*maxNameSize+512 {
		return nil, malformed("%.80q is not a verifier key", vkey)
	}
	// Base64 may have plus signs of its own.
	encoded, err := b64.DecodeString(strings.Join(parts[2:], "+"))
	if err != nil || len(encoded) == 0 {
		return nil, malformed("verifier key of %q is not in base64", parts[0])
	}
	k, err := newKey(parts[0], Kind(encoded[0]), encoded[1:])
	if err != nil {
		return nil, err
	}
	if k.String() != vkey {
		return nil, malformed("verifier key of %q: want %s", parts[0], k)
	}
	return k, nil
}

func newKey(name string, kind Kind, public []byte) (*Key, error) {
	switch kind {
	case Ed25519, CosignatureV1:
		return newEd25519(name, kind, public)
	case Cosigner:
		spki, ok := bytes.CutPrefix(public, []byte(cosignerType))
		if !ok {
			break
		}
		id, err := parseOrigin(name)
		if err != nil {
			return nil, err
		}
		public, err := x509.ParsePKIXPublicKey(spki)
		if err != nil {
			return nil, malformed("cosigner's key: %v", err)
		}
		key, _ := public.(*ecdsa.PublicKey)
		return NewCosignerKey(id, key)
	}
	return nil, malformed("verifier key of %q has the unknown type 0x%02x", name, byte(kind))
}

// originPrefix is what [merkle.TrustAnchorID.Origin] puts before the ASCII
// form (mtc-tlog, "Representing Trust Anchor IDs").
const originPrefix = "oid/1.3.6.1.4.1."

// parseOrigin is the reverse of [merkle.TrustAnchorID.Origin].
func parseOrigin(name string) (merkle.TrustAnchorID, error) {
	ascii, ok := strings.CutPrefix(name, originPrefix)
	if !ok {
		return merkle.TrustAnchorID{}, malformed("%.80q is not the name of a trust anchor", name)
	}
	id, err := merkle.ParseTrustAnchorID(ascii)
	if err != nil {
		return merkle.TrustAnchorID{}, malformed("%v", err)
	}
	return id, nil
}
