package authority

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path"
	"strconv"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/tpm"
)

// A Channel is the TLS connection that a request came over.
type Channel struct {
	Exporter [32]byte       // under chancery.ExporterLabel
	Peer     *chancery.Peer // who is at the other end, for a renewal
}

// Connect answers an initial connection. The gates come cheapest first, and
// all of them before CA:SK is asked for anything.
func (a *Authority) Connect(ctx context.Context, ch Channel, req *chancery.InitialConnection) (*chancery.Answer, error) {
	c := &connection{a: a, ch: ch, req: req}
	gates := []func(context.Context) error{c.form, c.keys, c.standing, c.authorised, c.possession, c.nodeKeyArea, c.chip, c.free}
	for _, gate := range gates {
		if err := gate(ctx); err != nil {
			return nil, err
		}
	}
	return c.answer(ctx)
}

// A connection is an initial connection on its way through the gates.
type connection struct {
	a   *Authority
	ch  Channel
	req *chancery.InitialConnection

	nodeKey chancery.PublicKey
	nodeID  chancery.NodeID
	ak      tpm.AttestationKey
	ek      tpm.EndorsementKey
	pop     chancery.PoP
	token   *store.Token // nil for a renewal
	facts   store.Facts
}

// form looks at sizes and names.
func (c *connection) form(context.Context) error {
	if len(c.req.Nonce) != 32 {
		return refuse(400, "malformed", "", "nonce has %d bytes, want 32", len(c.req.Nonce))
	}
	for _, s := range []string{c.req.Chip.Manufacturer, c.req.Chip.Model, c.req.Chip.Firmware} {
		if !printable(s) {
			return refuse(400, "malformed", "", "the chip's description is not up to %d printable ASCII characters", maxText)
		}
	}
	if err := chancery.ValidateName(c.req.Name); err != nil {
		return refuse(400, "bad-name", "choose another name with --name", "%v", err)
	}
	return nil
}

// maxText bounds what a node says in words.
const maxText = 255

// printable tells whether a text from a node may be shown on an operator's
// terminal.
func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return len(s) <= maxText
}

// keys parses the public keys: a hash, a point off the curve, a compressed
// point or the point at infinity ends here.
func (c *connection) keys(context.Context) (err error) {
	if c.nodeKey, err = chancery.ParsePublicKey(c.req.NodeKey); err != nil {
		return refuse(400, "bad-key", "", "N:PK: %v", err)
	}
	if c.nodeKey.Suite() != chancery.P256 {
		return refuse(400, "bad-key", "", "N:PK has suite %s, want %s", c.nodeKey.Suite(), chancery.P256)
	}
	if c.ak, err = tpm.ParseAttestationKey(c.req.AKPublic); err != nil {
		return evidence(err)
	}
	if c.ek, err = tpm.ParseEndorsementKey(c.req.EKPublic); err != nil {
		return evidence(err)
	}
	c.nodeID = chancery.NewNodeID(c.a.fleet, c.nodeKey)
	akName := c.ak.Name()
	c.facts = store.Facts{
		NodeKey:    c.req.NodeKey,
		NodePublic: c.req.NodePublic,
		AKPublic:   c.req.AKPublic,
		EK:         c.ek.SPKI(),
		EKDigest:   sha256.Sum256(c.ek.SPKI()),
		Chip:       c.req.Chip,
		Seal:       c.req.Sealing,
		Simulator:  c.req.Chip.Simulator,
	}
	c.pop = chancery.PoP{NodeKey: c.nodeKey, AKName: akName[:], EKDigest: c.facts.EKDigest, NodeNonce: [32]byte(c.req.Nonce), Exporter: c.ch.Exporter}
	return nil
}

// evidence turns a broken link of the evidence into a refusal.
func evidence(err error) error {
	if e, ok := errors.AsType[*tpm.EvidenceError](err); ok {
		return refuse(403, "evidence-"+e.Link, "", "%v", err)
	}
	return err
}

// standing refuses nodes and chips that were revoked.
func (c *connection) standing(ctx context.Context) error {
	return c.a.Store.View(ctx, func(tx *store.Tx) error { return checkStanding(tx, c.nodeID, c.facts.EKDigest) })
}

