package chancery

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// A Check is one of the steps in which a peer is judged, in their order.
type Check string

const (
	CheckParse   Check = "parse"   // the certificates, within limits
	CheckCRL     Check = "crl"     // the diagrams' first check: is N:C revoked?
	CheckNS      Check = "n-s"     // N:S under N:PK
	CheckNC      Check = "n-c"     // Hash(N:S) and N:C under CA:PK
	CheckSession Check = "session" // the session certificate under N:PK
	CheckName    Check = "name"    // the one that was wanted?
	CheckSelf    Check = "self"    // not this node itself
	CheckPolicy  Check = "policy"  // roles and assurance
	CheckChannel Check = "channel" // the TLS connection itself
)

// A RefusedError says why a peer was refused. Reason is one of the package's
// Err values, wrapped.
type RefusedError struct {
	Check  Check
	Peer   string // the name in its certificate, as far as it parsed; not authenticated
	Reason error
}

func (e *RefusedError) Error() string {
	if e.Peer == "" {
		return fmt.Sprintf("peer refused by the %s check: %v", e.Check, e.Reason)
	}
	return fmt.Sprintf("%s refused by the %s check: %v", e.Peer, e.Check, e.Reason)
}

func (e *RefusedError) Unwrap() error { return e.Reason }

// Errors of the verifier besides those of the artefacts.
var (
	ErrNoNC        = errors.New("peer did not present a node certificate")
	ErrUnknownCA   = errors.New("certificate is not from a CA key of the pointer record")
	ErrCARevoked   = errors.New("certificate's CA key is revoked")
	ErrCASignature = errors.New("subtree is not signed by CA:SK")
	ErrNotValidNow = errors.New("certificate is not valid now")
	ErrLife        = errors.New("certificate lives longer than the pointer record allows")
	ErrWrongPeer   = errors.New("another node answered than the wanted one")
	ErrSelf        = errors.New("peer presents this node's own certificate")
	ErrRole        = errors.New("certificate lacks a required role")
	ErrAssurance   = errors.New("certificate's assurance is below the required level")
	ErrSimulator   = errors.New("peer's chip is a simulator")
	ErrResumed     = errors.New("TLS session was resumed; the checks cannot be skipped")
	ErrNotTLS13    = errors.New("connection is not TLS 1.3")
	ErrProtocol    = errors.New("peer does not speak the protocol (ALPN)")
	errTooMany     = errors.New("peer presented too many certificates")
)

// clockTolerance is how much two nodes' clocks may differ.
const clockTolerance = 5 * time.Minute

// A Policy is what a node asks of its peers beyond being who they say.
// The zero value asks nothing.
type Policy struct {
	Roles           []string // all of these
	MinAssurance    AssuranceLevel
	RefuseSimulator bool
	// Grace is how long past the CRL's nextUpdate peers are still accepted
	// that Known says were good before. Zero: not at all.
	Grace time.Duration
	Known func(NodeID) bool
	// Witnesses are cosigners besides the CA, and Quorum is how many of them
	// must have signed a peer's certificate. With none, a CA that shows
	// different logs to different nodes is found out only when they compare.
	Witnesses []WitnessKey
	Quorum    int
}

// A Peer is a node that passed every check.
type Peer struct {
	Name        string
	NodeID      NodeID
	Certificate *Certificate
	// Until is when the session must end for lack of a certificate: the
	// notAfter of N:C. Revocation may end it earlier, see [Verifier.Recheck].
	Until time.Time
}

// A Verifier judges peers by a pointer record and a CRL, both of which may be
// replaced while it is in use. It needs nobody else: no coordinator, no
// network, no clock but the one it is given. Its methods may be called
// concurrently.
type Verifier struct {
	fleet FleetID

	// mu guards the fields below. Peers are judged without it; a newer pointer
	// record is, under it.
	mu        sync.RWMutex
	trust     Trust
	suspended error
	subtrees  map[subtreeKey]bool
	known     map[[sha256.Size]byte]*acquaintance
}

// An acquaintance is a peer whose signatures were verified: N:S, and the one on
// its session certificate. What may change about it is looked at each time.
type acquaintance struct {
	nc      *Certificate
	id      NodeID
	session lifetime
}

// maxKnown bounds the cache of acquaintances: some 3 kB each.
const maxKnown = 4096

// A Trust is what a node holds of its fleet at one moment. Both values are
// verified already.
type Trust struct {
	Pointer *Pointer
	CRL     *CRL // nil until the first one came
}

