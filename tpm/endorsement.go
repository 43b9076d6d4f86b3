package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"sync"

	"golang.org/x/crypto/cryptobyte"

	"github.com/google/go-tpm/tpm2"
)

// An ekTemplate is one of the TCG EK Credential Profile's (version 2.5,
// appendix B) that this package knows.
type ekTemplate struct {
	name        string
	certificate tpm2.TPMHandle // NV index of the certificate
	size        int            // of the modulus or of a coordinate, in bytes
	curve       elliptic.Curve // nil for RSA
	head        []byte         // TPMT_PUBLIC up to the unique field
	unique      []byte         // of the template
	policy      bool           // use needs PolicySecret(endorsement) instead of a password

	parse  sync.Once
	parsed *tpm2.TPMTPublic // the template, once area has parsed it
}

func (e *ekTemplate) template() []byte { return append(e.head[:len(e.head):len(e.head)], e.unique...) }

// ekTemplates in order of preference: elliptic curves are faster in the chip.
var ekTemplates = []*ekTemplate{
	{
		name: "L-2 (ECC P-256)", certificate: 0x01c0000a, size: 32, curve: elliptic.P256(), policy: true,
		head:   head(eccStorageArea(algSHA256, attributesEK, ekPolicyA, 128, curveP256, nil, nil), 4),
		unique: zeroPoint(32),
	}, {
		name: "H-3 (ECC P-384)", certificate: 0x01c00016, size: 48, curve: elliptic.P384(),
		head:   head(eccStorageArea(algSHA384, attributesEK|userWithAuth, ekPolicyB, 256, curveP384, nil, nil), 4),
		unique: zeroPoint(0),
	}, {
		name: "L-1 (RSA 2048)", certificate: 0x01c00002, size: 256, policy: true,
		head:   rsaStorageHead(attributesEK, ekPolicyA),
		unique: append([]byte{0x01, 0x00}, make([]byte, 256)...),
	},
}

const attributesEK = born | adminWithPolicy | restricted | decrypt

// ekPolicyA is PolicySecret(endorsement) under SHA-256. ekPolicyB is, under
// SHA-384, PolicyOR of that and of what a vendor's NV index authorizes.
var (
	ekPolicyA = unhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
	ekPolicyB = unhex("b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12")
)

func head(area []byte, unique int) []byte { return area[:len(area)-unique] }

func zeroPoint(size int) []byte {
	var b cryptobyte.Builder
	add2B(&b, make([]byte, size))
	add2B(&b, make([]byte, size))
	return b.BytesOrPanic()
}

func rsaStorageHead(attributes uint32, policy []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint16(algRSA)
	b.AddUint16(algSHA256)
	b.AddUint32(attributes)
	add2B(&b, policy)
	b.AddUint16(algAES)
	b.AddUint16(128)
	b.AddUint16(algCFB)
	b.AddUint16(algNull) // scheme
	b.AddUint16(2048)
	b.AddUint32(0) // the default exponent, 65537
	return b.BytesOrPanic()
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("tpm: internal error: " + err.Error())
	}
	return b
}

// An EndorsementKey is a chip's endorsement key as the coordinator knows it.
// The key decrypts, and never signs.
type EndorsementKey struct {
	template *ekTemplate
	public   []byte
	key      crypto.PublicKey
	spki     []byte
}

// ParseEndorsementKey accepts the TPMT_PUBLIC of a key under the TCG's
// templates L-1, L-2 and H-3: restricted decryption keys that were born in
// the chip. Whether a chip holds it only [EndorsementKey.MakeCredential] can
// tell, and whose chip that is, only the certificate.
func ParseEndorsementKey(public []byte) (EndorsementKey, error) {
	for _, template := range ekTemplates {
		if unique, ok := bytes.CutPrefix(public, template.head); ok {
			key, err := template.parseUnique(unique)
			if err != nil {
				return EndorsementKey{}, evidence(LinkEK, "template %s: %w", template.name, err)
			}
			spki, err := x509.MarshalPKIXPublicKey(key)
			if err != nil {
				return EndorsementKey{}, evidence(LinkEK, "template %s: %w", template.name, err)
			}
			return EndorsementKey{template: template, public: bytes.Clone(public), key: key, spki: spki}, nil
		}
	}
	return EndorsementKey{}, evidence(LinkEK, "%w: the public area is of none of the TCG's templates L-1, L-2, H-3", ErrAttribute)
}

func (e *ekTemplate) parseUnique(unique []byte) (crypto.PublicKey, error) {
	s := cryptobyte.String(unique)
	if e.curve == nil {
		var n []byte
		if !read2B(&s, &n) || !s.Empty() {
			return nil, ErrMalformed
		}
		if len(n) != e.size || n[0] < 0x80 || n[len(n)-1]&1 == 0 {
			return nil, fmt.Errorf("%w: not a modulus of %d bits", ErrMalformed, 8*e.size)
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}, nil
	}
	var x, y []byte
	if !read2B(&s, &x) || !read2B(&s, &y) || !s.Empty() {
		return nil, ErrMalformed
	}
	point, err := uncompressed(x, y, e.size)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.ParseUncompressedPublicKey(e.curve, point)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return key, nil
}

// SPKI returns the key's DER SubjectPublicKeyInfo, which names the chip (see
// chancery.EKDigest).
func (k EndorsementKey) SPKI() []byte { return bytes.Clone(k.spki) }

// Template returns the name of the TCG's template that the key is under.
func (k EndorsementKey) Template() string { return k.template.name }

// MakeCredential encrypts a secret of at most 32 bytes so that only the chip
// that holds both this endorsement key and the attestation key with this Name
// recovers it (TPM 2.0 Part 1, section 24). The results are the contents of
// TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET for [TPM.Activate].
func (k EndorsementKey) MakeCredential(ak Name, secret []byte) (credential, encryptedSecret []byte, err error) {
	if len(secret) == 0 || len(secret) > 32 {
		return nil, nil, fmt.Errorf("tpm: a credential holds 1 to 32 bytes, not %d", len(secret))
	}
	key, err := tpm2.ImportEncapsulationKey(k.area())
	if err != nil {
		return nil, nil, evidence(LinkEK, "%w", err)
	}
	credential, encryptedSecret, err = tpm2.CreateCredential(rand.Reader, key, ak[:], secret)
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: make credential: %w", err)
	}
	return credential, encryptedSecret, nil
}

// area is the public area in the form that go-tpm takes. All keys of a template
// differ in their unique field only, and go-tpm's parser, which goes by
// reflection, takes a third of the time of a credential.
func (k EndorsementKey) area() *tpm2.TPMTPublic {
	t := k.template
	t.parse.Do(func() {
		parsed, err := tpm2.Unmarshal[tpm2.TPMTPublic](t.template())
		if err != nil {
			panic("tpm: internal error: template " + t.name + ": " + err.Error())
		}
		t.parsed = parsed
	})
	area := *t.parsed
	switch unique := k.public[len(t.head)+2:]; { // after its length, of the modulus or of x
	case t.curve == nil:
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: unique})
	default:
		x, y := unique[:t.size], unique[t.size+2:]
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y},
		})
	}
	return &area
}
