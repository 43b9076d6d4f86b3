package store_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
)

// contract holds a backend to what package store promises. fresh makes an
// empty database and returns what opens it, any number of times; every store
// is closed before the next one is opened.
func contract(t *testing.T, fresh func(*testing.T) (open func() *store.Store)) {
	for _, test := range []struct {
		name string
		run  func(*db)
	}{
		{"settings", testSettings},
		{"tokens", testTokens},
		{"intakes", testIntakes},
		{"nodes", testNodes},
		{"one live node a name", testTaken},
		{"a node that is replaced", testReplaced},
		{"holds", testHold},
		{"lists of chips", testEKLists},
		{"policies", testPolicies},
		{"attestations", testAttestations},
		{"revocation is one transaction", testRevokeNode},
		{"entries", testEntries},
		{"logs are apart", testLogs},
		{"expiry", testExpiry},
		{"X.509 certificates", testX509},
		{"subtrees", testSubtrees},
		{"checkpoints", testCheckpoints},
		{"CRLs", testCRLs},
		{"pointer records", testPointers},
		{"reseals", testReseals},
		{"a failed update changes nothing", testRollback},
		{"a view sees one state and changes nothing", testView},
		{"updates outlive the process", testDurable},
		{"writers wait for each other", testWriters},
	} {
		t.Run(test.name, func(t *testing.T) {
			open := fresh(t)
			d := &db{T: t, open: open, Store: open()}
			defer func() { d.Close() }()
			test.run(d)
		})
	}
}

// A db is a store under test.
type db struct {
	*testing.T
	*store.Store
	open func() *store.Store
}

func (d *db) update(f func(*store.Tx) error) {
	d.Helper()
	if err := d.Update(d.Context(), f); err != nil {
		d.Fatal(err)
	}
}

func (d *db) view(f func(*store.Tx) error) {
	d.Helper()
	if err := d.View(d.Context(), f); err != nil {
		d.Fatal(err)
	}
}

// refuse checks that a step fails with the error.
func (d *db) refuse(want error, f func(*store.Tx) error) {
	d.Helper()
	if err := d.Update(d.Context(), f); !errors.Is(err, want) {
		d.Errorf("%v, want %v", err, want)
	}
}

// revoke revokes a span in an act of its own and returns how many entries of
// it were not revoked before.
func (d *db) revoke(l store.Log, from, below uint64, reason string, at time.Time) (n int64) {
	d.Helper()
	d.update(func(tx *store.Tx) error {
		r := &store.Revocation{At: at, Code: chancery.ReasonSuperseded, Reason: reason}
		if err := tx.InsertRevocation(r); err != nil {
			return err
		}
		var err error
		n, err = tx.RevokeSpan(l, from, below, r.ID)
		return err
	})
	return n
}

func (d *db) reopen() {
	d.Helper()
	if err := d.Close(); err != nil {
		d.Fatal(err)
	}
	d.Store = d.open()
}

// look returns what a reading method finds.
func look[T any](d *db, f func(*store.Tx) (T, error)) (v T) {
	d.Helper()
	d.view(func(tx *store.Tx) (err error) {
		v, err = f(tx)
		return err
	})
	return v
}

// same compares what was read with what must be there.
func same(d *db, what string, got, want any) {
	d.Helper()
	if !reflect.DeepEqual(got, want) {
		d.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// Times are whole seconds: what a store keeps.
var (
	start = time.Date(2031, 5, 17, 12, 0, 0, 0, time.UTC)
	later = start.Add(time.Hour)
	end   = start.Add(7 * 24 * time.Hour)
)

func id(n byte) chancery.NodeID { return chancery.NodeID{n} }

// node returns a node that is alone with its name and chip.
func node(n byte, name string) *store.Node {
	return &store.Node{
		ID: id(n), Name: name, State: store.NodeActive, NodeKey: []byte{n, 1}, AKPublic: []byte{n, 2}, EKDigest: [32]byte{n},
		Assurance: chancery.AssuranceEK, Simulator: true, Roles: []string{"db", "web"}, Chip: chancery.Chip{Manufacturer: "IBM", Simulator: true},
		Seal:     &chancery.Sealing{Nonce: []byte{n}, PCRs: []int{7}, PCRDigest: []byte{n, 3}, Epoch: 1<<63 - 1},
		Enrolled: start, Seen: time.Unix(0, 0).UTC(), Issuer: "CN=maker", Rule: "rule", Token: "edge-*", TokenRoles: []string{"web"},
	}
}

func intake(n byte, node chancery.NodeID, name string) *store.Intake {
	return &store.Intake{
		ID: chancery.IntakeID{n}, NodeID: node, Name: name, State: store.IntakeOpen, Token: []byte{9},
		Request: &chancery.InitialConnection{NodeKey: []byte{n}, Sealing: &chancery.Sealing{PCRs: []int{0, 7}}}, Exporter: []byte{n, 6},
		Facts:      store.Facts{EK: []byte{2}, EKDigest: [32]byte{n}, EKLists: []string{"bought"}, Assurance: chancery.AssuranceTPM, Roles: []string{"web"}, Approvals: 2, Life: time.Hour},
		Activation: []byte{n, 4}, CANSHash: [32]byte{n, 5}, Created: start, Expires: start.Add(10 * time.Minute),
	}
}

var log = store.Log{CA: "32473.1.1", Number: 1}

func entry(index uint64, node chancery.NodeID) *store.Entry {
	raw := []byte{byte(index), byte(index >> 8)}
	return &store.Entry{Index: index, Entry: raw, Leaf: merkle.HashLeaf(raw), SPKI: []byte{1, 2}, NodeID: node, NotAfter: end}
}

func (d *db) append(l store.Log, entries ...*store.Entry) {
	d.Helper()
	d.update(func(tx *store.Tx) error {
		for _, e := range entries {
			if err := tx.AppendEntry(l, e); err != nil {
				return err
			}
		}
		return nil
	})
}

func testSettings(d *db) {
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.Setting("x"); return err })
	for _, v := range [][]byte{{1}, {2, 3}} {
		d.update(func(tx *store.Tx) error { return tx.SetSetting("x", v) })
		same(d, "setting", look(d, func(tx *store.Tx) ([]byte, error) { return tx.Setting("x") }), v)
	}
}

