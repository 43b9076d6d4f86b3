package papertpm

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

// Attributes of signing keys (docs/protocol.md section 4.6).
var (
	attributesAK = tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
		UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
	}
	attributesSealed = tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
		AdminWithPolicy: true, NoDA: true, SignEncrypt: true,
	}
	attributesUnsealed = tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
		UserWithAuth: true, NoDA: true, SignEncrypt: true,
	}
	attributesApproval = tpm2.TPMAObject{UserWithAuth: true, SignEncrypt: true}
)

// signingArea is the public area of an ECDSA P-256 key with SHA-256.
func signingArea(attributes tpm2.TPMAObject, policy []byte, key *ecdsa.PublicKey) []byte {
	return tpm2.Marshal(tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgECC,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attributes,
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: unique(point(key)),
	})
}

// approvalArea is that of the fleet's approval key, as a chip loads it.
func approvalArea(approval chancery.PublicKey) []byte {
	return signingArea(attributesApproval, nil, approval.ECDSA())
}

// srkArea is that of a storage root key: TCG's template H-2 in the owner
// hierarchy.
func srkArea(key *ecdsa.PublicKey) []byte {
	area := tpm2.ECCSRKTemplate
	area.Unique = unique(point(key))
	return tpm2.Marshal(area)
}

// point is an uncompressed point (SEC 1, section 2.3.3).
func point(key *ecdsa.PublicKey) []byte {
	b, err := key.Bytes()
	if err != nil {
		panic("papertpm: internal error: a public key does not marshal: " + err.Error())
	}
	return b
}

// unique holds the coordinates of an uncompressed point, leading zeros and all.
func unique(point []byte) tpm2.TPMUPublicID {
	size := len(point) / 2
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+size]},
		Y: tpm2.TPM2BECCParameter{Buffer: point[1+size:]},
	})
}

// nameOf is the Name of what has this public area (TPM 2.0 Part 1, section
// 16). All but some endorsement keys have nameAlg SHA-256.
func nameOf(area []byte) tpm.Name {
	sum := sha256.Sum256(area)
	return tpm.Name(append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), sum[:]...))
}

// qualified is the Qualified Name of a primary key: the hash of the Names of
// hierarchy and key.
func qualified(hierarchy tpm2.TPMHandle, n tpm.Name) tpm.Name {
	return nameOf(append(tpm2.HandleName(hierarchy).Buffer, n[:]...))
}

func name2B(n tpm.Name) tpm2.TPM2BName { return tpm2.TPM2BName{Buffer: n[:]} }
