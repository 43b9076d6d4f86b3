package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"

	"github.com/chancery-pki/chancery"
)

// An AttestationKey is a chip's attestation key as the coordinator knows it:
// a restricted key, so that what verifies under it was composed by a chip.
// By which chip, credential activation tells ([EndorsementKey.MakeCredential]).
type AttestationKey struct {
	key  chancery.PublicKey
	name Name
}

// ParseAttestationKey accepts the TPMT_PUBLIC of a restricted ECDSA P-256
// signing key with the attributes of [AK] and no policy.
func ParseAttestationKey(public []byte) (AttestationKey, error) {
	area, err := parseSigningArea(public)
	if err != nil {
		return AttestationKey{}, &EvidenceError{LinkAK, err}
	}
	if err := checkAttributes(area.attributes, attributesAK); err != nil {
		return AttestationKey{}, &EvidenceError{LinkAK, err}
	}
	if len(area.policy) != 0 {
		return AttestationKey{}, evidence(LinkAK, "%w: it has a policy", ErrAttribute)
	}
	return AttestationKey{key: area.key, name: area.name}, nil
}

// Key returns the public key.
func (k AttestationKey) Key() chancery.PublicKey { return k.key }

// Name returns the key's Name, to which credentials are bound.
func (k AttestationKey) Name() Name { return k.name }

// Facts are what every attestation says of its chip at that moment.
type Facts struct {
	Clock        uint64 // milliseconds the chip has been powered since it was last cleared
	ResetCount   uint32 // TPM resets, which are reboots, since it was last cleared
	RestartCount uint32 // resumptions since the last reset
	Safe         bool   // Clock has not gone back, as it may after a loss of power
	Firmware     uint64 // vendor's version
}

// A Creation is what TPM2_CertifyCreation says of a node key.
type Creation struct {
	Facts
	CreationData
}

// CreationData is the part of TPMS_CREATION_DATA (TPM 2.0 Part 2, section
// 15.1) that matters here.
type CreationData struct {
	PCRs      []int    // recorded at creation; those of the seal
	PCRDigest [32]byte // of their values; zero without PCRs
	Parent    Name     // the storage root key

	parentQualified []byte // its Qualified Name
}

// VerifyCreation checks that the attestation key's chip made the node key in
// this public area itself, in the state that the creation data tell, and under
// a primary key of the owner hierarchy: a parent below another key might have
// come from elsewhere, with whatever is wrapped by it.
func (k AttestationKey) VerifyCreation(a Attestation, node NodeKey, creationData []byte, qualifying [32]byte) (Creation, error) {
	facts, body, err := k.verify(LinkCreation, a, tagCreation, qualifying)
	if err != nil {
		return Creation{}, err
	}
	var name, hash []byte
	if !read2B(&body, &name) || !read2B(&body, &hash) || !body.Empty() {
		return Creation{}, evidence(LinkCreation, "%w: TPMS_CREATION_INFO", ErrMalformed)
	}
	if !bytes.Equal(name, node.Name[:]) {
		return Creation{}, evidence(LinkCreation, "%w: it is of object %x, not %v", ErrAttestation, name, node.Name)
	}
	if sum := sha256.Sum256(creationData); !bytes.Equal(hash, sum[:]) {
		return Creation{}, evidence(LinkCreation, "%w: the creation data are not those that were attested", ErrAttestation)
	}
	data, err := parseCreation(creationData)
	if err != nil {
		return Creation{}, &EvidenceError{LinkCreation, err}
	}
	if want := qualified(owner, data.Parent); !bytes.Equal(data.parentQualified, want[:]) {
		return Creation{}, evidence(LinkCreation, "%w: the parent is no primary key of the owner hierarchy", ErrAttestation)
	}
	return Creation{Facts: facts, CreationData: data}, nil
}