func testTokens(d *db) {
	k := &store.Token{ID: chancery.TokenID{1}, Key: chancery.TokenKey{2}, Names: "edge-*", Roles: []string{"web"}, Approve: true, UsesLeft: 2, Created: start, Expires: end}
	younger := &store.Token{ID: chancery.TokenID{2}, Names: "x", UsesLeft: 1, Created: later, Expires: end}
	d.update(func(tx *store.Tx) error { return errors.Join(tx.InsertToken(k), tx.InsertToken(younger)) })
	same(d, "token", look(d, func(tx *store.Tx) (*store.Token, error) { return tx.Token(k.ID) }), k)
	same(d, "tokens, the newest first", look(d, (*store.Tx).Tokens), []store.Token{*younger, *k})
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.Token(chancery.TokenID{3}); return err })
	if d.Update(d.Context(), func(tx *store.Tx) error { return tx.InsertToken(k) }) == nil {
		d.Error("a token is inserted twice")
	}
	for range 2 {
		d.update(func(tx *store.Tx) error { return tx.UseToken(k.ID) })
	}
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.UseToken(k.ID) })
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.UseToken(chancery.TokenID{3}) })
	if left := look(d, func(tx *store.Tx) (*store.Token, error) { return tx.Token(k.ID) }).UsesLeft; left != 0 {
		d.Errorf("%d uses left", left)
	}
}

func (d *db) intake(n byte) *store.Intake {
	d.Helper()
	return look(d, func(tx *store.Tx) (*store.Intake, error) { return tx.Intake(chancery.IntakeID{n}) })
}

func testIntakes(d *db) {
	a, b := intake(1, id(1), "a"), intake(2, id(2), "b")
	b.Renewal, b.Token, b.Created = true, nil, start.Add(-time.Second)
	b.Replaces = &a.NodeID
	d.update(func(tx *store.Tx) error { return errors.Join(tx.InsertIntake(a), tx.InsertIntake(b)) })
	same(d, "intake", d.intake(1), a)
	same(d, "renewal", d.intake(2), b)
	same(d, "open ones, the oldest first", look(d, func(tx *store.Tx) ([]store.Intake, error) { return tx.Intakes(store.IntakeOpen) }), []store.Intake{*b, *a})
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.Intake(chancery.IntakeID{3}); return err })

	// Each step is taken once, from the state before it.
	ns, serial := []byte("n:s"), merkle.Serial(3<<48|70)
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.IssueIntake(a.ID, log.CA, serial) })
	a.NS, a.Submission, a.Submitted = ns, &chancery.Submission{NS: ns, EventLog: []byte{1}}, later
	a.Facts.Rule = "as it is now"
	d.update(func(tx *store.Tx) error { return tx.SubmitIntake(a, store.IntakePending) })
	other := *a
	other.NS = []byte("other")
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.SubmitIntake(&other, store.IntakePending) })

	// An operator's approval counts once.
	approve := func(operator string) (count int) {
		d.update(func(tx *store.Tx) (err error) { count, err = tx.Approve(a.ID, operator, later); return err })
		return count
	}
	same(d, "approvals", []int{approve("ada"), approve("bob")}, []int{1, 2})
	d.refuse(store.ErrTaken, func(tx *store.Tx) error { _, err := tx.Approve(a.ID, "ada", end); return err })
	same(d, "who approved", look(d, func(tx *store.Tx) ([]string, error) { return tx.Approvals(a.ID) }), []string{"ada", "bob"})
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.IssueIntake(a.ID, log.CA, serial) })
	d.update(func(tx *store.Tx) error { return tx.MoveIntake(a.ID, store.IntakePending, store.IntakeApproved, "") })
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.MoveIntake(a.ID, store.IntakePending, store.IntakeRefused, "late") })
	d.update(func(tx *store.Tx) error { return tx.IssueIntake(a.ID, log.CA, serial) })
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.IssueIntake(a.ID, log.CA, serial+1) })
	a.State, a.CA, a.Log, a.Index = store.IntakeIssued, log.CA, 3, 70
	same(d, "issued", d.intake(1), a)
	of := store.Log{CA: log.CA, Number: 3}
	same(d, "by its entry", look(d, func(tx *store.Tx) (*store.Intake, error) { return tx.IntakeOf(of, 70) }), a)
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.IntakeOf(of, 71); return err })
	if got, err := d.intake(1).Serial(); err != nil || got != serial {
		d.Errorf("serial %v, %v", got, err)
	}

	// Open intakes expire; others do not.
	d.update(func(tx *store.Tx) error { return tx.ExpireIntakes(b.Expires) })
	same(d, "at its last second", d.intake(2).State, store.IntakeOpen)
	d.update(func(tx *store.Tx) error { return tx.ExpireIntakes(b.Expires.Add(time.Second)) })
	if i := d.intake(2); i.State != store.IntakeRefused || i.Reason == "" {
		d.Errorf("expired: %s, %q", i.State, i.Reason)
	}
	same(d, "issued, and expired", d.intake(1).State, store.IntakeIssued)
}

