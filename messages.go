package chancery

import (
	"crypto/sha256"
	"time"
)

// The bodies of the HTTPS exchange between node and coordinator
// (docs/protocol.md sections 4 and 6): JSON, byte strings in base64, the
// artefacts among them in their own encodings. Errors are RFC 9457 problem
// documents, see [Problem].
//
//	POST /v1/enroll            InitialConnection -> Answer
//	POST /v1/enroll/{intake}   Submission -> Verdict
//	GET  /v1/enroll/{intake}   -> Verdict
//	POST /v1/renew             InitialConnection -> Answer, over a session under the current N:C
//	GET  /v1/crl               ?after=NUMBER&wait=SECONDS -> a full CRL or a delta; 204 when there is nothing newer
//	POST /v1/reseal            ResealRequest -> ResealAnswer
//	POST /v1/attest            AttestRequest -> AttestAnswer, over a session under the current N:C
//	POST /v1/x509              X509Request -> X509Answer, over a session under the current N:C
//	PUT  /v1/address           Address, over a session under the current N:C
//	GET  /v1/address/{name}    -> Address
//	POST /v1/shown             Shown
//	GET  /.well-known/chancery/pointer -> the pointer record

// An InitialConnection opens an enrolment or a renewal.
type InitialConnection struct {
	NodeKey    []byte `json:"n_pk" doc:"N:PK, DER SubjectPublicKeyInfo"`
	NodePublic []byte `json:"n_public" doc:"TPMT_PUBLIC of N:SK"`
	PoP        []byte `json:"pop" doc:"proof of possession of N:SK on this connection"`
	AKPublic   []byte `json:"ak_public" doc:"TPMT_PUBLIC of the attestation key"`
	EKPublic   []byte `json:"ek_public" doc:"TPMT_PUBLIC of the endorsement key"`
	// EKCertificate and EKChain are DER; empty where the chip has none.
	EKCertificate []byte   `json:"ek_certificate,omitempty"`
	EKChain       [][]byte `json:"ek_chain,omitempty"`
	Chip          Chip     `json:"chip"`
	Name          string   `json:"name" doc:"wanted node name"`
	Nonce         []byte   `json:"nonce" doc:"32 random bytes of the node's"`
	TokenID       string   `json:"token_id,omitempty" doc:"hexadecimal"`
	TokenProof    []byte   `json:"token_proof,omitempty"`
	Sealing       *Sealing `json:"sealing,omitempty" doc:"absent: N:SK is not sealed"`
	Rejoin        bool     `json:"rejoin,omitempty" doc:"the node of this name has lost its key or its chip, and this one takes its place"`
}

// A Chip is what a TPM says of itself (TPM2_GetCapability).
type Chip struct {
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
	Simulator    bool   `json:"simulator"`
}

// Sealing says to what N:SK is sealed, so that the coordinator can recompute
// its policy (section 4, Sealing).
type Sealing struct {
	Nonce     []byte `json:"nonce" doc:"32 bytes in the key's policyRef"`
	PCRs      []int  `json:"pcrs"`
	PCRDigest []byte `json:"pcr_digest" doc:"digest of the PCR values at creation"`
	Epoch     uint64 `json:"epoch" doc:"value of the epoch counter at creation"`
}

// An Answer is the coordinator's to an initial connection.
type Answer struct {
	Intake           string `json:"intake" doc:"hexadecimal"`
	CANS             []byte `json:"ca_n_s" doc:"CA:N:S"`
	CredentialBlob   []byte `json:"credential_blob" doc:"TPM2B_ID_OBJECT contents of TPM2_MakeCredential"`
	EncryptedSecret  []byte `json:"encrypted_secret" doc:"TPM2B_ENCRYPTED_SECRET contents"`
	CoordinatorClock int64  `json:"clock" doc:"seconds since 1970"`
	// What the coordinator's policy wants to see beside the proofs that every
	// node gives.
	QuotePCRs []int `json:"quote_pcrs,omitempty" doc:"PCRs to quote, of the SHA-256 bank"`
	EventLog  bool  `json:"event_log,omitempty" doc:"the boot's event log is wanted with the quote"`
}

// A Submission is what the node sends once it knows its coordinator.
type Submission struct {
	NS         []byte      `json:"n_s" doc:"N:S"`
	CANS       []byte      `json:"ca_n_s" doc:"CA:N:S, as it came: it is kept with the evidence"`
	Activation []byte      `json:"activation" doc:"HMAC under the activated secret"`
	Creation   Attestation `json:"creation" doc:"TPM2_CertifyCreation of N:SK by the AK"`
	// CreationData is the TPMS_CREATION_DATA that Creation covers.
	CreationData []byte       `json:"creation_data"`
	Epoch        *Attestation `json:"epoch,omitempty" doc:"TPM2_NV_Certify of the epoch counter by the AK, for a sealed key"`
	Quote        *Quote       `json:"quote,omitempty"`
	EventLog     []byte       `json:"event_log,omitempty" doc:"TCG_PCR_EVENT2 log, as in /sys/kernel/security/tpm0/binary_bios_measurements"`
}

// Creation, Epoch and Quote have the hash of the CA:N:S body as qualifying
// data.

// An Attestation is a TPMS_ATTEST and the AK's TPMT_SIGNATURE over it.
type Attestation struct {
	Attest    []byte `json:"attest"`
	Signature []byte `json:"signature"`
}

// A Quote is a TPM2_Quote with the PCR values that it covers.
type Quote struct {
	Attestation
	Values map[int][]byte `json:"pcr_values"`
}

