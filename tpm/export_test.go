package tpm

import (
	"time"

	"github.com/chancery-pki/chancery"
)

// OpenLimit is Open with another time limit for each command.
func OpenLimit(device string, limit time.Duration) (*TPM, error) { return open(device, limit) }

// Raw returns the connection below an open TPM, to send what the package
// would not.
func (t *TPM) Raw() *transport { return t.transport }

// Connection returns what the chip is reached by now.
func (t *TPM) Connection() any { return t.transport.conn }

// Forget makes the TPM forget what is loaded in the chip, as if it were others'.
func (t *TPM) Forget() { t.transport.balance = balance{} }

// EpochArea returns the TPMS_NV_PUBLIC of the written epoch counter.
func EpochArea(approval chancery.PublicKey, ak Name) []byte { return epochIndex(approval, ak).bytes() }

// Branches returns the policies of the seal's branches A and B.
func (s Seal) Branches() (a, b [32]byte) { return s.branches() }

// Ref returns the policyRef of the seal's approvals.
func (s Seal) Ref() [32]byte { return s.ref() }

// ApprovalArea returns the TPMT_PUBLIC of an approval key.
func ApprovalArea(approval chancery.PublicKey) []byte { return approvalArea(approval) }

// Describe reads a subject alternative name alone.
func Describe(san []byte) (EKCertificate, error) {
	var c EKCertificate
	err := c.readDescription(san)
	return c, err
}

const (
	AnchorHandle = anchorHandle
	RecordHandle = recordHandle
	EpochHandle  = epochHandle
	SRKHandle    = srkHandle
	AKHandle     = akHandle
)