func testNodes(d *db) {
	a, b, plain := node(1, "a"), node(2, "b"), node(3, "c")
	plain.Seal, plain.Roles = nil, nil
	d.update(func(tx *store.Tx) error { return errors.Join(tx.PutNode(b), tx.PutNode(a), tx.PutNode(plain)) })
	same(d, "node", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) }), a)
	same(d, "node by name", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.NodeByName("c") }), plain)
	same(d, "nodes by name", look(d, nodesAfter("", chancery.NodeID{}, 9)), []store.Node{*a, *b, *plain})
	same(d, "the first page", look(d, nodesAfter("", chancery.NodeID{}, 2)), []store.Node{*a, *b})
	same(d, "the second page", look(d, nodesAfter(b.Name, b.ID, 2)), []store.Node{*plain})
	same(d, "census", look(d, (*store.Tx).Census), store.Census{Live: 3, Simulators: simulators(a, b, plain)})
	for _, missing := range []func(*store.Tx) (*store.Node, error){
		func(tx *store.Tx) (*store.Node, error) { return tx.Node(id(9)) },
		func(tx *store.Tx) (*store.Node, error) { return tx.NodeByName("nobody") },
	} {
		d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := missing(tx); return err })
	}

	// A renewal changes what a certificate says, not since when and where.
	d.update(func(tx *store.Tx) error { return tx.SetAddress(a.ID, "[2001:db8::1]:7443", later) })
	renewed := node(1, "a")
	renewed.Roles, renewed.Assurance, renewed.Chip, renewed.Enrolled = []string{"db"}, chancery.AssuranceTPM, chancery.Chip{Firmware: "2"}, later
	renewed.Seal.Epoch = 2
	d.update(func(tx *store.Tx) error { return tx.PutNode(renewed) })
	renewed.Enrolled, renewed.Address, renewed.Seen = start, "[2001:db8::1]:7443", later
	same(d, "renewed", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) }), renewed)
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.SetAddress(id(9), "x", later) })
}

func nodesAfter(name string, id chancery.NodeID, limit int) func(*store.Tx) ([]store.Node, error) {
	return func(tx *store.Tx) ([]store.Node, error) { return tx.NodesAfter(name, id, limit) }
}

func simulators(nodes ...*store.Node) (n int) {
	for _, node := range nodes {
		if node.Simulator {
			n++
		}
	}
	return n
}

// onChip returns the names and states of the nodes on a chip.
func onChip(d *db, ek [32]byte) (list []string) {
	for _, r := range look(d, func(tx *store.Tx) ([]store.Rival, error) { return tx.Rivals(chancery.NodeID{}, "", ek) }) {
		list = append(list, r.Name+" "+r.State)
	}
	slices.Sort(list)
	return list
}

func testTaken(d *db) {
	a := node(1, "a")
	d.update(func(tx *store.Tx) error { return tx.PutNode(a) })
	sameName := node(2, "a")
	d.refuse(store.ErrTaken, func(tx *store.Tx) error { return tx.PutNode(sameName) })
	other := node(3, "c")
	d.update(func(tx *store.Tx) error { return tx.PutNode(other) })
	other.Name = "a"
	d.refuse(store.ErrTaken, func(tx *store.Tx) error { return tx.PutNode(other) })

	// Only live nodes count.
	d.update(func(tx *store.Tx) error {
		_, err := tx.RevokeNode(a.ID, chancery.ReasonUnspecified, "gone", later)
		return err
	})
	d.update(func(tx *store.Tx) error { return tx.PutNode(sameName) })
	d.update(func(tx *store.Tx) error {
		_, err := tx.RevokeNode(sameName.ID, chancery.ReasonUnspecified, "gone", later.Add(time.Second))
		return err
	})
	same(d, "the one that was revoked last", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.NodeByName("a") }).ID, sameName.ID)
	again := node(4, "a")
	d.update(func(tx *store.Tx) error { return tx.PutNode(again) })
	same(d, "the live one", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.NodeByName("a") }).ID, again.ID)
	same(d, "all that had the name", look(d, func(tx *store.Tx) ([]store.Node, error) { return tx.NodesCalled("a") })[1].ID, sameName.ID)
	same(d, "census", look(d, (*store.Tx).Census), store.Census{Live: 2, Simulators: simulators(again, other), Ended: 2})
	same(d, "a revoked chip", onChip(d, a.EKDigest), []string{"a revoked"})
	same(d, "a live chip", onChip(d, again.EKDigest), []string{"a active"})
}