// VerifyQuote checks that the chip's PCRs have these values: the quote is of
// exactly these PCRs of the SHA-256 bank.
func (k AttestationKey) VerifyQuote(a Attestation, values PCRValues, qualifying [32]byte) (Facts, error) {
	facts, body, err := k.verify(LinkQuote, a, tagQuote, qualifying)
	if err != nil {
		return Facts{}, err
	}
	pcrs, digest, err := readQuote(body)
	if err != nil {
		return Facts{}, &EvidenceError{LinkQuote, err}
	}
	if want := values.Numbers(); numbers(pcrs) != numbers(want) {
		return Facts{}, evidence(LinkQuote, "%w: it is of PCR %s, not %s", ErrAttestation, numbers(pcrs), numbers(want))
	}
	if digest != values.Digest() {
		return Facts{}, evidence(LinkQuote, "%w: the values are not those that were quoted", ErrAttestation)
	}
	return facts, nil
}

// VerifyEpoch checks TPM2_NV_Certify of the epoch counter and returns its
// value. The index's Name is computed here from the approval key and the
// attestation key's Name: a counter with other attributes or another policy,
// which its owner could move, does not pass.
func (k AttestationKey) VerifyEpoch(a Attestation, approval chancery.PublicKey, qualifying [32]byte) (epoch uint64, facts Facts, err error) {
	if approval.IsZero() || approval.Suite() != chancery.P256 {
		return 0, Facts{}, evidence(LinkEpoch, "%w: the approval key is %v, want a P-256 key", ErrAttribute, approval)
	}
	facts, body, err := k.verify(LinkEpoch, a, tagNV, qualifying)
	if err != nil {
		return 0, Facts{}, err
	}
	var name, contents []byte
	var offset uint16
	if !read2B(&body, &name) || !body.ReadUint16(&offset) || !read2B(&body, &contents) || !body.Empty() {
		return 0, Facts{}, evidence(LinkEpoch, "%w: TPMS_NV_CERTIFY_INFO", ErrMalformed)
	}
	if want := epochIndex(approval, k.name).name(); !bytes.Equal(name, want[:]) {
		return 0, Facts{}, evidence(LinkEpoch, "%w: it is of NV index %x, not %v", ErrAttestation, name, want)
	}
	value := cryptobyte.String(contents)
	if offset != 0 || !value.ReadUint64(&epoch) || !value.Empty() {
		return 0, Facts{}, evidence(LinkEpoch, "%w: %d bytes at offset %d, want the whole counter", ErrAttestation, len(contents), offset)
	}
	return epoch, facts, nil
}

// The tags of attestations (TPM 2.0 Part 2, section 6.9) and the number that
// starts all that a chip composes (section 6.2).
const (
	generated   = 0xff544347
	tagNV       = 0x8014
	tagQuote    = 0x8018
	tagCreation = 0x801a

	maxAttest    = 1024
	maxSignature = 128
)

// verify checks the signature and what is common to all attestations, and
// returns the part that differs.
func (k AttestationKey) verify(link string, a Attestation, tag uint16, qualifying [32]byte) (Facts, cryptobyte.String, error) {
	fail := func(err error) (Facts, cryptobyte.String, error) {
		return Facts{}, nil, &EvidenceError{link, err}
	}
	if k.key.IsZero() {
		return fail(fmt.Errorf("%w: no attestation key", ErrAttestSignature))
	}
	if err := k.checkSignature(a); err != nil {
		return fail(err)
	}
	head, body, err := parseAttest(a.Attest)
	if err != nil {
		return fail(err)
	}
	if head.tag != tag {
		return fail(fmt.Errorf("%w: type %#04x, want %#04x", ErrAttestation, head.tag, tag))
	}
	if !bytes.Equal(head.extraData, qualifying[:]) {
		return fail(fmt.Errorf("%w: its qualifying data are not the ones asked for", ErrAttestation))
	}
	// A key of another hierarchy would blur the clock.
	if want := qualified(endorsement, k.name); !bytes.Equal(head.signer, want[:]) {
		return fail(fmt.Errorf("%w: the signer is no primary key of the endorsement hierarchy", ErrAttestation))
	}
	return head.facts, body, nil
}

func (k AttestationKey) checkSignature(a Attestation) error {
	if len(a.Attest) > maxAttest || len(a.Signature) > maxSignature {
		return fmt.Errorf("%w: attestation of %d bytes, signature of %d", ErrMalformed, len(a.Attest), len(a.Signature))
	}
	r, s, err := parseSignature(a.Signature)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(a.Attest)
	if !ecdsa.Verify(k.key.ECDSA(), digest[:], r, s) {
		return ErrAttestSignature
	}
	return nil
}