func checkStanding(tx *store.Tx, id chancery.NodeID, ek [32]byte) error {
	node, err := tx.Node(id)
	if err == nil && node.State == store.NodeRevoked {
		return refuse(403, "revoked", "a revoked node stays revoked", "node %s was revoked %s", node.Name, node.Revoked.Format(time.RFC3339))
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	revoked, err := tx.RevokedChip(ek)
	if err != nil {
		return err
	}
	if revoked {
		return refuse(403, "revoked", "a revoked chip stays revoked", "a node on this chip was revoked")
	}
	return nil
}

// authorised asks for a token, or for a renewal's own certificate, or, of a
// node that was away too long for that, for its old key and chip.
func (c *connection) authorised(ctx context.Context) error {
	if c.ch.Peer != nil {
		if c.ch.Peer.NodeID != c.nodeID || c.ch.Peer.Name != c.req.Name {
			return refuse(403, "not-yours", "", "a renewal is for the node, key and name that the session was opened with")
		}
		return c.known(ctx)
	}
	if c.req.TokenID == "" {
		return c.known(ctx)
	}
	id, err := hex.DecodeString(c.req.TokenID)
	if err != nil || len(id) != len(chancery.TokenID{}) {
		return noToken(nil, c.req.Name)
	}
	err = c.a.Store.View(ctx, func(tx *store.Tx) (err error) {
		c.token, err = tx.Token(chancery.TokenID(id))
		return err
	})
	if err != nil {
		return noToken(err, c.req.Name)
	}
	if !c.token.Key.Check(c.a.fleet, c.pop, c.req.Name, c.req.TokenProof) {
		return noToken(nil, c.req.Name)
	}
	// From here on the other end has shown that it knows the token.
	if c.a.Now().After(c.token.Expires) {
		return refuse(403, "token-expired", tokenHint+c.req.Name, "join token expired %s", c.token.Expires.Format(time.RFC3339))
	}
	if c.token.UsesLeft <= 0 {
		return refuse(403, "token-used", tokenHint+c.req.Name, "join token is used up")
	}
	if ok, err := path.Match(c.token.Names, c.req.Name); err != nil || !ok {
		return refuse(403, "token-name", "choose a name that fits with --name, or "+tokenHint+c.req.Name, "join token is for names like %q, not for %q", c.token.Names, c.req.Name)
	}
	c.facts.Roles, c.facts.Approve = c.token.Roles, c.token.Approve
	return nil
}

// known admits a node without a token: one that is enrolled under this key,
// name and chip. Its N:C may have expired, but not longer ago than the window;
// the evidence that follows is asked of it as of any other.
func (c *connection) known(ctx context.Context) error {
	return c.a.Store.View(ctx, func(tx *store.Tx) error {
		node, err := tx.Node(c.nodeID)
		if err != nil {
			return noToken(err, c.req.Name)
		}
		if node.Name != c.req.Name || node.EKDigest != c.facts.EKDigest {
			return refuse(403, "other-chip", "enrol the node anew, with a token", "the name or the chip is not the one that the node was enrolled with")
		}
		entries, err := tx.EntriesOf(c.a.Ledger.Log(), c.nodeID)
		if err != nil {
			return err
		}
		var last time.Time
		for _, e := range entries {
			if e.NotAfter.After(last) {
				last = e.NotAfter
			}
		}
		if c.a.Now().After(last.Add(c.a.ReattestWindow)) {
			return refuse(403, "away-too-long", "enrol it with a token: chancery token create --name "+node.Name, "the last certificate of %s expired %s, more than %s ago", node.Name, last.Format(time.RFC3339), c.a.ReattestWindow)
		}
		c.facts.Roles = node.Roles
		return nil
	})
}

// noToken is the one answer for all that is wrong with a token, so that nobody
// can sound out tokens.
func noToken(err error, name string) error {
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return refuse(403, "no-token", tokenHint+name, "no good join token")
}

const tokenHint = "make one with: chancery token create --name "

// possession verifies that the node holds N:SK at this connection's end.
func (c *connection) possession(context.Context) error {
	if err := c.nodeKey.Verify(c.a.fleet, c.pop, c.req.PoP); err != nil {
		return refuse(403, "bad-pop", "no TLS-terminating proxy may stand between node and coordinator", "proof of possession: %v", err)
	}
	return nil
}

// nodeKeyArea checks what N:PK's public area claims. It is proven later.
func (c *connection) nodeKeyArea(context.Context) error {
	node, err := tpm.ParseNodeKey(c.req.NodePublic, c.nodeKey)
	if err != nil {
		return evidence(err)
	}
	s := c.req.Sealing
	if (s != nil) != node.Sealed {
		return refuse(400, "malformed", "", "the request and the key disagree on whether N:SK is sealed")
	}
	if s == nil {
		return nil
	}
	if len(s.Nonce) != 32 || len(s.PCRDigest) != 32 {
		return refuse(400, "malformed", "", "sealing nonce and PCR digest have %d and %d bytes, want 32", len(s.Nonce), len(s.PCRDigest))
	}
	return evidence(node.CheckSeal(c.a.seal(s, c.ak.Name())))
}

// seal returns the seal that a node claims or, once proven, has.
func (a *Authority) seal(s *chancery.Sealing, ak tpm.Name) tpm.Seal {
	return tpm.Seal{
		Sealing:   tpm.Sealing{Approval: a.Pointer.Approval, Nonce: [32]byte(s.Nonce), PCRs: s.PCRs},
		AK:        ak,
		Epoch:     s.Epoch,
		PCRDigest: [32]byte(s.PCRDigest),
	}
}

// chip judges the endorsement key: whose chip is it?
func (c *connection) chip(context.Context) error {
	c.facts.Assurance = chancery.AssuranceTPM
	if len(c.req.EKCertificate) > 0 {
		cert, err := tpm.ParseEKCertificate(c.req.EKCertificate)
		if err == nil {
			err = cert.Matches(c.ek)
		}
		if err != nil {
			return evidence(err)
		}
		if c.a.SimulatorRoots != nil && cert.Verify(c.req.EKChain, c.a.SimulatorRoots, c.a.Now()) == nil {
			c.facts.Simulator = true
		} else if err := cert.Verify(c.req.EKChain, c.a.EKRoots, c.a.Now()); err != nil {
			return evidence(err)
		}
		c.facts.Assurance = chancery.AssuranceEK
	}
	if err := c.weak(); err != nil {
		return err
	}
	if c.facts.Simulator && !c.a.AllowSimulator {
		return refuse(403, "simulator", "for trials only: allow_simulator = true in the coordinator's configuration", "the chip is a simulator")
	}
	if c.facts.Assurance < c.a.MinAssurance {
		return refuse(403, "assurance", "the chip has no EK certificate; the coordinator's min_assurance decides", "the chip proves assurance %q, the coordinator asks for %q", c.facts.Assurance, c.a.MinAssurance)
	}
	return nil
}

// weak refuses firmware that is known to give keys away. Where it is allowed
// all the same, the chip proves no more than a file would.
func (c *connection) weak() error {
	firmware, err := strconv.ParseUint(c.req.Chip.Firmware, 16, 64)
	if err != nil {
		return refuse(400, "malformed", "", "the chip's firmware version is not 16 hexadecimal digits")
	}
	list := tpm.Weaknesses(c.req.Chip.Manufacturer, firmware)
	if len(list) == 0 {
		return nil
	}
	if !c.a.AllowWeakChips {
		return refuse(403, "weak-chip", "update the chip's firmware, then make a new key; allow_weak_chips in the coordinator's configuration lets it in with assurance 0",
			"the firmware of the chip gives keys away: %s", list[0])
	}
	c.facts.Assurance = chancery.AssuranceSoftware
	return nil
}

// free checks that neither the name nor the chip has another live node.
func (c *connection) free(ctx context.Context) error {
	return c.a.Store.View(ctx, func(tx *store.Tx) error { return checkFree(tx, c.req.Name, c.nodeID, c.facts.EKDigest) })
}

func checkFree(tx *store.Tx, name string, id chancery.NodeID, ek [32]byte) error {
	node, err := tx.Node(id)
	if err == nil && node.State == store.NodeActive && node.Name != name {
		return refuse(409, "other-name", "join under that name", "this key is enrolled as %s already", node.Name)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	node, err = tx.NodeByName(name)
	if err == nil && node.State == store.NodeActive && node.ID != id {
		return refuse(409, "name-taken", "choose another name, or revoke that node first: chancery node revoke "+name, "the name %s belongs to another node", name)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	node, err = tx.LiveChip(ek)
	if err == nil && node.ID != id {
		return refuse(409, "chip-enrolled", "a chip has one live node, and revoking that one bars the chip for good; bring its key file back, or enrol another chip", "this chip is enrolled as %s already", node.Name)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// answer stores the intake and has CA:N:S signed.
func (c *connection) answer(ctx context.Context) (*chancery.Answer, error) {
	now := time.Unix(c.a.Now().Unix(), 0).UTC()
	cans := &chancery.CANS{
		NodeKey:   c.nodeKey,
		NodeID:    c.nodeID,
		AKName:    c.pop.AKName,
		EKDigest:  c.facts.EKDigest,
		NodeNonce: c.pop.NodeNonce,
		Issued:    now,
		Expires:   now.Add(chancery.MaxCANSLife),
	}
	rand.Read(cans.CoordinatorNonce[:])
	rand.Read(cans.IntakeID[:])
	var secret [32]byte
	rand.Read(secret[:])
	credential, encrypted, err := c.ek.MakeCredential(c.ak.Name(), secret[:])
	if err != nil {
		return nil, evidence(err)
	}
	intake := &store.Intake{
		ID:         cans.IntakeID,
		NodeID:     c.nodeID,
		Name:       c.req.Name,
		Renewal:    c.token == nil,
		Facts:      c.facts,
		Activation: chancery.ActivationProof(secret[:], cans.Hash()),
		CANSHash:   cans.Hash(),
		Created:    now,
		Expires:    cans.Expires,
	}
	if c.token != nil {
		intake.Token = c.token.ID[:]
	}
	if err := c.a.Store.Update(ctx, func(tx *store.Tx) error { return tx.InsertIntake(intake) }); err != nil {
		return nil, err
	}
	if err := c.a.Ledger.Answer(ctx, cans); err != nil {
		return nil, err
	}
	return &chancery.Answer{
		Intake:           cans.IntakeID.String(),
		CANS:             cans.Marshal(),
		CredentialBlob:   credential,
		EncryptedSecret:  encrypted,
		CoordinatorClock: now.Unix(),
	}, nil
}