func testRevokeNode(d *db) {
	a, b := node(1, "a"), node(2, "b")
	d.update(func(tx *store.Tx) error { return errors.Join(tx.PutNode(a), tx.PutNode(b)) })
	expired, before := entry(0, a.ID), entry(1, a.ID)
	expired.NotAfter = later.Add(-time.Second)
	lastSecond := entry(3, a.ID)
	lastSecond.NotAfter = later
	d.append(log, expired, before, entry(2, b.ID), lastSecond, entry(4, a.ID))
	d.revoke(log, 1, 2, "lost", start)
	states := map[byte]string{1: store.IntakeOpen, 2: store.IntakePending, 3: store.IntakeApproved, 4: store.IntakeIssued, 5: store.IntakeOpen}
	d.update(func(tx *store.Tx) error {
		for n, state := range states {
			i := intake(n, a.ID, "a")
			if n == 5 {
				i.NodeID = b.ID
			}
			if err := tx.InsertIntake(i); err != nil {
				return err
			}
			if state != store.IntakeOpen {
				if err := tx.MoveIntake(i.ID, store.IntakeOpen, state, ""); err != nil {
					return err
				}
			}
		}
		return nil
	})

	// All of it or nothing.
	revoke := func(tx *store.Tx) error {
		n, err := tx.RevokeNode(a.ID, chancery.ReasonUnspecified, "stolen", later)
		if err == nil && n != 2 {
			d.Errorf("%d certificates revoked, want the two that are alive and were not revoked", n)
		}
		return err
	}
	stop := errors.New("stop")
	d.refuse(stop, func(tx *store.Tx) error { return errors.Join(revoke(tx), stop) })
	revoked := func() []uint64 {
		return look(d, func(tx *store.Tx) ([]uint64, error) { return tx.RevokedFrom(log, 0) })
	}
	same(d, "revoked after a rollback", revoked(), []uint64{1})
	same(d, "node after a rollback", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) }), a)

	d.update(revoke)
	same(d, "revoked", revoked(), []uint64{1, 3, 4})
	n := look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) })
	if n.State != store.NodeRevoked || n.Reason != "stolen" || !n.Revoked.Equal(later) {
		d.Errorf("node is %s, %q, %v", n.State, n.Reason, n.Revoked)
	}
	for n, want := range map[byte]string{1: store.IntakeRefused, 2: store.IntakeRefused, 3: store.IntakeRefused, 4: store.IntakeIssued, 5: store.IntakeOpen} {
		if i := d.intake(n); i.State != want {
			d.Errorf("intake %d is %s, want %s", n, i.State, want)
		}
	}
	e := look(d, func(tx *store.Tx) (*store.Entry, error) { return tx.Entry(log, 1) })
	if e.Reason != "lost" || !e.Revoked.Equal(start) {
		d.Errorf("the earlier revocation is now %q, %v", e.Reason, e.Revoked)
	}

	d.refuse(store.ErrNotFound, func(tx *store.Tx) error {
		_, err := tx.RevokeNode(a.ID, chancery.ReasonUnspecified, "twice", end)
		return err
	})
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error {
		_, err := tx.RevokeNode(id(9), chancery.ReasonUnspecified, "unknown", end)
		return err
	})
	same(d, "node after a second revocation", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) }), n)
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.SetAddress(a.ID, "x", end) })
	same(d, "nodes on the chip", onChip(d, a.EKDigest), []string{"a revoked"})

	// A revoked node that is stored again stays revoked.
	d.update(func(tx *store.Tx) error { return tx.PutNode(a) })
	same(d, "state", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) }).State, store.NodeRevoked)
}

func testEntries(d *db) {
	size := func() uint64 { return look(d, func(tx *store.Tx) (uint64, error) { return tx.LogSize(log) }) }
	same(d, "size of an empty log", size(), uint64(0))
	list := []*store.Entry{entry(0, id(1)), entry(1, id(2)), entry(2, id(1)), entry(3, id(1))}
	d.append(log, list...)
	same(d, "size", size(), uint64(4))
	if d.Update(d.Context(), func(tx *store.Tx) error { return tx.AppendEntry(log, entry(2, id(3))) }) == nil {
		d.Error("an index is given out twice")
	}
	same(d, "entry", look(d, func(tx *store.Tx) (*store.Entry, error) { return tx.Entry(log, 2) }), list[2])
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.Entry(log, 4); return err })
	same(d, "entries from 1, two", look(d, func(tx *store.Tx) ([]store.Entry, error) { return tx.Entries(log, 1, 2) }), []store.Entry{*list[1], *list[2]})
	same(d, "entries of a node", look(d, func(tx *store.Tx) ([]store.Entry, error) { return tx.EntriesOf(log, id(1)) }), []store.Entry{*list[0], *list[2], *list[3]})
	var leaves []merkle.Hash
	d.view(func(tx *store.Tx) error { return tx.Leaves(log, func(h merkle.Hash) { leaves = append(leaves, h) }) })
	same(d, "leaves", leaves, []merkle.Hash{list[0].Leaf, list[1].Leaf, list[2].Leaf, list[3].Leaf})

	same(d, "revoked for the first time", d.revoke(log, 2, 3, "lost", later), int64(1))
	same(d, "revoked again", d.revoke(log, 2, 3, "again", end), int64(0))
	list[2].Revoked, list[2].Reason, list[2].Code = later, "lost", chancery.ReasonSuperseded
	same(d, "revoked entry", look(d, func(tx *store.Tx) (*store.Entry, error) { return tx.Entry(log, 2) }), list[2])
	d.revoke(log, 0, 1, "", later)
	for from, want := range [][]uint64{{0, 2}, {2}, {2}, nil} {
		same(d, "revoked from an index", look(d, func(tx *store.Tx) ([]uint64, error) { return tx.RevokedFrom(log, uint64(from)) }), want)
	}

	// A span takes what is there, and leaves what was revoked before as it is.
	same(d, "revoked of a span", d.revoke(log, 1, 99, "recall", end), int64(2))
	type row struct {
		Index uint64
		At    time.Time
		Code  chancery.ReasonCode
	}
	for _, test := range []struct {
		from, below uint64
		want        []row
	}{
		{0, 99, []row{{0, later, chancery.ReasonSuperseded}, {1, end, chancery.ReasonSuperseded}, {2, later, chancery.ReasonSuperseded}, {3, end, chancery.ReasonSuperseded}}},
		{1, 3, []row{{1, end, chancery.ReasonSuperseded}, {2, later, chancery.ReasonSuperseded}}},
		{4, 99, nil},
	} {
		var got []row
		d.view(func(tx *store.Tx) error {
			return tx.RevokedIn(log, test.from, test.below, func(index uint64, at time.Time, code chancery.ReasonCode) { got = append(got, row{index, at, code}) })
		})
		same(d, "revoked in a span", got, test.want)
		same(d, "how many", look(d, func(tx *store.Tx) (int64, error) { return tx.CountRevoked(log, test.from, test.below) }), int64(len(test.want)))
	}
}