// clock returns the time to judge by: a signed list knows better than a clock
// that was set back.
func (t Trust) clock(now time.Time) time.Time {
	if t.CRL != nil && now.Before(t.CRL.head.ThisUpdate) {
		return t.CRL.head.ThisUpdate
	}
	return now
}

// A subtreeKey names a subtree signature that was verified: by whom, the CA or a
// witness, over what. The log is part of it, so that a serial rewritten to another log
// never meets it.
type subtreeKey struct {
	ca       merkle.TrustAnchorID
	log      uint16
	subtree  merkle.Subtree
	root     merkle.Hash
	cosigner merkle.TrustAnchorID
	signer   [32]byte // fingerprint of the cosigner's key
}

// maxSubtrees bounds the cache. A batch is one entry, whatever its size.
const maxSubtrees = 4096

// NewVerifier returns a verifier for the fleet of the trust's pointer record.
func NewVerifier(t Trust) *Verifier {
	return &Verifier{fleet: t.Pointer.FleetID(), trust: t, subtrees: map[subtreeKey]bool{}, known: map[[sha256.Size]byte]*acquaintance{}}
}

// Fleet returns the fleet that the verifier judges for.
func (v *Verifier) Fleet() FleetID { return v.fleet }

// Trust returns what the verifier holds at present.
func (v *Verifier) Trust() Trust {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.trust
}

// Suspend refuses every peer, by the CRL check and for the reason, until it is
// lifted with a nil reason. It is for a fork of the CRL: which of two lists of
// one number is the fleet's, only an operator can tell. Sessions that live go
// on, see [Verifier.Recheck].
func (v *Verifier) Suspend(reason error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.suspended = reason
}

func (v *Verifier) suspension() error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.suspended
}

// UpdatePointer takes a newer pointer record, see [AcceptPointer].
func (v *Verifier) UpdatePointer(p *Pointer, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := AcceptPointer(v.fleet, v.trust.Pointer, p, v.trust.clock(now)); err != nil {
		return err
	}
	v.trust.Pointer = p
	return nil
}

// UpdateCRL takes a newer full list or delta, see [UpdateCRL].
func (v *Verifier) UpdateCRL(b []byte, now time.Time) (*CRL, error) {
	for {
		t := v.Trust()
		c, err := UpdateCRL(t.Pointer, t.CRL, b, t.clock(now))
		if err != nil {
			return nil, err
		}
		v.mu.Lock()
		if v.trust.CRL == t.CRL && v.trust.Pointer == t.Pointer {
			v.trust.CRL = c
			v.mu.Unlock()
			return c, nil
		}
		v.mu.Unlock() // somebody else was faster: judge b again by what is held now
	}
}

// Verify judges a peer by the certificates of its TLS message: a session
// certificate and N:C, or N:C alone where N:SK itself is the TLS key. The
// caller's TLS stack proves that the peer holds the key of the first one.
// want is the name that was dialled, or empty; self is this node, or zero.
// Every refusal is a *[RefusedError].
func (v *Verifier) Verify(certs [][]byte, want string, self NodeID, policy Policy, now time.Time) (*Peer, error) {
	t := v.Trust()
	refuse := func(check Check, peer *Certificate, reason error) (*Peer, error) {
		e := &RefusedError{Check: check, Reason: reason}
		if peer != nil {
			e.Peer = peer.Name
		}
		return nil, e
	}
	now = t.clock(now)
	switch {
	case len(certs) == 0:
		return refuse(CheckParse, nil, ErrNoNC)
	case len(certs) > 2:
		return refuse(CheckParse, nil, errTooMany)
	}
	key, peer := v.recall(certs)
	met := peer != nil
	if !met {
		nc, err := ParseCertificate(certs[len(certs)-1])
		if err != nil {
			return refuse(CheckParse, nil, err)
		}
		peer = &acquaintance{nc: nc, id: nc.NodeID(v.fleet)}
	}
	nc, id := peer.nc, peer.id
	if err := v.suspension(); err != nil {
		return refuse(CheckCRL, nc, err)
	}
	if err := v.checkCRL(t, nc, id, policy, now); err != nil {
		return refuse(CheckCRL, nc, err)
	}
	if !met {
		if err := nc.VerifyNS(v.fleet); err != nil {
			return refuse(CheckNS, nc, err)
		}
	}
	if err := v.checkNC(t, nc, &policy, now); err != nil {
		return refuse(CheckNC, nc, err)
	}
	if len(certs) == 2 {
		var err error
		if met {
			err = peer.session.session(now)
		} else {
			peer.session, err = verifySession(certs[0], nc, now)
		}
		if err != nil {
			return refuse(CheckSession, nc, err)
		}
	}
	if !met {
		v.remember(key, peer)
	}
	if want != "" && nc.Name != want {
		return refuse(CheckName, nc, fmt.Errorf("%w: wanted %s", ErrWrongPeer, want))
	}
	if id == self {
		return refuse(CheckSelf, nc, ErrSelf)
	}
	if err := policy.check(nc); err != nil {
		return refuse(CheckPolicy, nc, err)
	}
	return &Peer{Name: nc.Name, NodeID: id, Certificate: nc, Until: nc.NotAfter}, nil
}