// Verdicts on a submission.
const (
	VerdictIssued  = "issued"
	VerdictPending = "pending" // an operator has to approve
	VerdictRefused = "refused"
)

// A Verdict is the state of an intake.
type Verdict struct {
	Status string `json:"status" enum:"issued,pending,refused"`
	NC     []byte `json:"n_c,omitempty" doc:"N:C, DER"`
	Reason string `json:"reason,omitempty"`
}

// A ResealRequest asks that the node's present boot state be approved. It is
// made in two steps: without a quote it is answered with a challenge; with a
// quote over [ResealQualifying] it is recorded for an operator, or answered with
// the approval.
type ResealRequest struct {
	NodeID    string       `json:"node_id" doc:"hexadecimal"`
	Challenge []byte       `json:"challenge,omitempty"`
	Quote     *Quote       `json:"quote,omitempty"`
	Epoch     *Attestation `json:"epoch,omitempty"`
}

// ResealQualifying is the qualifying data of a reseal's quote and of the
// attestation of the epoch counter beside it.
func ResealQualifying(fleet FleetID, node NodeID, challenge [32]byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("chancery-v1 reseal"))
	h.Write(fleet[:])
	h.Write(node[:])
	h.Write(challenge[:])
	return [32]byte(h.Sum(nil))
}

// A ResealAnswer carries a challenge, or the state of the request.
type ResealAnswer struct {
	Status    string          `json:"status" enum:"challenge,pending,approved"`
	Challenge []byte          `json:"challenge,omitempty"`
	Approval  *ApprovalRecord `json:"approval,omitempty"`
}

// An AttestRequest shows the node's present boot state, as [ResealRequest] does
// and in the same two steps, while N:SK can sign: the connection is under the
// current N:C.
type AttestRequest struct {
	Challenge []byte       `json:"challenge,omitempty"`
	Quote     *Quote       `json:"quote,omitempty"`
	Epoch     *Attestation `json:"epoch,omitempty" doc:"of a sealed key"`
	EventLog  []byte       `json:"event_log,omitempty"`
}

// AttestQualifying is the qualifying data of an attestation's quote and of the
// attestation of the epoch counter beside it.
func AttestQualifying(fleet FleetID, node NodeID, challenge [32]byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("chancery-v1 attest"))
	h.Write(fleet[:])
	h.Write(node[:])
	h.Write(challenge[:])
	return [32]byte(h.Sum(nil))
}

// HeaderAttest is the header of the answer to a poll for the CRL by which the
// coordinator has the node that asks attest; its value is [AttestNow].
const (
	HeaderAttest = "Chancery-Attest"
	AttestNow    = "now"
)

// States of an attestation.
const (
	AttestChallenge = "challenge"
	AttestGood      = "good"
	AttestFailed    = "failed" // by the policy; Reason says why
)

// An AttestAnswer carries a challenge and what to show, or the verdict and what
// the coordinator has for the chip.
type AttestAnswer struct {
	Status    string `json:"status" enum:"challenge,good,failed"`
	Challenge []byte `json:"challenge,omitempty"`
	QuotePCRs []int  `json:"quote_pcrs,omitempty" doc:"PCRs to quote, of the SHA-256 bank"`
	EventLog  bool   `json:"event_log,omitempty" doc:"the boot's event log is wanted with the quote"`
	Reason    string `json:"reason,omitempty"`
	// Approvals are of states that were approved ahead of time, newest last.
	Approvals []ApprovalRecord `json:"approvals,omitempty"`
	// Increment raises the epoch: older approvals die. Approvals has the
	// present state's for the next epoch, which comes first.
	Increment *IncrementRecord `json:"increment,omitempty"`
}

// An IncrementRecord is the approval key's signature over the policy that moves
// the chip's epoch counter, once, from From to the next value.
type IncrementRecord struct {
	From      uint64 `json:"from"`
	Signature []byte `json:"signature"`
}

// An ApprovalRecord is the approval key's signature over a [PolicyApproval]
// and the boot state that it approves; the node computes the policy itself.
type ApprovalRecord struct {
	Values    map[int][]byte `json:"pcr_values"`
	Epoch     uint64         `json:"epoch"`
	Signature []byte         `json:"signature" doc:"r || s under the approval key of the pointer record"`
}

// A Shown is what a node holds and a coordinator should have. Each part is an
// artefact, with CA:SK's signature; either may be absent.
type Shown struct {
	CRLHead []byte `json:"crl_head,omitempty"`
	Pointer []byte `json:"pointer,omitempty"`
}

// An X509Request asks for the X.509 certificate that accompanies the N:C of the
// connection (section 6.8), for software that does not know N:C.
type X509Request struct {
	Key []byte `json:"key" doc:"TLS key, DER SubjectPublicKeyInfo"`
	PoP []byte `json:"pop" doc:"the TLS key's signature over an X509PoP"`
}

// An X509Answer carries it, and the X.509 issuer's own certificate.
type X509Answer struct {
	Certificate []byte `json:"certificate" doc:"DER"`
	Issuer      []byte `json:"issuer" doc:"DER"`
}

// An Address is where a node can be dialled: a hint, which nobody trusts.
type Address struct {
	Name    string    `json:"name,omitempty"`
	Address string    `json:"address" doc:"host:port"`
	Seen    time.Time `json:"seen,omitzero"`
}

// A Problem is an RFC 9457 problem document with a code for programs and a
// hint for people.
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
	Hint   string `json:"hint,omitempty"`
}

func (p *Problem) Error() string { return p.Detail }
