package chip

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/google/go-tpm/tpm2"
)

// Latency is how long a chip takes for a command, by kind: from the command's
// last byte to the answer's first. A time of 0 is that of the swtpm.
type Latency struct {
	RSAKey   time.Duration // making an RSA-2048 key, of whatever kind
	ECCKey   time.Duration // CreatePrimary of an ECC key
	Create   time.Duration // Create and CreateLoaded of any other key than RSA
	Sign     time.Duration // Sign
	Verify   time.Duration // VerifySignature, PolicySigned
	ECDH     time.Duration // StartAuthSession with a salt, ECDH_ZGen, ECDH_KeyGen
	Load     time.Duration // Load, Import, ContextLoad
	Attest   time.Duration // Quote, Certify, CertifyCreation, NV_Certify and their like
	NVRead   time.Duration // NV_Read, PolicyNV
	NVWrite  time.Duration // NV_Write, NV_Increment, EvictControl, Shutdown: whatever writes to NV
	Activate time.Duration // ActivateCredential
	Other    time.Duration // everything else, and every command that the chip refuses
}

// of returns the time of a command.
func (l Latency) of(command []byte) time.Duration {
	if len(command) < headerSize {
		return l.Other
	}
	switch tpm2.TPMCC(code(command)) {
	case tpm2.TPMCCCreatePrimary:
		return l.making(command, l.ECCKey)
	case tpm2.TPMCCCreate, tpm2.TPMCCCreateLoaded:
		return l.making(command, l.Create)
	case tpm2.TPMCCSign:
		return l.Sign
	case tpm2.TPMCCVerifySignature, tpm2.TPMCCPolicySigned:
		return l.Verify
	case tpm2.TPMCCStartAuthSession:
		if salted(command) {
			return l.ECDH
		}
	case tpm2.TPMCCECDHZGen, tpm2.TPMCCECDHKeyGen:
		return l.ECDH
	case tpm2.TPMCCLoad, tpm2.TPMCCImport, tpm2.TPMCCContextLoad:
		return l.Load
	case tpm2.TPMCCQuote, tpm2.TPMCCCertify, tpm2.TPMCCCertifyCreation, tpm2.TPMCCNVCertify, tpm2.TPMCCGetTime,
		tpm2.TPMCCGetCommandAuditDigest, tpm2.TPMCCGetSessionAuditDigest, tpm2.TPMCCCertifyX509:
		return l.Attest
	case tpm2.TPMCCNVRead, tpm2.TPMCCPolicyNV, tpm2.TPMCCPolicyAuthorizeNV:
		return l.NVRead
	case tpm2.TPMCCNVWrite, tpm2.TPMCCNVIncrement, tpm2.TPMCCNVExtend, tpm2.TPMCCNVSetBits,
		tpm2.TPMCCNVDefineSpace, tpm2.TPMCCNVUndefineSpace, tpm2.TPMCCNVUndefineSpaceSpecial,
		tpm2.TPMCCNVReadLock, tpm2.TPMCCNVWriteLock, tpm2.TPMCCNVGlobalWriteLock, tpm2.TPMCCNVChangeAuth,
		tpm2.TPMCCEvictControl, tpm2.TPMCCHierarchyChanegAuth, tpm2.TPMCCClear, tpm2.TPMCCPCRAllocate,
		tpm2.TPMCCDictionaryAttackLockReset, tpm2.TPMCCDictionaryAttackParameters, tpm2.TPMCCShutdown:
		return l.NVWrite
	case tpm2.TPMCCActivateCredential:
		return l.Activate
	}
	return l.Other
}

// making is the time of a command that makes a key: other, if it is not RSA.
func (l Latency) making(command []byte, other time.Duration) time.Duration {
	if keyType(command) == tpm2.TPMAlgRSA {
		return l.RSAKey
	}
	return other
}

// keyType returns the type of the key that Create, CreatePrimary and
// CreateLoaded ask for, 0 if it cannot be told. Behind the handle and the
// authorizations comes TPM2B_SENSITIVE_CREATE, whose size is in the clear also
// when its contents are not, and then the template, which begins with the type
// (TPM 2.0 Part 3, sections 12.1, 12.9 and 24.1).
func keyType(command []byte) tpm2.TPMAlgID {
	s := cryptobyte.String(command[headerSize:])
	var authorizations uint32
	var sensitive cryptobyte.String
	var alg uint16
	if !s.Skip(4) || !s.ReadUint32(&authorizations) || !s.Skip(int(authorizations)) ||
		!s.ReadUint16LengthPrefixed(&sensitive) || !s.Skip(2) || !s.ReadUint16(&alg) {
		return 0
	}
	return tpm2.TPMAlgID(alg)
}

// salted reports whether a StartAuthSession names a key for its salt.
func salted(command []byte) bool {
	key := command[headerSize:]
	return len(key) >= 4 && tpm2.TPMHandle(binary.BigEndian.Uint32(key)) != tpm2.TPMRHNull
}

func (l Latency) check() error {
	for _, d := range []time.Duration{l.RSAKey, l.ECCKey, l.Create, l.Sign, l.Verify, l.ECDH, l.Load, l.Attest, l.NVRead, l.NVWrite, l.Activate, l.Other} {
		if d < 0 {
			return fmt.Errorf("chip: latency %v must not be negative", d)
		}
	}
	return nil
}