// recall returns who showed the very same certificates before, and the name
// under which to remember him otherwise.
func (v *Verifier) recall(certs [][]byte) (key [sha256.Size]byte, _ *acquaintance) {
	h := sha256.New()
	var length [8]byte
	for _, c := range certs {
		binary.BigEndian.PutUint64(length[:], uint64(len(c)))
		h.Write(length[:])
		h.Write(c)
	}
	h.Sum(key[:0])
	v.mu.RLock()
	defer v.mu.RUnlock()
	return key, v.known[key]
}

func (v *Verifier) remember(key [sha256.Size]byte, peer *acquaintance) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxKnown {
		clear(v.known)
	}
	v.known[key] = peer
}

// Recheck judges once more, without signature work, what may have changed
// about a peer since it passed: after its session was registered (a
// revocation may have slipped in between), and whenever a newer CRL or pointer
// record came. Every refusal is a *[RefusedError].
func (v *Verifier) Recheck(p *Peer, policy Policy, now time.Time) error {
	t := v.Trust()
	now = t.clock(now)
	if err := v.checkCRL(t, p.Certificate, p.NodeID, policy, now); err != nil {
		return &RefusedError{Check: CheckCRL, Peer: p.Name, Reason: err}
	}
	if err := checkClaims(t.Pointer, p.Certificate, now); err != nil {
		return &RefusedError{Check: CheckNC, Peer: p.Name, Reason: err}
	}
	return nil
}

// checkCRL is the first check: no signature is verified for a peer that is
// revoked. A log that the pointer record does not list is refused before any
// lookup.
func (v *Verifier) checkCRL(t Trust, nc *Certificate, id NodeID, policy Policy, now time.Time) error {
	if err := knownLog(t.Pointer, nc); err != nil {
		return err
	}
	if t.CRL == nil {
		return ErrCRLMissing
	}
	if n := t.CRL.head.Number; n < t.Pointer.MinCRL {
		return fmt.Errorf("%w: number %d, floor %d", ErrCRLFloor, n, t.Pointer.MinCRL)
	}
	if err := t.CRL.Check(nc.CA, nc.Serial, nc.NotBefore, now); err != nil {
		return err
	}
	err := t.CRL.Fresh(now)
	if err != nil && policy.Grace > 0 && !now.After(t.CRL.head.NextUpdate.Add(policy.Grace)) && policy.Known != nil && policy.Known(id) {
		return nil
	}
	return err
}

func knownLog(p *Pointer, nc *Certificate) error {
	ca := p.CA(nc.CA)
	switch {
	case ca == nil:
		return fmt.Errorf("%w: CA id %s", ErrUnknownCA, nc.CA)
	case !slices.Contains(ca.Logs, nc.Serial.Log()):
		return fmt.Errorf("%w: CA id %s, log %d", ErrUnknownLog, nc.CA, nc.Serial.Log())
	}
	return nil
}

// checkNC holds what N:C says against the pointer record and the clock; then
// it hashes N:S (as part of its log entry) up to the subtree and verifies that
// CA:SK signed that, and as many witnesses as the policy wants.
func (v *Verifier) checkNC(t Trust, nc *Certificate, policy *Policy, now time.Time) error {
	if err := checkClaims(t.Pointer, nc, now); err != nil {
		return err
	}
	return v.checkSubtree(t.Pointer.CA(nc.CA), nc, policy)
}

