package tpm

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/chancery-pki/chancery"
)

var (
	// ErrTSS2 says that a file is not the TSS2 private key of a node.
	ErrTSS2 = errors.New("tpm: malformed TSS2 private key")
	// ErrTSS2Sealed: other programs cannot open a seal.
	ErrTSS2Sealed error = &advice{"a sealed key has no TSS2 form", "only an unsealed key can be lent to other programs, and a seal cannot be taken off: join with --unsealed to get a new key"}
)

// A TSS2Key is N:SK as other programs take it: a TSS2 PRIVATE KEY file, which
// OpenSSL reads with the tpm2 provider, among others. The format is that of
// draft-bottomley-tpm2-keys, "ASN.1 Specification for TPM 2.0 Key Files".
//
// It is made by [KeyFile.TSS2] and does not replace the [KeyFile]: it has no
// creation data and no ticket, so it can neither enrol a node nor tell which
// storage root key the coordinator saw, and [TPM.LoadKey] does not take it.
//
// Like a key file it is no secret: it is of use in one chip only. But unless
// the key asks for a PIN, whoever reads the file and reaches the chip signs
// with N:SK, the statements of Chancery included. An agent does not
// share an swtpm, nor /dev/tpm0, with such a program; /dev/tpmrm0 it does.
type TSS2Key struct {
	Public  []byte // TPMT_PUBLIC of an unsealed node key
	Private []byte // contents of TPM2B_PRIVATE
	Parent  uint32 // persistent handle, or the owner hierarchy for its template H-2 key
	PIN     bool   // the key asks for one
}

const (
	tss2Type = "TSS2 PRIVATE KEY"
	maxTSS2  = 4096
)

// idLoadableKey says that TPM2_Load takes the key (section 3.1, type).
var idLoadableKey = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}

// emptyAuthTag is of the field that says whether no password is needed (section
// 3.1, emptyAuth).
var emptyAuthTag = casn1.Tag(0).ContextSpecific().Constructed()

// TSS2 returns the key as a TSS2 PRIVATE KEY file, in PEM. The error is
// [ErrTSS2Sealed] if the key is sealed: the draft describes a policy as a list
// of commands (section 4), which a seal with its two branches and its changing
// approvals is not, and version 1.1.1 of the tpm2 provider runs none.
//
// The parent in it is the storage root key's persistent handle. The other
// choice, the owner hierarchy, means the same key, made anew at each use with
// template H-2 (section 3.1, parent). That costs the time of making a key, and
// it fails once the operator has set ownerAuth, as he should after enrolment:
// the provider sends the empty one and cannot be told another.
func (f *KeyFile) TSS2() ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	if f.Seal != nil {
		return nil, ErrTSS2Sealed
	}
	k := &TSS2Key{Public: f.Public, Private: f.Private, Parent: uint32(srkHandle), PIN: f.PIN}
	if err := k.check(); err != nil {
		return nil, err
	}
	return k.Marshal(), nil
}

// PublicKey returns N:PK.
func (k *TSS2Key) PublicKey() (chancery.PublicKey, error) {
	n, err := parseNodeKey(k.Public)
	return n.Key, err
}

// Marshal returns the file's one encoding: in PEM the DER of a TPMKey that has
// the optional field emptyAuth and no other. Version 1.1.1 of the tpm2 provider
// refuses a file with any other, be it only a description, and reads a missing
// emptyAuth as true, where the draft means false.
func (k *TSS2Key) Marshal() []byte {
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(idLoadableKey)
		b.AddASN1(emptyAuthTag, func(b *cryptobyte.Builder) { b.AddASN1Boolean(!k.PIN) })
		b.AddASN1Uint64(uint64(k.Parent))
		addSized(b, k.Public)
		addSized(b, k.Private)
	})
	return pem.EncodeToMemory(&pem.Block{Type: tss2Type, Bytes: b.BytesOrPanic()})
}

