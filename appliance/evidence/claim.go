package evidence

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/tpm"
)

// Links of the chain that are not of the chip alone; the others are package
// tpm's.
const (
	LinkForm       = "form"       // something is missing, or not of its size
	LinkNodePK     = "n-pk"       // N:PK itself
	LinkPoP        = "pop"        // the proof of possession
	LinkCANS       = "ca-n-s"     // CA:N:S
	LinkActivation = "activation" // TPM2_ActivateCredential
	LinkNS         = "n-s"        // N:S
	LinkClock      = "clock"      // when N:S was made
	LinkEventLog   = "event-log"  // the boot's event log
	LinkNC         = "n-c"        // N:C certifies what was proven
)

func broken(link, format string, args ...any) error {
	return &tpm.EvidenceError{Link: link, Reason: fmt.Errorf(format, args...)}
}

// A Claim is what a node says of itself in its initial connection. That it is
// well formed is all that Parse has seen to.
type Claim struct {
	Request  *chancery.InitialConnection
	NodeKey  chancery.PublicKey
	NodeID   chancery.NodeID
	AK       tpm.AttestationKey
	EK       tpm.EndorsementKey
	EKDigest [32]byte     // SHA-256 over the EK's SubjectPublicKeyInfo
	PoP      chancery.PoP // the statement that the node must have signed

	fleet chancery.FleetID
}

// Parse reads the keys of an initial connection that came over a connection
// with this TLS exporter: a hash, a point off the curve, a compressed point or
// the point at infinity ends here.
func Parse(fleet chancery.FleetID, req *chancery.InitialConnection, exporter [32]byte) (*Claim, error) {
	c := &Claim{Request: req, fleet: fleet}
	if len(req.Nonce) != 32 {
		return nil, broken(LinkForm, "nonce has %d bytes, want 32", len(req.Nonce))
	}
	var err error
	if c.NodeKey, err = chancery.ParsePublicKey(req.NodeKey); err != nil {
		return nil, broken(LinkNodePK, "N:PK: %w", err)
	}
	if c.NodeKey.Suite() != chancery.P256 {
		return nil, broken(LinkNodePK, "N:PK has suite %s, want %s", c.NodeKey.Suite(), chancery.P256)
	}
	if c.AK, err = tpm.ParseAttestationKey(req.AKPublic); err != nil {
		return nil, err
	}
	if c.EK, err = tpm.ParseEndorsementKey(req.EKPublic); err != nil {
		return nil, err
	}
	c.NodeID = chancery.NewNodeID(fleet, c.NodeKey)
	c.EKDigest = sha256.Sum256(c.EK.SPKI())
	akName := c.AK.Name()
	c.PoP = chancery.PoP{NodeKey: c.NodeKey, AKName: akName[:], EKDigest: c.EKDigest, NodeNonce: [32]byte(req.Nonce), Exporter: exporter}
	return c, nil
}

// Possession verifies that the node holds N:SK at this connection's end.
func (c *Claim) Possession() error {
	if err := c.NodeKey.Verify(c.fleet, c.PoP, c.Request.PoP); err != nil {
		return broken(LinkPoP, "proof of possession: %w", err)
	}
	return nil
}

// KeyArea checks what N:PK's public area claims, and that it is under the
// policy that the request tells of. Both are proven later, by [Claim.Prove].
func (c *Claim) KeyArea(approval chancery.PublicKey) error {
	node, err := tpm.ParseNodeKey(c.Request.NodePublic, c.NodeKey)
	if err != nil {
		return err
	}
	s := c.Request.Sealing
	if (s != nil) != node.Sealed {
		return broken(LinkForm, "the request and the key disagree on whether N:SK is sealed")
	}
	if s == nil {
		return nil
	}
	if len(s.Nonce) != 32 || len(s.PCRDigest) != 32 {
		return broken(LinkForm, "sealing nonce and PCR digest have %d and %d bytes, want 32", len(s.Nonce), len(s.PCRDigest))
	}
	return node.CheckSeal(Seal(s, c.AK.Name(), approval))
}

// Seal returns the seal that a node claims or, once proven, has.
func Seal(s *chancery.Sealing, ak tpm.Name, approval chancery.PublicKey) tpm.Seal {
	return tpm.Seal{
		Sealing:   tpm.Sealing{Approval: approval, Nonce: [32]byte(s.Nonce), PCRs: s.PCRs},
		AK:        ak,
		Epoch:     s.Epoch,
		PCRDigest: [32]byte(s.PCRDigest),
	}
}

// Roots are the makers of chips whose word for an EK is believed.
type Roots struct {
	Makers *x509.CertPool
	// Simulators are the makers of simulators: chips under them are such,
	// whatever they say.
	Simulators *x509.CertPool
}

// A Standing is whose chip it is, as far as its EK certificate tells.
type Standing struct {
	Assurance   chancery.AssuranceLevel // AssuranceTPM or AssuranceEK
	Simulator   bool                    // by its maker's certificate, or its own word
	ByMaker     bool                    // the former
	Certificate *tpm.EKCertificate      // nil if the chip has none
	// Unknown says why the certificate counts for nothing, if there is one
	// that is this EK's and no root stands behind it.
	Unknown error
}

// Standing judges the endorsement key's certificate as of a time. A
// certificate that is not of this key, or no EK's, is an error; one that leads
// to no root is a matter for whoever knows this chip by other means.
func (c *Claim) Standing(roots Roots, at time.Time) (Standing, error) {
	s := Standing{Assurance: chancery.AssuranceTPM, Simulator: c.Request.Chip.Simulator}
	if len(c.Request.EKCertificate) == 0 {
		return s, nil
	}
	var err error
	if s.Certificate, err = tpm.ParseEKCertificate(c.Request.EKCertificate); err == nil {
		err = s.Certificate.Matches(c.EK)
	}
	if err != nil {
		return s, err
	}
	if roots.Simulators != nil && s.Certificate.Verify(c.Request.EKChain, roots.Simulators, at) == nil {
		s.Assurance, s.Simulator, s.ByMaker = chancery.AssuranceEK, true, true
		return s, nil
	}
	err = s.Certificate.Verify(c.Request.EKChain, roots.Makers, at)
	switch {
	case err == nil:
		s.Assurance = chancery.AssuranceEK
	case errors.Is(err, tpm.ErrNoRoot):
		s.Unknown = err
	default:
		return s, err
	}
	return s, nil
}
