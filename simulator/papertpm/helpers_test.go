package papertpm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// An applicant is what a chip and a paper chip have in common. Only LoadKey
// differs: each returns a type of its own.
type applicant interface {
	Info() tpm.Info
	EK() (tpm.EK, error)
	AK() (tpm.AK, error)
	CreateKey(*tpm.Sealing) (*tpm.KeyFile, error)
	Activate(credential, encryptedSecret []byte) ([]byte, error)
	CertifyCreation(file *tpm.KeyFile, qualifying [32]byte) (tpm.Attestation, error)
	Quote(pcrs []int, qualifying [32]byte) (tpm.Attestation, tpm.PCRValues, error)
	CertifyEpoch(qualifying [32]byte) (tpm.Attestation, error)
	PCRValues(pcrs []int) (tpm.PCRValues, error)
	ExtendPCR(pcr int, digest [32]byte) error
	Epoch(approval chancery.PublicKey) (uint64, error)
	ApplyEpoch(approval chancery.PublicKey, from uint64, signature chancery.Signature) (uint64, error)
}

var (
	_ applicant = (*tpm.TPM)(nil)
	_ applicant = (*papertpm.Chip)(nil)
)

var kinds = []papertpm.Kind{papertpm.P256, papertpm.P384, papertpm.RSA2048}

var (
	fleet      = chancery.FleetID{1}
	qualifying = [32]byte{1, 2, 3}
	quoted     = []int{0, 2, 4, 7}
)

// statement is something for N:SK to sign.
var statement = chancery.PoP{NodeNonce: [32]byte{42}}

// must is for calls whose failure is a broken test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newMaker is of all tests: its primes are dear.
var newMaker = sync.OnceValues(papertpm.NewMaker)

func newChip(t testing.TB, o papertpm.Options) *papertpm.Chip {
	t.Helper()
	return must(must(newMaker())(t).New(o))(t)
}

// approver is the fleet's approval key.
type approver struct {
	private *ecdsa.PrivateKey
	key     chancery.PublicKey
}

func newApprover(t testing.TB) approver {
	t.Helper()
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	return approver{private, must(chancery.NewPublicKey(&private.PublicKey))(t)}
}

// sealing is to PCR 7 and this approver.
func (a approver) sealing() *tpm.Sealing {
	return &tpm.Sealing{Approval: a.key, Nonce: [32]byte{7}, PCRs: tpm.DefaultPCRs}
}

func (a approver) sign(t testing.TB, what chancery.PolicyApproval) chancery.Signature {
	t.Helper()
	digest := sha256.Sum256(chancery.Message(fleet, chancery.P256, what))
	r, s, err := ecdsa.Sign(rand.Reader, a.private, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return must(chancery.NewSignature(chancery.P256, r, s))(t)
}

// approve adds an approval of the state to the file, both as package tpm
// computes them.
func (a approver) approve(t testing.TB, file *tpm.KeyFile, epoch uint64, values tpm.PCRValues) {
	t.Helper()
	what := must(file.Seal.Approve(epoch, values))(t)
	if err := file.AddApproval(epoch, values, a.sign(t, what)); err != nil {
		t.Fatal(err)
	}
}

func nodeKey(t testing.TB, file *tpm.KeyFile) tpm.NodeKey {
	t.Helper()
	return must(tpm.ParseNodeKey(file.Public, must(file.PublicKey())(t)))(t)
}

func attestationKey(t testing.TB, chip applicant) tpm.AttestationKey {
	t.Helper()
	return must(tpm.ParseAttestationKey(must(chip.AK())(t).Public))(t)
}

// wantLink checks that an error is an *EvidenceError at the link, for the
// reason.
func wantLink(t testing.TB, what string, err error, link string, reason error) {
	t.Helper()
	var e *tpm.EvidenceError
	if !errors.As(err, &e) || e.Link != link || reason != nil && !errors.Is(err, reason) {
		t.Errorf("%s: %v; want link %q, reason %v", what, err, link, reason)
	}
}
