package store

import (
	"cmp"
	"database/sql"
	"time"

	"github.com/chancery-pki/chancery"
)

// States of a node.
const (
	NodeActive   = "active"
	NodeRevoked  = "revoked"
	NodeReplaced = "replaced" // another key has its place; its certificates are revoked, its chip is not barred
)

// A Node is an enrolled node.
type Node struct {
	ID        chancery.NodeID
	Name      string
	State     string
	NodeKey   []byte   // N:PK, SubjectPublicKeyInfo
	AKPublic  []byte   // TPMT_PUBLIC
	EKDigest  [32]byte // SHA-256 over the EK's SubjectPublicKeyInfo
	Assurance chancery.AssuranceLevel
	Simulator bool
	Roles     []string
	Chip      chancery.Chip
	Seal      *chancery.Sealing // nil if N:SK is not sealed
	Enrolled  time.Time
	Revoked   time.Time
	Reason    string
	Code      chancery.ReasonCode // of the revocation
	Address   string              // where it said it listens
	Seen      time.Time

	Issuer     string // of the EK certificate, if that counts
	Rule       string // of the policy, under which it has its certificate
	Token      string // names that its join token was good for; empty without one
	TokenRoles []string
	Held       string    // why it is not renewed; empty if it is
	Attested   time.Time // when it last attested a good state
	AttestNow  bool      // an operator wants it to

	// As last attested after the enrolment; zero before.
	Epoch    uint64 // the chip's epoch counter, of a sealed key
	Resets   uint32
	Clock    uint64
	Retire   string // RetireWanted or RetireRaised while older approvals are being retired
	RaisedAt uint32 // Resets when the raised epoch was first seen
}

// How far the retirement of a node's older approvals is.
const (
	RetireWanted = "wanted" // the node is told with its next attestation
	RetireRaised = "raised" // the epoch is raised; it counts after the next reset
)

const nodeColumns = `node_id, name, state, node_key, ak_public, ek_digest, assurance, simulator, roles, chip, seal, enrolled, revoked, reason, reason_code, address, seen,
	issuer, rule, token, token_roles, held, attested, attest_now, epoch, resets, clock, retire, raised_at`

func (n *Node) dest() []any {
	return []any{fixed{n.ID[:]}, &n.Name, &n.State, &n.NodeKey, &n.AKPublic, fixed{n.EKDigest[:]}, &n.Assurance, &n.Simulator,
		jsonColumn{&n.Roles}, jsonColumn{&n.Chip}, jsonColumn{&n.Seal}, timeColumn{&n.Enrolled}, timeColumn{&n.Revoked}, &n.Reason, &n.Code, &n.Address, timeColumn{&n.Seen},
		&n.Issuer, &n.Rule, &n.Token, jsonColumn{&n.TokenRoles}, &n.Held, timeColumn{&n.Attested}, &n.AttestNow,
		bits{&n.Epoch}, &n.Resets, bits{&n.Clock}, &n.Retire, &n.RaisedAt}
}

// PutNode stores an active node, anew after a renewal. A name that another
// live node has is ErrTaken.
func (t *Tx) PutNode(n *Node) error {
	return t.exec(`INSERT INTO nodes (node_id, name, state, node_key, ak_public, ek_digest, assurance, simulator, roles, chip, seal, enrolled, issuer, rule, token, token_roles)
		VALUES (?, ?, 'active', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (node_id) DO UPDATE SET name = excluded.name, assurance = excluded.assurance, roles = excluded.roles, chip = excluded.chip, seal = excluded.seal,
			issuer = excluded.issuer, rule = excluded.rule, token = excluded.token, token_roles = excluded.token_roles`,
		n.ID[:], n.Name, n.NodeKey, n.AKPublic, n.EKDigest[:], n.Assurance, n.Simulator, toJSON(n.Roles), toJSON(n.Chip), toJSON(n.Seal), n.Enrolled.Unix(),
		n.Issuer, n.Rule, n.Token, toJSON(n.TokenRoles))
}

// Node returns a node.
func (t *Tx) Node(id chancery.NodeID) (*Node, error) {
	var n Node
	err := t.row(`SELECT `+nodeColumns+` FROM nodes WHERE node_id = ?`, []any{id[:]}, n.dest()...)
	return &n, err
}

// NameOfKey returns the name that the key of the node_id was certified under,
// whatever became of the node since; empty if it never was.
func (t *Tx) NameOfKey(id chancery.NodeID) (name string, err error) {
	err = t.row(`SELECT name FROM nodes WHERE node_id = ?`, []any{id[:]}, &name)
	if err == ErrNotFound {
		return "", nil
	}
	return name, err
}

// NodeByName returns the live node of a name or, if there is none, the one
// that was revoked last.
func (t *Tx) NodeByName(name string) (*Node, error) {
	var n Node
	err := t.row(`SELECT `+nodeColumns+` FROM nodes WHERE name = ? ORDER BY state = 'active' DESC, revoked DESC LIMIT 1`, []any{name}, n.dest()...)
	return &n, err
}