// A serial number is the first key's for ever, and its certificate the first that
// was signed.
func testX509(d *db) {
	reserve := func(index uint64, spki string) (x store.X509) {
		d.update(func(tx *store.Tx) (err error) {
			x, err = tx.ReserveX509(log, index, []byte(spki))
			return err
		})
		return x
	}
	keep := func(index uint64, der string) (kept []byte) {
		d.update(func(tx *store.Tx) (err error) {
			kept, err = tx.KeepX509(log, index, []byte(der))
			return err
		})
		return kept
	}
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.X509(log, 7); return err })
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.KeepX509(log, 7, []byte("never reserved")); return err })
	same(d, "reserved", reserve(7, "one"), store.X509{SPKI: []byte("one")})
	d.reopen()
	same(d, "reserved for another", reserve(7, "two"), store.X509{SPKI: []byte("one")})
	same(d, "kept", keep(7, "first"), []byte("first"))
	same(d, "kept again", keep(7, "second"), []byte("first"))
	d.reopen()
	want := store.X509{SPKI: []byte("one"), DER: []byte("first")}
	same(d, "reserved for the same", reserve(7, "one"), want)
	same(d, "read", look(d, func(tx *store.Tx) (store.X509, error) { return tx.X509(log, 7) }), want)
	same(d, "another number", reserve(8, "two"), store.X509{SPKI: []byte("two")})
	other := store.Log{CA: log.CA, Number: 0} // the issuer's own
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.X509(other, 7); return err })
}

// Two logs of one CA, and one log number of two CAs, have nothing in common.
func testLogs(d *db) {
	others := []store.Log{{CA: log.CA, Number: 2}, {CA: "32473.1.2", Number: 1}}
	d.append(log, entry(0, id(1)), entry(1, id(1)))
	for i, l := range others {
		same(d, "size", look(d, func(tx *store.Tx) (uint64, error) { return tx.LogSize(l) }), uint64(0))
		d.append(l, entry(0, id(byte(i))))
		d.revoke(l, 0, 1, "", later)
		d.update(func(tx *store.Tx) error { return tx.InsertSubtree(l, &store.Subtree{Tree: merkle.Subtree{End: 1}}) })
		d.update(func(tx *store.Tx) error { return tx.InsertCheckpoint(l, &store.Checkpoint{Size: 1, At: start}) })
	}
	same(d, "revoked", look(d, func(tx *store.Tx) ([]uint64, error) { return tx.RevokedFrom(log, 0) }), []uint64(nil))
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.SubtreeOf(log, 0); return err })
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.LatestCheckpoint(log); return err })
	same(d, "unsigned", len(look(d, func(tx *store.Tx) ([]store.Subtree, error) { return tx.UnsignedSubtrees(others[0]) })), 1)
	same(d, "size", look(d, func(tx *store.Tx) (uint64, error) { return tx.LogSize(log) }), uint64(2))
}

func testExpiry(d *db) {
	var list []*store.Entry
	for i, life := range []time.Duration{1, 3, 2, 4} { // hours
		e := entry(uint64(i), id(1))
		e.NotAfter = start.Add(life * time.Hour)
		list = append(list, e)
	}
	d.append(log, list...)
	for _, test := range []struct {
		from  uint64
		after time.Duration
		want  uint64
	}{
		{0, 0, 0},
		{0, time.Hour, 0}, // notAfter is the last good second
		{0, time.Hour + time.Second, 1},
		{2, time.Hour + time.Second, 2},
		{0, 3*time.Hour + time.Second, 3}, // not 2: all below must have expired
		{0, 5 * time.Hour, 4},
		{4, 0, 4},
	} {
		got := look(d, func(tx *store.Tx) (uint64, error) { return tx.FirstLive(log, test.from, 4, start.Add(test.after)) })
		if got != test.want {
			d.Errorf("first from %d after %v: %d, want %d", test.from, test.after, got, test.want)
		}
	}
}

func testSubtrees(d *db) {
	list := []*store.Subtree{
		{BatchStart: 0, Tree: merkle.Subtree{Start: 0, End: 3}, Root: merkle.Hash{1}},
		{BatchStart: 3, Tree: merkle.Subtree{Start: 0, End: 5}, Root: merkle.Hash{2}},
		{BatchStart: 5, Tree: merkle.Subtree{Start: 4, End: 6}, Root: merkle.Hash{3}},
	}
	for _, s := range list {
		d.update(func(tx *store.Tx) error { return tx.InsertSubtree(log, s) })
	}
	if d.Update(d.Context(), func(tx *store.Tx) error { return tx.InsertSubtree(log, list[1]) }) == nil {
		d.Error("a batch is fixed twice")
	}
	for index, want := range []int{0, 0, 0, 1, 1, 2} { // the batch that it came in, not any tree around it
		same(d, "subtree of an entry", look(d, func(tx *store.Tx) (*store.Subtree, error) { return tx.SubtreeOf(log, uint64(index)) }), list[want])
	}
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.SubtreeOf(log, 6); return err })
	list[1].Signature = chancery.Signature{4}
	d.update(func(tx *store.Tx) error { return tx.SignSubtree(log, list[1]) })
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error {
		return tx.SignSubtree(log, &store.Subtree{Tree: list[1].Tree, Signature: chancery.Signature{5}})
	})
	same(d, "signed", look(d, func(tx *store.Tx) (*store.Subtree, error) { return tx.SubtreeOf(log, 4) }), list[1])
	same(d, "unsigned", look(d, func(tx *store.Tx) ([]store.Subtree, error) { return tx.UnsignedSubtrees(log) }), []store.Subtree{*list[0], *list[2]})
	same(d, "from 1, one", look(d, func(tx *store.Tx) ([]store.Subtree, error) { return tx.Subtrees(log, 1, 1) }), []store.Subtree{*list[1]})
	same(d, "from 3", look(d, func(tx *store.Tx) ([]store.Subtree, error) { return tx.Subtrees(log, 3, 9) }), []store.Subtree{*list[1], *list[2]})
}