// attestHead is the common part of TPMS_ATTEST (TPM 2.0 Part 2, section
// 10.12.12).
type attestHead struct {
	tag               uint16
	signer, extraData []byte
	facts             Facts
}

func parseAttest(attest []byte) (attestHead, cryptobyte.String, error) {
	var h attestHead
	var magic uint32
	var safe uint8
	s := cryptobyte.String(attest)
	if !s.ReadUint32(&magic) || magic != generated {
		return h, nil, fmt.Errorf("%w: not composed by a TPM", ErrMalformed)
	}
	if !s.ReadUint16(&h.tag) || !read2B(&s, &h.signer) || !read2B(&s, &h.extraData) ||
		!s.ReadUint64(&h.facts.Clock) || !s.ReadUint32(&h.facts.ResetCount) || !s.ReadUint32(&h.facts.RestartCount) ||
		!s.ReadUint8(&safe) || safe > 1 || !s.ReadUint64(&h.facts.Firmware) {
		return h, nil, fmt.Errorf("%w: TPMS_ATTEST", ErrMalformed)
	}
	h.facts.Safe = safe == 1
	return h, s, nil
}

// parseSignature reads a TPMT_SIGNATURE of ECDSA with SHA-256. Chips return
// either s, and some strip leading zeros.
func parseSignature(signature []byte) (r, s *big.Int, err error) {
	var alg, hash uint16
	var rb, sb []byte
	in := cryptobyte.String(signature)
	if !in.ReadUint16(&alg) || alg != algECDSA || !in.ReadUint16(&hash) || hash != algSHA256 ||
		!read2B(&in, &rb) || !read2B(&in, &sb) || !in.Empty() || len(rb) > 32 || len(sb) > 32 {
		return nil, nil, fmt.Errorf("%w: TPMT_SIGNATURE, want ECDSA with SHA-256", ErrMalformed)
	}
	return new(big.Int).SetBytes(rb), new(big.Int).SetBytes(sb), nil
}

// readQuote reads a TPMS_QUOTE_INFO.
func readQuote(body cryptobyte.String) (pcrs []int, digest [32]byte, err error) {
	var d []byte
	pcrs, ok := readSelection(&body)
	if !ok || !read2B(&body, &d) || len(d) != len(digest) || !body.Empty() {
		return nil, digest, fmt.Errorf("%w: TPMS_QUOTE_INFO of the SHA-256 bank", ErrMalformed)
	}
	return pcrs, [32]byte(d), nil
}

// parseQuote returns the digest in our own chip's quote.
func parseQuote(attest []byte) ([32]byte, error) {
	_, body, err := parseAttest(attest)
	if err != nil {
		return [32]byte{}, err
	}
	_, digest, err := readQuote(body)
	return digest, err
}

func parseCreation(data []byte) (CreationData, error) {
	var c CreationData
	var digest, parent, parentQualified, outside []byte
	var locality uint8
	var parentAlg uint16
	if len(data) > maxField {
		return c, fmt.Errorf("%w: %d bytes of creation data", ErrMalformed, len(data))
	}
	s := cryptobyte.String(data)
	pcrs, ok := readSelection(&s)
	if !ok || !read2B(&s, &digest) || !s.ReadUint8(&locality) || !s.ReadUint16(&parentAlg) || parentAlg != algSHA256 ||
		!read2B(&s, &parent) || len(parent) != len(c.Parent) || !read2B(&s, &parentQualified) || !read2B(&s, &outside) || !s.Empty() {
		return c, fmt.Errorf("%w: TPMS_CREATION_DATA", ErrMalformed)
	}
	c.PCRs, c.Parent, c.parentQualified = pcrs, Name(parent), parentQualified
	if len(pcrs) > 0 {
		if len(digest) != len(c.PCRDigest) {
			return c, fmt.Errorf("%w: pcrDigest of %d bytes", ErrMalformed, len(digest))
		}
		c.PCRDigest = [32]byte(digest)
	}
	return c, nil
}