// addSized writes an OCTET STRING with a whole TPM2B_PUBLIC or TPM2B_PRIVATE,
// its size included (section 3.1, pubkey and privkey).
func addSized(b *cryptobyte.Builder, value []byte) {
	b.AddASN1(casn1.OCTET_STRING, func(b *cryptobyte.Builder) { add2B(b, value) })
}

func readSized(s *cryptobyte.String, value *[]byte) bool {
	var field cryptobyte.String
	return s.ReadASN1(&field, casn1.OCTET_STRING) && read2B(&field, value) && field.Empty()
}

// ParseTSS2 reads what [TSS2Key.Marshal] wrote and nothing else: the format
// has other kinds of keys, policies and importable keys, but N:SK is none of
// them. A file of another chip is not recognised here; it is this
// node's if PublicKey is N:PK.
func ParseTSS2(file []byte) (*TSS2Key, error) {
	if len(file) > maxTSS2 {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTSS2, len(file), maxTSS2)
	}
	block, rest := pem.Decode(file)
	if block == nil || block.Type != tss2Type {
		return nil, fmt.Errorf("%w: not a PEM block of type %q", ErrTSS2, tss2Type)
	}
	if len(rest) > 0 || len(block.Headers) > 0 {
		return nil, fmt.Errorf("%w: PEM headers, or bytes after the PEM block", ErrTSS2)
	}
	k, err := parseTPMKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := k.check(); err != nil {
		return nil, err
	}
	// PEM has many encodings, of which this is the usual one.
	if !bytes.Equal(k.Marshal(), file) {
		return nil, fmt.Errorf("%w: its PEM is not canonical", ErrTSS2)
	}
	return k, nil
}

func parseTPMKey(der []byte) (*TSS2Key, error) {
	var k TSS2Key
	var kind asn1.ObjectIdentifier
	var body, emptyAuth cryptobyte.String
	var tagged, empty bool
	s := cryptobyte.String(der)
	if !s.ReadASN1(&body, casn1.SEQUENCE) || !s.Empty() || !body.ReadASN1ObjectIdentifier(&kind) {
		return nil, fmt.Errorf("%w: not a TPMKey", ErrTSS2)
	}
	if !kind.Equal(idLoadableKey) {
		return nil, fmt.Errorf("%w: type is %v, want %v, a loadable key", ErrTSS2, kind, idLoadableKey)
	}
	if !body.ReadOptionalASN1(&emptyAuth, &tagged, emptyAuthTag) ||
		tagged && (!emptyAuth.ReadASN1Boolean(&empty) || !emptyAuth.Empty()) {
		return nil, fmt.Errorf("%w: emptyAuth", ErrTSS2)
	}
	k.PIN = !empty
	if !body.ReadASN1Integer(&k.Parent) {
		return nil, fmt.Errorf("%w: parent, or an optional field before it", ErrTSS2)
	}
	if !readSized(&body, &k.Public) || !readSized(&body, &k.Private) || !body.Empty() {
		return nil, fmt.Errorf("%w: pubkey, privkey, or a field after them", ErrTSS2)
	}
	return &k, nil
}

// check tells whether the key can be the node's.
func (k *TSS2Key) check() error {
	n, err := parseNodeKey(k.Public)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTSS2, err)
	}
	if n.Sealed {
		return fmt.Errorf("%w: %w", ErrTSS2, ErrTSS2Sealed)
	}
	if len(k.Private) == 0 || len(k.Private) > maxField {
		return fmt.Errorf("%w: private part of %d bytes, at most %d", ErrTSS2, len(k.Private), maxField)
	}
	// A loaded object's handle, which the draft discourages, is another
	// object's after the next load.
	if k.Parent>>24 != 0x81 && k.Parent != owner {
		return fmt.Errorf("%w: parent %#x is neither persistent nor the owner hierarchy", ErrTSS2, k.Parent)
	}
	return nil
}