func testCheckpoints(d *db) {
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.LatestCheckpoint(log); return err })
	list := []*store.Checkpoint{{Size: 4, Root: merkle.Hash{1}, At: start}, {Size: 4, Root: merkle.Hash{1}, At: later}, {Size: 6, Root: merkle.Hash{2}, At: start}}
	for _, c := range list {
		d.update(func(tx *store.Tx) error { return tx.InsertCheckpoint(log, c) })
		same(d, "latest", look(d, func(tx *store.Tx) (*store.Checkpoint, error) { return tx.LatestCheckpoint(log) }), c)
	}
	if d.Update(d.Context(), func(tx *store.Tx) error { return tx.InsertCheckpoint(log, list[0]) }) == nil {
		d.Error("a checkpoint is fixed twice")
	}
	list[1].Signature = chancery.Signature{3}
	d.update(func(tx *store.Tx) error { return tx.SignCheckpoint(log, list[1]) })
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.SignCheckpoint(log, list[1]) })
	same(d, "unsigned", look(d, func(tx *store.Tx) ([]store.Checkpoint, error) { return tx.UnsignedCheckpoints(log) }), []store.Checkpoint{*list[0], *list[2]})
}

func testCRLs(d *db) {
	same(d, "no lists", look(d, (*store.Tx).CRLs), []store.CRL(nil))
	const last = 3 * store.KeptCRLs
	for n := uint64(1); n <= last; n++ {
		d.update(func(tx *store.Tx) error { return tx.InsertCRL(&store.CRL{Number: n, List: []byte{byte(n)}}) })
		d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.SignCRL(n+1, chancery.Signature{1}) })
		d.update(func(tx *store.Tx) error { return tx.SignCRL(n, chancery.Signature{byte(n)}) })
		d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.SignCRL(n, chancery.Signature{1}) })
	}
	if d.Update(d.Context(), func(tx *store.Tx) error { return tx.InsertCRL(&store.CRL{Number: last, List: []byte("other")}) }) == nil {
		d.Error("a CRL number is given out twice")
	}
	lists := look(d, (*store.Tx).CRLs)
	if len(lists) != store.KeptCRLs+1 {
		d.Fatalf("%d lists are kept, want the current one and %d", len(lists), store.KeptCRLs)
	}
	for i, c := range lists {
		n := last - store.KeptCRLs + i
		same(d, "list", c, store.CRL{Number: uint64(n), List: []byte{byte(n)}, Signature: chancery.Signature{byte(n)}})
	}
}

func testReseals(d *db) {
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.Reseal(id(1)); return err })
	wish := &store.Reseal{NodeID: id(1), Epoch: 1<<63 - 1, PCRs: map[int][]byte{0: {1}, 7: {2}}, Asked: later}
	older := &store.Reseal{NodeID: id(2), Epoch: 1, PCRs: map[int][]byte{7: {3}}, Asked: start}
	d.update(func(tx *store.Tx) error { return errors.Join(tx.PutReseal(wish), tx.PutReseal(older)) })
	same(d, "wish", look(d, func(tx *store.Tx) (*store.Reseal, error) { return tx.Reseal(wish.NodeID) }), wish)
	same(d, "wishes, the oldest first", look(d, (*store.Tx).Reseals), []store.Reseal{*older, *wish})

	approve := func(change func(*store.Reseal)) func(*store.Tx) error {
		w := *wish
		w.Signature = chancery.Signature{9}
		change(&w)
		return func(tx *store.Tx) error { return tx.ApproveReseal(&w) }
	}
	// What was signed must be what is wished: an approval of another state is
	// worth nothing to the node, and would hide that it still waits.
	d.refuse(store.ErrNotFound, approve(func(w *store.Reseal) { w.Epoch-- }))
	d.refuse(store.ErrNotFound, approve(func(w *store.Reseal) { w.Asked = start }))
	d.refuse(store.ErrNotFound, approve(func(w *store.Reseal) { w.PCRs = map[int][]byte{0: {1}, 7: {3}} }))
	d.refuse(store.ErrNotFound, approve(func(w *store.Reseal) { w.NodeID = id(3) }))
	d.update(approve(func(*store.Reseal) {}))
	d.refuse(store.ErrNotFound, approve(func(*store.Reseal) {}))
	same(d, "approval", look(d, func(tx *store.Tx) (*store.Reseal, error) { return tx.Reseal(wish.NodeID) }).Signature, chancery.Signature{9})

	// A new wish has no approval.
	wish.PCRs = map[int][]byte{7: {4}}
	d.update(func(tx *store.Tx) error { return tx.PutReseal(wish) })
	same(d, "another wish", look(d, func(tx *store.Tx) (*store.Reseal, error) { return tx.Reseal(wish.NodeID) }), wish)
}