// NodesAfter returns the nodes after a name and, of that name, after a node_id,
// in this order; at most limit.
func (t *Tx) NodesAfter(name string, id chancery.NodeID, limit int) ([]Node, error) {
	return t.nodes(`SELECT `+nodeColumns+` FROM nodes WHERE (name, node_id) > (?, ?) ORDER BY name, node_id LIMIT ?`, name, id[:], limit)
}

// NodesCalled returns the nodes that have or had a name, in the order in which
// they enrolled.
func (t *Tx) NodesCalled(name string) ([]Node, error) {
	return t.nodes(`SELECT `+nodeColumns+` FROM nodes WHERE name = ? ORDER BY enrolled`, name)
}

// NodesHeld returns the live nodes that are held, by name; at most limit.
func (t *Tx) NodesHeld(limit int) ([]Node, error) {
	return t.nodes(`SELECT `+nodeColumns+` FROM nodes WHERE state = 'active' AND held != '' ORDER BY name LIMIT ?`, limit)
}

func (t *Tx) nodes(query string, args ...any) ([]Node, error) {
	return all(t, query, args, func(r *sql.Rows) (n Node, err error) {
		return n, r.Scan(n.dest()...)
	})
}

// A Census is how many nodes there are.
type Census struct {
	Live       int
	Simulators int // of the live ones
	Held       int // of the live ones
	Ended      int // revoked or replaced
}

// Census counts the nodes.
func (t *Tx) Census() (c Census, err error) {
	for _, count := range []struct {
		where string
		n     *int
	}{
		{`state = 'active'`, &c.Live},
		{`state = 'active' AND simulator = 1`, &c.Simulators},
		{`state = 'active' AND held != ''`, &c.Held},
		{`state != 'active'`, &c.Ended},
	} {
		if err := t.row(`SELECT COUNT(*) FROM nodes WHERE `+count.where, nil, count.n); err != nil {
			return c, err
		}
	}
	return c, nil
}

// NoteChip notes what a node's chip attested: epoch, reset count and clock, and
// how far a retirement is.
func (t *Tx) NoteChip(n *Node) error {
	return t.exec(`UPDATE nodes SET epoch = ?, resets = ?, clock = ?, retire = ?, raised_at = ? WHERE node_id = ?`,
		int64(n.Epoch), n.Resets, int64(n.Clock), n.Retire, n.RaisedAt, n.ID[:])
}

// Retire notes that a live node's older approvals are to be retired.
func (t *Tx) Retire(id chancery.NodeID) error {
	return t.exec(`UPDATE nodes SET retire = ?, attest_now = 1 WHERE node_id = ? AND state = 'active'`, RetireWanted, id[:])
}

// Hold keeps a live node from being renewed, for a reason; an empty one ends
// that.
func (t *Tx) Hold(id chancery.NodeID, reason string) error {
	return t.exec(`UPDATE nodes SET held = ? WHERE node_id = ? AND state = 'active'`, reason, id[:])
}

// SetAddress notes where a live node listens.
func (t *Tx) SetAddress(id chancery.NodeID, address string, now time.Time) error {
	return t.exec(`UPDATE nodes SET address = ?, seen = ? WHERE node_id = ? AND state = 'active'`, address, now.Unix(), id[:])
}

// RevokeNode marks the node, all of its log entries that have not expired, and
// its intakes. It returns how many certificates that revoked. A node that is
// revoked already is ErrNotFound.
func (t *Tx) RevokeNode(id chancery.NodeID, code chancery.ReasonCode, reason string, now time.Time) (int64, error) {
	return t.endNode(id, NodeRevoked, code, reason, now)
}

// ReplaceNode does the same to a node whose place another key takes. Its chip
// may have that key.
func (t *Tx) ReplaceNode(id chancery.NodeID, reason string, now time.Time) (int64, error) {
	return t.endNode(id, NodeReplaced, chancery.ReasonSuperseded, reason, now)
}

// endNode ends one node, of the coordinator's own accord.
func (t *Tx) endNode(id chancery.NodeID, state string, code chancery.ReasonCode, reason string, now time.Time) (int64, error) {
	r := &Revocation{At: now, Code: code, Reason: reason, Operator: chancery.AuditCoordinator, Tally: Tally{Selectors: 1}}
	if err := t.InsertRevocation(r); err != nil {
		return 0, err
	}
	if _, err := t.ChooseNode(1, id); err != nil {
		return 0, err
	}
	c, err := t.endChosen(state, r)
	if err != nil {
		return 0, err
	}
	if c.Nodes == 0 {
		return 0, cmp.Or(t.ForgetRevocation(r.ID), error(ErrNotFound))
	}
	r.Nodes, r.Certificates = c.Nodes, c.Certificates
	return int64(c.Certificates), t.NoteRevocation(r)
}
