package authority

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/appliance/policy"
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
	gates := []func(context.Context) error{c.form, c.keys, c.alive, c.authorised, c.possession, c.nodeKeyArea, c.chip, c.policy, c.free}
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

	claim    *evidence.Claim
	standing evidence.Standing
	rivals   rivals
	token    *store.Token // nil without one
	enrolled *store.Node  // under this key, for a renewal
	replaces *store.Node  // whose place it takes
	revoked  bool         // a node on this chip was
	facts    store.Facts
	decision *policy.Decision
}

// form looks at sizes and names.
func (c *connection) form(context.Context) error {
	for _, s := range []string{c.req.Chip.Manufacturer, c.req.Chip.Model, c.req.Chip.Firmware} {
		if !printable(s) {
			return refuse(400, "malformed", "", "the chip's description is not up to %d printable ASCII characters", maxText)
		}
	}
	if _, err := firmware(c.req.Chip); err != nil {
		return err
	}
	if err := chancery.ValidateName(c.req.Name); err != nil {
		return refuse(400, "bad-name", "choose another name with --name", "%v", err)
	}
	if err := lint.CheckName(c.req.Name); err != nil { // N:C could not have it
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

// firmware reads the version that a chip claims.
func firmware(c chancery.Chip) (uint64, error) {
	v, err := strconv.ParseUint(c.Firmware, 16, 64)
	if err != nil || len(c.Firmware) != 16 {
		return 0, refuse(400, "malformed", "", "the chip's firmware version is not 16 hexadecimal digits")
	}
	return v, nil
}

// keys parses the public keys.
func (c *connection) keys(context.Context) (err error) {
	if c.claim, err = evidence.Parse(c.a.fleet, c.req, c.ch.Exporter); err != nil {
		return broken(err)
	}
	c.facts = store.Facts{EK: c.claim.EK.SPKI(), EKDigest: c.claim.EKDigest}
	return nil
}

// broken turns a broken link of the evidence into a refusal.
func broken(err error) error {
	e, ok := errors.AsType[*tpm.EvidenceError](err)
	if !ok {
		return err
	}
	switch e.Link {
	case evidence.LinkForm:
		return refuse(400, "malformed", "", "%v", e.Reason)
	case evidence.LinkNodePK:
		return refuse(400, "bad-key", "", "%v", e.Reason)
	case evidence.LinkPoP:
		return refuse(403, "bad-pop", "no TLS-terminating proxy may stand between node and coordinator", "%v", e.Reason)
	case evidence.LinkNS:
		return refuse(403, "bad-n-s", "", "%v", e.Reason)
	case evidence.LinkClock:
		return refuse(403, "clock", "set the node's clock", "%v", e.Reason)
	}
	return refuse(403, "evidence-"+e.Link, "", "%v", err)
}

// alive refuses nodes that were revoked, and finds out what the operator has
// noted of the chip.
func (c *connection) alive(ctx context.Context) error {
	err := c.a.Store.View(ctx, func(tx *store.Tx) (err error) {
		if c.rivals, err = tx.Rivals(c.claim.NodeID, c.req.Name, c.facts.EKDigest); err != nil {
			return err
		}
		c.facts.EKLists, err = tx.EKLists(c.facts.EKDigest)
		return err
	})
	if err != nil {
		return err
	}
	c.revoked = c.rivals.revokedOn(c.facts.EKDigest)
	return c.rivals.alive(c.claim.NodeID)
}

// rivals are the nodes that have what an enrolment wants.
type rivals []store.Rival

// alive refuses the key of a node that was revoked or replaced.
func (r rivals) alive(id chancery.NodeID) error {
	for _, n := range r {
		if n.ID == id && n.State != store.NodeActive {
			return refuse(403, "revoked", "a revoked node stays revoked", "node %s was %s %s", n.Name, n.State, n.Revoked.Format(time.RFC3339))
		}
	}
	return nil
}

// revokedOn tells whether a node on the chip was ever revoked.
func (r rivals) revokedOn(ek [32]byte) bool {
	return slices.ContainsFunc(r, func(n store.Rival) bool { return n.EKDigest == ek && n.State == store.NodeRevoked })
}

// free checks that the key has no other name, the name no other node, and the
// chip fewer live nodes than it may have; the one that is replaced does not
// count.
func (r rivals) free(name string, id chancery.NodeID, ek [32]byte, live int, replaces *chancery.NodeID) error {
	onChip := 0
	var first string
	for _, n := range r {
		switch {
		case n.State != store.NodeActive || replaces != nil && n.ID == *replaces:
		case n.ID == id && n.Name != name:
			return refuse(409, "other-name", "join under that name", "this key is enrolled as %s already", n.Name)
		case n.ID == id:
		case n.Name == name:
			return refuse(409, "name-taken", "choose another name, or revoke that node first: chancery node revoke "+name+"; if this machine is that node, and lost its key: chancery-agent rejoin", "the name %s belongs to another node", name)
		case n.EKDigest == ek:
			if onChip++; first == "" {
				first = n.Name
			}
		}
	}
	if onChip >= live {
		return refuse(409, "chip-enrolled", "if this machine is that node, and lost its key: chancery-agent rejoin; revoking that one bars the chip unless the policy says otherwise", "this chip is enrolled as %s already", first)
	}
	return nil
}

// authorised asks for a token, or for a renewal's own certificate, or, of a
// node that was away too long for that, for its old key and chip. Who shows
// none of it may still be on an operator's list of chips.
func (c *connection) authorised(ctx context.Context) error {
	if c.ch.Peer != nil && (c.ch.Peer.NodeID != c.claim.NodeID || c.ch.Peer.Name != c.req.Name) {
		return refuse(403, "not-yours", "", "a renewal is for the node, key and name that the session was opened with")
	}
	if c.req.Rejoin {
		if err := c.rejoins(ctx); err != nil {
			return err
		}
	}
	switch {
	case c.ch.Peer == nil && c.req.TokenID != "":
		return c.byToken(ctx)
	case c.replaces != nil && c.replaces.EKDigest == c.facts.EKDigest:
		c.facts.TokenNames, c.facts.TokenRoles = c.replaces.Token, c.replaces.TokenRoles
		return nil
	}
	known, err := c.known(ctx)
	if err == nil && !known && len(c.facts.EKLists) == 0 && !c.a.Policy().NamesEK(c.facts.EKDigest) {
		return noToken(nil, c.req.Name)
	}
	return err
}

// rejoins finds the node whose place is asked for.
func (c *connection) rejoins(ctx context.Context) error {
	return c.a.Store.View(ctx, func(tx *store.Tx) error {
		node, err := tx.NodeByName(c.req.Name)
		if err != nil || node.State != store.NodeActive || node.ID == c.claim.NodeID {
			if err == nil || errors.Is(err, store.ErrNotFound) {
				err = refuse(409, "nothing-to-replace", "use chancery-agent join", "no other live node is called %s", c.req.Name)
			}
			return err
		}
		c.replaces = node
		return nil
	})
}

// byToken admits who knows a join token.
func (c *connection) byToken(ctx context.Context) error {
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
	if !c.token.Key.Check(c.a.fleet, c.claim.PoP, c.req.Name, c.req.TokenProof) {
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
	c.facts.TokenNames, c.facts.TokenRoles = c.token.Names, c.token.Roles
	return nil
}

// known admits a node without a token: one that is enrolled under this key,
// name and chip. Its N:C may have expired, but not longer ago than the window;
// the evidence that follows is asked of it as of any other.
func (c *connection) known(ctx context.Context) (known bool, err error) {
	return known, c.a.Store.View(ctx, func(tx *store.Tx) error {
		node, err := tx.Node(c.claim.NodeID)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if node.Name != c.req.Name || node.EKDigest != c.facts.EKDigest {
			return refuse(403, "other-chip", "enrol the node anew, with a token", "the name or the chip is not the one that the node was enrolled with")
		}
		if node.Held != "" {
			return refuse(403, "held", "an operator looks at it and runs: chancery node release "+node.Name, "%s is held: %s", node.Name, node.Held)
		}
		var last time.Time
		for _, log := range c.a.Ledger.Logs() {
			entries, err := tx.EntriesOf(log, node.ID)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if e.NotAfter.After(last) {
					last = e.NotAfter
				}
			}
		}
		if c.a.Now().After(last.Add(c.a.ReattestWindow)) {
			return refuse(403, "away-too-long", "enrol it with a token: chancery token create --name "+node.Name, "the last certificate of %s expired %s, more than %s ago", node.Name, last.Format(time.RFC3339), c.a.ReattestWindow)
		}
		known, c.enrolled = true, node
		c.facts.TokenNames, c.facts.TokenRoles = node.Token, node.TokenRoles
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
func (c *connection) possession(context.Context) error { return broken(c.claim.Possession()) }

// nodeKeyArea checks what N:PK's public area claims. It is proven later.
func (c *connection) nodeKeyArea(context.Context) error {
	return broken(c.claim.KeyArea(c.a.Pointer.Approval))
}

// chip judges the endorsement key: whose chip is it? A certificate that leads
// to no root counts only for a chip that the operator knows otherwise.
func (c *connection) chip(context.Context) (err error) {
	if c.standing, err = c.claim.Standing(c.a.Roots, c.a.Now()); err != nil {
		return broken(err)
	}
	if c.standing.Unknown != nil && len(c.facts.EKLists) == 0 && !c.a.Policy().NamesEK(c.facts.EKDigest) {
		return broken(c.standing.Unknown)
	}
	c.facts.Simulator = c.standing.Simulator
	if cert := c.standing.Certificate; cert != nil && c.standing.Unknown == nil {
		c.facts.Issuer, c.facts.Vendor, c.facts.Model = cert.Cert.Issuer.String(), cert.Vendor(), cert.Model
	}
	return nil
}

// policy asks the policy, which may want to see more before it says yes.
func (c *connection) policy(context.Context) error {
	c.decision = c.a.Policy().Decide(c.subject())
	if c.decision.Action == policy.Refuse && !c.decision.Open {
		return refused(c.decision)
	}
	return nil
}

func refused(d *policy.Decision) error { return refuse(403, d.Code, d.Hint, "%s", d.Reason) }

// subject is what is known before the chip has proven anything.
func (c *connection) subject() *policy.Subject {
	s := subject(c.req, &c.facts, c.standing.Assurance)
	s.Enrolled = c.enrolled != nil || c.replaces != nil && c.replaces.EKDigest == c.facts.EKDigest
	s.Revoked = c.revoked && c.enrolled == nil
	return s
}

func subject(req *chancery.InitialConnection, f *store.Facts, assurance chancery.AssuranceLevel) *policy.Subject {
	version, _ := firmware(req.Chip) // form has seen to it
	s := &policy.Subject{
		EKDigest: f.EKDigest, EKLists: f.EKLists, Issuer: f.Issuer, Manufacturer: req.Chip.Manufacturer, Model: req.Chip.Model, Firmware: version,
		Simulator: f.Simulator, Assurance: assurance, Sealed: req.Sealing != nil, Name: req.Name, Token: f.TokenNames,
	}
	weigh(s)
	s.Manufacturer, s.Model = cmp.Or(f.Vendor, s.Manufacturer), cmp.Or(f.Model, s.Model)
	weigh(s)
	return s
}

// weigh notes why the firmware gives keys away, if it is known to. What a chip
// says of itself can only make its standing worse, so a flaw that was noted
// stays.
func weigh(s *policy.Subject) {
	if list := tpm.Weaknesses(s.Manufacturer, s.Firmware); len(list) > 0 {
		s.Weakness = list[0].String()
	}
}

// decided notes what the policy has decided.
func decided(f *store.Facts, d *policy.Decision, p *policy.Policy) {
	f.Assurance, f.Rule, f.Policy, f.Life, f.Live, f.Vouched = d.Assurance, d.Rule, p.Hash, d.Life, d.Live, d.Vouched
	f.Roles = slices.Compact(slices.Sorted(slices.Values(slices.Concat(f.TokenRoles, d.Roles))))
	if d.Action == policy.Approve {
		f.Approvals = max(f.Approvals, d.Approvals)
	}
}

// free checks that neither the name nor the chip has another live node.
func (c *connection) free(context.Context) error {
	var replaces *chancery.NodeID
	if c.replaces != nil {
		replaces = &c.replaces.ID
	}
	return c.rivals.free(c.req.Name, c.claim.NodeID, c.facts.EKDigest, max(c.decision.Live, 1), replaces)
}

// answer stores the intake and has CA:N:S signed.
func (c *connection) answer(ctx context.Context) (*chancery.Answer, error) {
	now := time.Unix(c.a.Now().Unix(), 0).UTC()
	cans := &chancery.CANS{
		NodeKey:   c.claim.NodeKey,
		NodeID:    c.claim.NodeID,
		AKName:    c.claim.PoP.AKName,
		EKDigest:  c.facts.EKDigest,
		NodeNonce: c.claim.PoP.NodeNonce,
		Issued:    now,
		Expires:   now.Add(chancery.MaxCANSLife),
	}
	rand.Read(cans.CoordinatorNonce[:])
	rand.Read(cans.IntakeID[:])
	var secret [32]byte
	rand.Read(secret[:])
	credential, encrypted, err := c.claim.EK.MakeCredential(c.claim.AK.Name(), secret[:])
	if err != nil {
		return nil, broken(err)
	}
	if c.token != nil && c.token.Approve || c.replaces != nil {
		c.facts.Approvals = 1
	}
	decided(&c.facts, c.decision, c.a.Policy())
	c.facts.Reenrol = c.revoked && c.enrolled == nil
	intake := &store.Intake{
		ID:         cans.IntakeID,
		NodeID:     c.claim.NodeID,
		Name:       c.req.Name,
		Renewal:    c.enrolled != nil,
		Request:    c.req,
		Exporter:   c.ch.Exporter[:],
		Facts:      c.facts,
		Activation: chancery.ActivationProof(secret[:], cans.Hash()),
		CANSHash:   cans.Hash(),
		Created:    now,
		Expires:    cans.Expires,
	}
	if c.token != nil {
		intake.Token = c.token.ID[:]
	}
	if c.replaces != nil {
		intake.Replaces = &c.replaces.ID
	}
	if err := c.a.Store.Update(ctx, func(tx *store.Tx) error { return tx.InsertIntake(intake) }); err != nil {
		return nil, err
	}
	if err := c.a.Ledger.Answer(ctx, cans); err != nil {
		return nil, err
	}
	if tree, err := cans.Tree(); err == nil {
		c.a.signed.add(tree, cans.Signature)
	}
	return &chancery.Answer{
		Intake:           cans.IntakeID.String(),
		CANS:             cans.Marshal(),
		CredentialBlob:   credential,
		EncryptedSecret:  encrypted,
		CoordinatorClock: now.Unix(),
		QuotePCRs:        c.decision.Quote,
		EventLog:         c.decision.EventLog,
	}, nil
}