func testRollback(d *db) {
	stop := errors.New("stop")
	writes := func(tx *store.Tx) error {
		return errors.Join(
			tx.SetSetting("x", []byte{1}), tx.InsertToken(&store.Token{ID: chancery.TokenID{1}, UsesLeft: 1}),
			tx.PutNode(node(1, "a")), tx.InsertIntake(intake(1, id(1), "a")), tx.AppendEntry(log, entry(0, id(1))),
			tx.InsertSubtree(log, &store.Subtree{Tree: merkle.Subtree{End: 1}}), tx.InsertCheckpoint(log, &store.Checkpoint{Size: 1}),
			tx.InsertCRL(&store.CRL{Number: 1, List: []byte{1}}), tx.PutReseal(&store.Reseal{NodeID: id(1)}))
	}
	empty := func(how string) {
		d.Helper()
		d.view(func(tx *store.Tx) error {
			_, setting := tx.Setting("x")
			_, node := tx.Node(id(1))
			_, in := tx.Intake(chancery.IntakeID{1})
			_, token := tx.Token(chancery.TokenID{1})
			_, reseal := tx.Reseal(id(1))
			_, subtree := tx.SubtreeOf(log, 0)
			_, checkpoint := tx.LatestCheckpoint(log)
			for i, err := range []error{setting, node, in, token, reseal, subtree, checkpoint} {
				if !errors.Is(err, store.ErrNotFound) {
					d.Errorf("%s: write %d is there: %v", how, i, err)
				}
			}
			size, err := tx.LogSize(log)
			crls, err2 := tx.CRLs()
			if size != 0 || len(crls) != 0 {
				d.Errorf("%s: %d entries, %d lists", how, size, len(crls))
			}
			return errors.Join(err, err2)
		})
	}
	d.refuse(stop, func(tx *store.Tx) error { return errors.Join(writes(tx), stop) })
	empty("an error")
	ctx, cancel := context.WithCancel(d.Context())
	err := d.Update(ctx, func(tx *store.Tx) error {
		defer cancel()
		return writes(tx)
	})
	if !errors.Is(err, context.Canceled) {
		d.Errorf("canceled: %v", err)
	}
	empty("a canceled context")
	func() {
		defer func() { recover() }()
		d.Update(d.Context(), func(tx *store.Tx) error {
			if err := writes(tx); err != nil {
				d.Error(err)
			}
			panic("bug")
		})
	}()
	empty("a panic")
	d.update(writes)
	same(d, "size", look(d, func(tx *store.Tx) (uint64, error) { return tx.LogSize(log) }), uint64(1))
}

func testView(d *db) {
	if d.View(d.Context(), func(tx *store.Tx) error { return tx.SetSetting("x", []byte{1}) }) == nil {
		d.Error("a view writes")
	}
	d.update(func(tx *store.Tx) error { return tx.SetSetting("x", []byte{1}) })
	d.view(func(tx *store.Tx) error {
		before, err := tx.Setting("x")
		if err != nil {
			return err
		}
		d.update(func(tx *store.Tx) error { return tx.SetSetting("x", []byte{2}) })
		after, err := tx.Setting("x")
		if !bytes.Equal(before, after) {
			d.Errorf("a view saw %v, then %v", before, after)
		}
		return err
	})
	same(d, "the next view", look(d, func(tx *store.Tx) ([]byte, error) { return tx.Setting("x") }), []byte{2})
}

func testDurable(d *db) {
	a := node(1, "a")
	d.update(func(tx *store.Tx) error {
		return errors.Join(tx.PutNode(a), tx.InsertIntake(intake(1, id(1), "a")), tx.AppendEntry(log, entry(0, id(1))), tx.InsertCRL(&store.CRL{Number: 1, List: []byte{1}}))
	})
	d.reopen()
	same(d, "node", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) }), a)
	same(d, "intake", d.intake(1), intake(1, id(1), "a"))
	same(d, "entry", look(d, func(tx *store.Tx) (*store.Entry, error) { return tx.Entry(log, 0) }), entry(0, id(1)))
	d.update(func(tx *store.Tx) error {
		_, err := tx.RevokeNode(a.ID, chancery.ReasonUnspecified, "", later)
		return err
	})
	d.reopen()
	same(d, "revoked", look(d, func(tx *store.Tx) ([]uint64, error) { return tx.RevokedFrom(log, 0) }), []uint64{0})
	same(d, "lists", len(look(d, (*store.Tx).CRLs)), 1)
}

// Updates that read before they write do not lose each other's work.
func testWriters(d *db) {
	const writers, each = 8, 20
	failed := make(chan error, writers)
	for range writers {
		go func() {
			failed <- func() error {
				for range each {
					err := d.Update(context.Background(), func(tx *store.Tx) error {
						n, err := tx.LogSize(log)
						if err != nil {
							return err
						}
						return tx.AppendEntry(log, entry(n, id(1)))
					})
					if err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range writers {
		if err := <-failed; err != nil {
			d.Error(err)
		}
	}
	entries := look(d, func(tx *store.Tx) ([]store.Entry, error) { return tx.Entries(log, 0, 1000) })
	gap := slices.IndexFunc(entries, func(e store.Entry) bool { return e.Entry[0] != byte(e.Index) })
	if len(entries) != writers*each || gap >= 0 {
		d.Errorf("%d entries, gap at %d", len(entries), gap)
	}
}

// A node whose place another key takes leaves its chip to it.
func testReplaced(d *db) {
	a := node(1, "a")
	d.update(func(tx *store.Tx) error { return errors.Join(tx.PutNode(a), tx.AppendEntry(log, entry(0, a.ID))) })
	successor := node(2, "a")
	successor.EKDigest = a.EKDigest
	d.update(func(tx *store.Tx) error {
		n, err := tx.ReplaceNode(a.ID, "new key", later)
		if n != 1 {
			d.Errorf("%d certificates revoked", n)
		}
		return errors.Join(err, tx.PutNode(successor))
	})
	n := look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) })
	same(d, "state", []any{n.State, n.Reason, n.Revoked}, []any{store.NodeReplaced, "new key", later})
	same(d, "its certificate", look(d, func(tx *store.Tx) (*store.Entry, error) { return tx.Entry(log, 0) }).Revoked, later)
	same(d, "the chip is not barred", onChip(d, a.EKDigest), []string{"a active", "a replaced"})
	same(d, "the live one", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.NodeByName("a") }).ID, successor.ID)
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.ReplaceNode(a.ID, "again", end); return err })
}

