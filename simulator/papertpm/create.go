package papertpm

import (
	"crypto"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/tpm"
)

// CreateKey makes N:SK: sealed to the PCRs and the epoch as they are now, or,
// without a sealing, to nothing. The file is of use in this chip only.
func (c *Chip) CreateKey(sealing *tpm.Sealing) (*tpm.KeyFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sealing == nil {
		return c.create(nil)
	}
	if err := checkSealing(sealing); err != nil {
		return nil, err
	}
	a := c.authority(sealing.Approval, c.ak.name)
	epoch, err := c.ensureEpoch(a)
	if err != nil {
		return nil, err
	}
	to := tpm.Seal{Sealing: *sealing, AK: c.ak.name, Epoch: epoch, PCRDigest: c.pcrDigest(sealing.PCRs)}
	to.PCRs = slices.Clone(to.PCRs)
	return c.create(&seal{to, a})
}

// create is TPM2_Create (TPM 2.0 Part 3, section 12.1) under the storage root
// key. The caller holds mu.
func (c *Chip) create(to *seal) (*tpm.KeyFile, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("papertpm: %w", err)
	}
	file := &tpm.KeyFile{}
	digest := c.pcrDigest(nil)
	data := tpm2.TPMSCreationData{
		Locality:            tpm2.TPMALocality{TPMLocZero: true},
		ParentNameAlg:       tpm2.TPMAlgSHA256,
		ParentName:          name2B(c.srk.name),
		ParentQualifiedName: name2B(c.srk.qualified),
	}
	if to == nil {
		file.Public = signingArea(attributesUnsealed, nil, &key.PublicKey)
	} else {
		file.Public = signingArea(attributesSealed, to.policy(), &key.PublicKey)
		file.Seal, data.PCRSelect, digest = &to.Seal, selection(to.PCRs), to.PCRDigest
	}
	data.PCRDigest = tpm2.TPM2BDigest{Buffer: digest[:]}
	file.CreationData = tpm2.Marshal(data)
	name := nameOf(file.Public)
	file.CreationTicket = tpm2.Marshal(c.ticket(name, sha256.Sum256(file.CreationData)))
	file.Private, err = c.wrap(key, name)
	return file, err
}

// ticket is the chip's note to itself that it made a key (TPM 2.0 Part 2,
// section 10.7.3).
func (c *Chip) ticket(name tpm.Name, creation [32]byte) tpm2.TPMTTKCreation {
	h := hmac.New(crypto.SHA512.New, c.proof[:])
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTCreation)))
	h.Write(name[:])
	h.Write(creation[:])
	return tpm2.TPMTTKCreation{Tag: tpm2.TPMSTCreation, Hierarchy: tpm2.TPMRHOwner, Digest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)}}
}

// outer is how the storage root key protects its children.
var outer = protection{hash: crypto.SHA256, bits: 128}

// wrap is a TPM2B_PRIVATE's contents: HMAC, initialization vector, encrypted
// TPM2B_SENSITIVE (TPM 2.0 Part 1, section 22).
func (c *Chip) wrap(key *ecdsa.PrivateKey, name tpm.Name) ([]byte, error) {
	scalar, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("papertpm: %w", err)
	}
	sensitive := tpm2.Marshal(tpm2.New2B(tpm2.TPMTSensitive{
		SensitiveType: tpm2.TPMAlgECC,
		AuthValue:     tpm2.TPM2BAuth{Buffer: make([]byte, 32)}, // the empty password, padded to nameAlg's size
		Sensitive:     tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgECC, &tpm2.TPM2BECCParameter{Buffer: scalar}),
	}))
	iv := make([]byte, aes.BlockSize)
	rand.Read(iv)
	protected := append(tpm2.Marshal(tpm2.TPM2BIV{Buffer: iv}), outer.encrypt(c.seed[:], name, iv, sensitive)...)
	mac := outer.mac(c.seed[:], name, protected)
	return append(tpm2.Marshal(tpm2.TPM2BDigest{Buffer: mac}), protected...), nil
}

// unwrap is TPM2_Load (TPM 2.0 Part 3, section 12.2) of a file's key. One of
// another chip is tpm.ErrForeignKey.
func (c *Chip) unwrap(file *tpm.KeyFile) (*ecdsa.PrivateKey, error) {
	data, err := tpm2.Unmarshal[tpm2.TPMSCreationData](file.CreationData)
	if err != nil {
		return nil, fmt.Errorf("papertpm: %w: creation data: %w", tpm.ErrKeyFile, err)
	}
	if !slices.Equal(data.ParentName.Buffer, c.srk.name[:]) {
		return nil, fmt.Errorf("papertpm: %w: its parent is not this chip's storage root key", tpm.ErrForeignKey)
	}
	var mac, iv cryptobyte.String
	protected := cryptobyte.String(file.Private)
	name := nameOf(file.Public)
	if !protected.ReadUint16LengthPrefixed(&mac) || !hmac.Equal(mac, outer.mac(c.seed[:], name, protected)) {
		return nil, fmt.Errorf("papertpm: %w: %w", tpm.ErrForeignKey, tpm2.TPMRCIntegrity)
	}
	if !protected.ReadUint16LengthPrefixed(&iv) || len(iv) != aes.BlockSize {
		return nil, fmt.Errorf("papertpm: load key: %w", tpm2.TPMRCSize)
	}
	sensitive, err := tpm2.Unmarshal[tpm2.TPM2BSensitive](outer.decrypt(c.seed[:], name, iv, protected))
	if err != nil {
		return nil, fmt.Errorf("papertpm: load key: %w", err)
	}
	contents, err := sensitive.Contents()
	if err != nil {
		return nil, fmt.Errorf("papertpm: load key: %w", err)
	}
	scalar, err := contents.Sensitive.ECC()
	if err != nil {
		return nil, fmt.Errorf("papertpm: load key: %w", err)
	}
	return ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar.Buffer)
}
