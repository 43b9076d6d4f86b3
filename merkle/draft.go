package merkle

import "encoding/asn1"

// The wire details of draft-ietf-plants-merkle-tree-certs, in the text after
// revision -05: the working copy of August 2026, whose example generator calls
// the format "plants-05". Section titles in this package are that text's.
// The draft's object identifiers are the experimental ones that it gives to
// early implementations; a later revision changes this file.
var (
	oidProof         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 44363, 47, 0} // id-alg-mtcProof
	oidTrustAnchorID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 44363, 47, 1} // id-rdna-trustAnchorID
	oidCA            = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 44363, 47, 2} // id-pe-mtcCertificationAuthority
)

// Object identifiers of other standards.
var (
	oidUnsigned     = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 6, 36} // id-alg-unsigned, RFC 9925
	oidRDNAUnsigned = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 25, 1} // id-rdna-unsigned, RFC 9925

	oidSHA256          = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSAWithSHA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}

	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

const (
	// cosignedLabel starts every CosignedMessage ("Signature Format").
	cosignedLabel = "subtree/v1\n\x00"

	// namePrefix turns a trust anchor ID into the name of a cosigner or log
	// ("Signature Format"), and arcPrefix into an object identifier: trust
	// anchor IDs are relative to the private enterprise arc.
	namePrefix = "oid/" + arcPrefix
	arcPrefix  = "1.3.6.1.4.1."

	// logsArc is the component between a CA ID and a log number in a log ID
	// ("Certification Authority Identifiers").
	logsArc = 0

	// The values of MTCLogEntryType ("Log Entries").
	entryNull    = 0
	entryTBSCert = 1
)

const (
	// MaxCertificateSize is the most bytes that [ParseCertificate], [ParseCA]
	// and [ParseProof] look at. The draft has no limit; this one has room for
	// three of the largest ML-DSA cosignatures.
	MaxCertificateSize = 16 << 10

	// MaxEntrySize is the draft's limit on an MTCLogEntry ("Log Entries").
	MaxEntrySize = 1<<16 - 1

	// maxIndex is the greatest index that a serial number has room for. The
	// draft's uint48 fields have the same limit.
	maxIndex = 1<<48 - 1

	// maxPath is the longest inclusion proof there can be: a subtree has
	// fewer than 2^48 entries.
	maxPath = 48
)