func testHold(d *db) {
	a := node(1, "a")
	d.update(func(tx *store.Tx) error { return tx.PutNode(a) })
	for _, reason := range []string{"boot state", ""} {
		d.update(func(tx *store.Tx) error { return tx.Hold(a.ID, reason) })
		same(d, "held", look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) }).Held, reason)
		var held []string
		for _, n := range look(d, func(tx *store.Tx) ([]store.Node, error) { return tx.NodesHeld(9) }) {
			held = append(held, n.Held)
		}
		same(d, "all that are held", held, map[bool][]string{true: {reason}}[reason != ""])
		same(d, "how many are held", look(d, (*store.Tx).Census).Held, len(held))
	}
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.Hold(id(9), "x") })
}

func testEKLists(d *db) {
	for _, e := range []store.EKListed{{List: "b", EK: [32]byte{1}, Note: "first"}, {List: "a", EK: [32]byte{1}}, {List: "a", EK: [32]byte{2}}} {
		d.update(func(tx *store.Tx) error {
			added, err := tx.PutEK(&e)
			if !added {
				d.Errorf("%v was there", e)
			}
			return err
		})
	}
	d.update(func(tx *store.Tx) error {
		added, err := tx.PutEK(&store.EKListed{List: "b", EK: [32]byte{1}, Note: "second"})
		if added {
			d.Error("a chip is added twice")
		}
		return err
	})
	same(d, "lists of a chip", look(d, func(tx *store.Tx) ([]string, error) { return tx.EKLists([32]byte{1}) }), []string{"a", "b"})
	same(d, "lists", look(d, (*store.Tx).EKCounts), map[string]int{"a": 2, "b": 1})
	same(d, "chips", look(d, func(tx *store.Tx) ([]store.EKListed, error) { return tx.EKsOn("b") }), []store.EKListed{{List: "b", EK: [32]byte{1}, Note: "second"}})
	d.update(func(tx *store.Tx) error {
		n, err := tx.RemoveEKList("a")
		if n != 2 {
			d.Errorf("%d chips removed", n)
		}
		return err
	})
	same(d, "lists of a chip", look(d, func(tx *store.Tx) ([]string, error) { return tx.EKLists([32]byte{1}) }), []string{"b"})
}

func testPolicies(d *db) {
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.LatestPolicy(); return err })
	one := &store.Policy{Version: 1, Hash: "h1", Text: "t1", Operator: "ada", At: start}
	three := &store.Policy{Version: 3, Hash: "h3", Text: "t3", Operator: "bob", At: later}
	d.update(func(tx *store.Tx) error { return errors.Join(tx.InsertPolicy(one), tx.InsertPolicy(three)) })
	d.refuse(store.ErrTaken, func(tx *store.Tx) error { return tx.InsertPolicy(one) })
	same(d, "in force", look(d, (*store.Tx).LatestPolicy), three)
	same(d, "all", look(d, (*store.Tx).Policies), []store.Policy{*three, *one})
}

func testAttestations(d *db) {
	a, b := node(1, "a"), node(2, "b")
	d.update(func(tx *store.Tx) error { return errors.Join(tx.PutNode(a), tx.PutNode(b), tx.AskAttestation(a.ID)) })
	d.refuse(store.ErrNotFound, func(tx *store.Tx) error { return tx.AskAttestation(id(9)) })
	bad := store.Attestation{NodeID: a.ID, At: later, Reason: "PCR 7", Evidence: []byte(`{"x":1}`)}
	good := store.Attestation{NodeID: a.ID, At: later.Add(time.Hour), Good: true, Evidence: []byte(`{}`)}
	d.update(func(tx *store.Tx) error { return tx.InsertAttestation(&bad) })
	if n := look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) }); !n.AttestNow || !n.Attested.IsZero() {
		d.Errorf("after a bad one: %+v", n)
	}
	d.update(func(tx *store.Tx) error { return tx.InsertAttestation(&good) })
	if n := look(d, func(tx *store.Tx) (*store.Node, error) { return tx.Node(a.ID) }); n.AttestNow || !n.Attested.Equal(good.At) {
		d.Errorf("after a good one: %+v", n)
	}
	list := func(limit int) []store.Attestation {
		return look(d, func(tx *store.Tx) ([]store.Attestation, error) { return tx.Attestations(a.ID, limit) })
	}
	same(d, "the newest first", list(9), []store.Attestation{good, bad})
	same(d, "the last", list(1), []store.Attestation{good})
	same(d, "asked", look(d, (*store.Tx).AttestationsAsked), []chancery.NodeID(nil))
	d.update(func(tx *store.Tx) error { return tx.AskAttestation(b.ID) })
	same(d, "asked", look(d, (*store.Tx).AttestationsAsked), []chancery.NodeID{b.ID})
	d.update(func(tx *store.Tx) error { return tx.PruneAttestations(a.ID, 1) })
	same(d, "kept", list(9), []store.Attestation{good})

	// Who never attested counts from his enrolment; who is held is known.
	unattested := func(since time.Time) (names []string) {
		for _, n := range look(d, func(tx *store.Tx) ([]store.Node, error) { return tx.Unattested(since) }) {
			names = append(names, n.Name)
		}
		return names
	}
	same(d, "at the enrolment", len(unattested(start)), 0)
	same(d, "later", unattested(later), []string{"b"})
	same(d, "much later", unattested(end), []string{"a", "b"})
	d.update(func(tx *store.Tx) error { return tx.Hold(b.ID, "x") })
	same(d, "without the one that is held", unattested(end), []string{"a"})
}