// checkClaims is the part of the N:C check that takes neither hashing nor
// signatures. The pointer record knows the certificate's CA id.
func checkClaims(p *Pointer, nc *Certificate, now time.Time) error {
	ca := p.CA(nc.CA)
	switch {
	case ca.State == CAKeyRevoked:
		return fmt.Errorf("%w: %s", ErrCARevoked, ca.Key)
	case ca.State == CAKeyNext:
		return fmt.Errorf("%w: CA id %s is announced, not in use", ErrUnknownCA, nc.CA)
	case ca.Key.Suite() < p.MinSuite || nc.NodeKey.Suite() < p.MinSuite:
		return ErrSuiteFloor
	case nc.TrustDomain != p.TrustDomain:
		return fmt.Errorf("%w: trust domain %q, want %q", ErrNotNC, nc.TrustDomain, p.TrustDomain)
	case nc.NotAfter.Sub(nc.NotBefore) > p.MaxLife:
		return fmt.Errorf("%w: %s, at most %s", ErrLife, nc.NotAfter.Sub(nc.NotBefore), p.MaxLife)
	case now.Before(nc.NotBefore.Add(-clockTolerance)) || now.After(nc.NotAfter):
		return fmt.Errorf("%w: from %s to %s, the clock says %s", ErrNotValidNow, nc.NotBefore, nc.NotAfter, utc(now))
	}
	return nil
}

// checkSubtree verifies that nc's entry is in a subtree that ca and the
// witnesses signed. For the second certificate out of a batch that costs hashing
// only.
func (v *Verifier) checkSubtree(ca *CAKey, nc *Certificate, policy *Policy) error {
	root, err := nc.mtc.SubtreeHash()
	if err != nil {
		return err
	}
	if err := v.checkCosigner(nc, root, nc.CA, ca.Key); err != nil {
		return fmt.Errorf("%w: %w", ErrCASignature, err)
	}
	return v.checkWitnesses(policy, ca, nc, root)
}

// errNotSigned means that a certificate has no signature of a cosigner.
var errNotSigned = errors.New("its signature is missing")

// checkCosigner verifies that a cosigner signed the subtree of nc, whose hash is
// root: in nc, or in a certificate that was seen before.
func (v *Verifier) checkCosigner(nc *Certificate, root merkle.Hash, cosigner merkle.TrustAnchorID, signer PublicKey) error {
	key := subtreeKey{nc.CA, nc.Serial.Log(), nc.mtc.Proof.Subtree, root, cosigner, signer.Fingerprint()}
	v.mu.RLock()
	known := v.subtrees[key]
	v.mu.RUnlock()
	if known {
		return nil
	}
	sig, ok := nc.mtc.Proof.Signature(cosigner)
	if !ok {
		return errNotSigned
	}
	message := merkle.CosignedMessage{Cosigner: cosigner, Log: merkle.LogID(nc.CA, key.log), Subtree: key.subtree, Hash: root}
	if err := signer.verifyMessage(message.Marshal(), sig); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.subtrees) >= maxSubtrees {
		clear(v.subtrees)
	}
	v.subtrees[key] = true
	return nil
}

func (p *Policy) check(nc *Certificate) error {
	for _, r := range p.Roles {
		if !nc.HasRole(r) {
			return fmt.Errorf("%w: %q", ErrRole, r)
		}
	}
	if nc.Assurance.Level < p.MinAssurance {
		return fmt.Errorf("%w: %s, want %s", ErrAssurance, nc.Assurance.Level, p.MinAssurance)
	}
	if p.RefuseSimulator && nc.Assurance.Simulator {
		return ErrSimulator
	}
	return nil
}

// A SubtreeStatement is the draft's CosignedMessage as CA:SK signs it: a
// subtree of one of its logs, timestamp zero.
type SubtreeStatement struct {
	cosigned merkle.CosignedMessage
}

// NewSubtree states that the CA certifies every entry of the subtree.
func NewSubtree(ca merkle.TrustAnchorID, log uint16, s merkle.Subtree, root merkle.Hash) SubtreeStatement {
	return SubtreeStatement{merkle.CosignedMessage{Cosigner: ca, Log: merkle.LogID(ca, log), Subtree: s, Hash: root}}
}

// NewCheckpoint states the size and root of a whole log at a time.
func NewCheckpoint(ca merkle.TrustAnchorID, log uint16, size uint64, root merkle.Hash, at time.Time) SubtreeStatement {
	s := NewSubtree(ca, log, merkle.Subtree{End: size}, root)
	s.cosigned.Timestamp = uint64(at.Unix())
	return s
}

func (s SubtreeStatement) message(FleetID, Suite) []byte { return s.cosigned.Marshal() }
