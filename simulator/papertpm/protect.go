package papertpm

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"encoding/binary"

	"github.com/chancery-pki/chancery/tpm"
)

// Labels of key derivations (TPM 2.0 Part 1, sections 22 and 24).
const (
	identity  = "IDENTITY"
	storage   = "STORAGE"
	integrity = "INTEGRITY"
)

// kdfa is the KDF in counter mode of SP 800-108 with HMAC, as TPM 2.0 Part 1,
// section 11.4.10.2 has it. bits is a multiple of eight.
func kdfa(hash crypto.Hash, key []byte, label string, u, v []byte, bits int) []byte {
	var out []byte
	for i := uint32(1); 8*len(out) < bits; i++ {
		h := hmac.New(hash.New, key)
		h.Write(binary.BigEndian.AppendUint32(nil, i))
		h.Write(append([]byte(label), 0))
		h.Write(u)
		h.Write(v)
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(bits)))
		out = h.Sum(out)
	}
	return out[:bits/8]
}

// kdfe is the concatenation KDF of SP 800-56A, as TPM 2.0 Part 1, section
// 11.4.10.3 has it.
func kdfe(hash crypto.Hash, z []byte, label string, u, v []byte, bits int) []byte {
	var out []byte
	for i := uint32(1); 8*len(out) < bits; i++ {
		h := hash.New()
		h.Write(binary.BigEndian.AppendUint32(nil, i))
		h.Write(z)
		h.Write(append([]byte(label), 0))
		h.Write(u)
		h.Write(v)
		out = h.Sum(out)
	}
	return out[:bits/8]
}

// A protection is how a storage key guards what leaves the chip under a seed:
// AES of so many bits in mode CFB, and an HMAC over it and a Name. The standard
// library discourages CFB because it does not authenticate; here the HMAC does.
type protection struct {
	hash crypto.Hash // of the storage key's nameAlg
	bits int
}

// mac is over encrypted parts and the Name to which they are bound.
func (p protection) mac(seed []byte, n tpm.Name, parts ...[]byte) []byte {
	h := hmac.New(p.hash.New, kdfa(p.hash, seed, integrity, nil, nil, 8*p.hash.Size()))
	for _, part := range parts {
		h.Write(part)
	}
	h.Write(n[:])
	return h.Sum(nil)
}

func (p protection) encrypt(seed []byte, n tpm.Name, iv, plain []byte) []byte {
	out := make([]byte, len(plain))
	cipher.NewCFBEncrypter(p.block(seed, n), iv).XORKeyStream(out, plain)
	return out
}

func (p protection) decrypt(seed []byte, n tpm.Name, iv, encrypted []byte) []byte {
	out := make([]byte, len(encrypted))
	cipher.NewCFBDecrypter(p.block(seed, n), iv).XORKeyStream(out, encrypted)
	return out
}

func (p protection) block(seed []byte, n tpm.Name) cipher.Block {
	block, err := aes.NewCipher(kdfa(p.hash, seed, storage, n[:], nil, p.bits))
	if err != nil {
		panic("papertpm: internal error: " + err.Error())
	}
	return block
}
