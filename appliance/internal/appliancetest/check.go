package appliancetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

// A Holder is somebody who looks at a coordinator's log from time to time and
// keeps what it saw: certificates, lists and the root. A coordinator that took
// something back is caught by [Holder.Check].
type Holder struct {
	t       testing.TB
	pointer *chancery.Pointer
	ca      *merkle.CA

	certificates [][]byte // by index
	size         uint64
	root         merkle.Hash
	lists        []*chancery.CRL           // those that it held, the newest last
	followers    map[string]*tlog.Follower // by the log's origin
}

// NewHolder returns a holder that saw nothing yet.
func NewHolder(t testing.TB, p *chancery.Pointer) *Holder {
	k := p.Current()
	return &Holder{t: t, pointer: p, followers: map[string]*tlog.Follower{}, ca: &merkle.CA{
		ID: k.ID, PublicKey: k.Key.ECDSA(), MinSerial: serial(t, k.Logs[0], 0), MaxSerial: serial(t, k.Log(), 1<<48-1),
		NotBefore: k.Created, NotAfter: k.Created.AddDate(100, 0, 0),
	}}
}

func serial(t testing.TB, log uint16, index uint64) merkle.Serial {
	s, err := merkle.NewSerial(log, index)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Check verifies the whole log, which nobody is writing to:
//
//   - entries are dense and there is a certificate for each, which verifies,
//     names its own place, and has the bytes that it ever had;
//   - batches follow one another without a gap, each under a signed subtree
//     that is part of the present tree, and so is the tree that was seen last;
//   - lists rise by one, each with the hash of the one before, and whoever
//     holds one of those that are kept, or none, gets to the current one;
//   - what is shown of the issuance log and of the audit log continues what was
//     shown before, and every entry of the audit log is one;
//   - the current list names no certificate that is not revoked;
//   - nothing waits for CA:SK.
func (h *Holder) Check(s *store.Store, l *ledger.Ledger, now time.Time) {
	h.t.Helper()
	tree := h.checkEntries(s, l)
	h.checkSubtrees(s, l, tree)
	h.follow(l.Issuance(), func([]byte) error { return nil })
	h.follow(l.Audit(), func(e []byte) error { _, err := chancery.ParseAuditEntry(e); return err })
	h.checkCRLs(s, l, now)
	if old, err := tree.Subtree(merkle.Subtree{End: h.size}); err != nil || old != h.root && h.size > 0 {
		h.t.Errorf("the tree of %d entries that was there before is not part of the present one: %v", h.size, err)
	}
	h.size, h.root = tree.Size(), tree.Root()
}

func view(t testing.TB, s *store.Store, f func(*store.Tx) error) {
	t.Helper()
	if err := s.View(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func (h *Holder) checkEntries(s *store.Store, l *ledger.Ledger) *merkle.Tree {
	h.t.Helper()
	var entries []store.Entry
	view(h.t, s, func(tx *store.Tx) (err error) {
		entries, err = tx.Entries(l.Log(), 0, 1<<30)
		return err
	})
	if size := uint64(len(entries)); size != l.Size() || size < h.size {
		h.t.Errorf("%d entries are stored, the ledger has %d, and there were %d", size, l.Size(), h.size)
	}
	tree := &merkle.Tree{}
	for i, e := range entries {
		if e.Index != uint64(i) || e.Leaf != merkle.HashLeaf(e.Entry) {
			h.t.Errorf("entry %d has index %d and leaf hash %s", i, e.Index, e.Leaf)
		}
		tree.Append(e.Leaf)
		c, err := l.Certificate(h.t.Context(), serial(h.t, l.Log().Number, e.Index))
		if err != nil {
			h.t.Errorf("certificate %d: %v", i, err)
			continue
		}
		h.checkCertificate(c, &e, l.Log().Number)
		if i < len(h.certificates) {
			if !bytes.Equal(h.certificates[i], c) {
				h.t.Errorf("certificate %d has other bytes than before", i)
			}
		} else {
			h.certificates = append(h.certificates, c)
		}
	}
	_, err := l.Certificate(h.t.Context(), serial(h.t, l.Log().Number, uint64(len(entries))))
	if !errors.Is(err, store.ErrNotFound) {
		h.t.Errorf("a certificate after the last one: %v", err)
	}
	return tree
}

// checkCertificate verifies as a relying party does that knows nothing of
// Chancery, and then as a node does.
func (h *Holder) checkCertificate(der []byte, e *store.Entry, log uint16) {
	h.t.Helper()
	mtc, err := merkle.ParseCertificate(der)
	if err == nil {
		err = h.ca.Verify(mtc, mtc.NotBefore)
	}
	if err != nil {
		h.t.Errorf("certificate %d: %v", e.Index, err)
		return
	}
	if mtc.EntryHash() != e.Leaf || mtc.Serial != serial(h.t, log, e.Index) {
		h.t.Errorf("certificate %d has serial %s and is of another entry", e.Index, mtc.Serial)
	}
	nc, err := chancery.ParseCertificate(der)
	if err == nil {
		err = nc.VerifyNS(h.pointer.FleetID())
	}
	if err != nil {
		h.t.Errorf("certificate %d: %v", e.Index, err)
		return
	}
	if id := nc.NodeID(h.pointer.FleetID()); id != e.NodeID || !nc.NotAfter.Equal(e.NotAfter) {
		h.t.Errorf("certificate %d is of node %s until %s, the store says %s until %s", e.Index, id, nc.NotAfter, e.NodeID, e.NotAfter)
	}
}

func (h *Holder) checkSubtrees(s *store.Store, l *ledger.Ledger, tree *merkle.Tree) {
	h.t.Helper()
	view(h.t, s, func(tx *store.Tx) error {
		subtrees, err := tx.Subtrees(l.Log(), 0, 1<<30)
		if err != nil {
			return err
		}
		next := uint64(0)
		for _, b := range subtrees {
			if b.BatchStart != next || b.Tree != merkle.Smallest(b.BatchStart, b.Tree.End) {
				h.t.Errorf("a batch begins at %d and is certified by %s, the one before ends at %d", b.BatchStart, b.Tree, next)
			}
			next = b.Tree.End
			if b.Signature == nil {
				h.t.Errorf("subtree %s is not signed", b.Tree)
			} else if err := h.ca.VerifySubtree(l.Log().Number, b.Tree, b.Root, b.Signature.ASN1()); err != nil {
				h.t.Error(err)
			}
			proof, err := tree.Consistency(b.Tree, tree.Size())
			if err == nil {
				err = merkle.VerifyConsistency(b.Tree, tree.Size(), proof, b.Root, tree.Root())
			}
			if err != nil {
				h.t.Errorf("subtree %s in the log of %d: %v", b.Tree, tree.Size(), err)
			}
		}
		if next != tree.Size() {
			h.t.Errorf("the batches end at %d, the log at %d", next, tree.Size())
		}
		unsigned, err := tx.UnsignedCheckpoints(l.Log())
		if len(unsigned) > 0 {
			h.t.Errorf("%d checkpoints are not signed", len(unsigned))
		}
		c, none := tx.LatestCheckpoint(l.Log())
		if errors.Is(none, store.ErrNotFound) {
			return err
		}
		h.checkCheckpoint(c, tree)
		return errors.Join(err, none)
	})
}

func (h *Holder) checkCheckpoint(c *store.Checkpoint, tree *merkle.Tree) {
	h.t.Helper()
	k := h.pointer.Current()
	if err := k.Key.Verify(h.pointer.FleetID(), chancery.NewCheckpoint(k.ID, k.Log(), c.Size, c.Root, c.At), c.Signature); err != nil {
		h.t.Errorf("checkpoint of %d: %v", c.Size, err)
	}
	if root, err := tree.Subtree(merkle.Subtree{End: c.Size}); err != nil || root != c.Root {
		h.t.Errorf("checkpoint of %d has root %s, the log %s, %v", c.Size, c.Root, root, err)
	}
}

// reader is a log as it is shown, without HTTP.
type reader struct{ *ledger.Public }

func (r reader) ReadTile(ctx context.Context, t tlog.Tile) ([]byte, error) { return r.Tile(ctx, t) }

// follow goes on to the newest checkpoint of a log, and reads all of it.
func (h *Holder) follow(log *ledger.Public, each func(entry []byte) error) {
	h.t.Helper()
	note := log.Checkpoint()
	if note == nil {
		return
	}
	f := h.followers[log.Origin]
	if f == nil {
		policy, err := tlog.NewPolicy(log.Origin, []*tlog.Key{log.Key}, nil, 0)
		if err == nil {
			f, err = tlog.NewFollower(policy, nil, nil)
		}
		if err != nil {
			h.t.Fatal(err)
		}
		h.followers[log.Origin] = f
	}
	tree, err := f.Advance(context.Background(), reader{log}, note)
	if err != nil {
		h.t.Errorf("%s: %v", log.Origin, err)
		return
	}
	for e, err := range tree.Entries(context.Background(), 0, tree.Size()) {
		if err == nil {
			err = each(e)
		}
		if err != nil {
			h.t.Errorf("%s: %v", log.Origin, err)
			return
		}
	}
}

func (h *Holder) checkCRLs(s *store.Store, l *ledger.Ledger, now time.Time) {
	h.t.Helper()
	var stored []store.CRL
	revoked := map[uint64]bool{}
	view(h.t, s, func(tx *store.Tx) (err error) {
		if stored, err = tx.CRLs(); err != nil {
			return err
		}
		entries, err := tx.Entries(l.Log(), 0, 1<<30)
		for _, e := range entries {
			revoked[e.Index] = !e.Revoked.IsZero()
		}
		return err
	})
	current := l.CRL().Head()
	for i, c := range stored {
		list, err := chancery.RestoreCRL(c.List)
		if err != nil {
			h.t.Fatalf("stored list %d: %v", c.Number, err)
		}
		list.Sign(c.Signature)
		if err := list.Head().Verify(h.pointer); err != nil {
			h.t.Errorf("stored list %d: %v", c.Number, err)
		}
		if i > 0 && c.Number != stored[i-1].Number+1 {
			h.t.Errorf("list %d follows list %d", c.Number, stored[i-1].Number)
		}
		if i == len(stored)-1 && list.Head().Hash() != current.Hash() {
			h.t.Errorf("the current list is %d, the last stored one %d", current.Number, c.Number)
		}
	}
	full := h.update(l, nil, now)
	for _, held := range h.lists {
		next := h.update(l, held, now)
		if next.Head().Hash() != full.Head().Hash() || !bytes.Equal(next.Marshal(), full.Marshal()) {
			h.t.Errorf("list %d brought forward is not list %d", held.Head().Number, full.Head().Number)
		}
	}
	if n := len(h.lists); n == 0 || h.lists[n-1].Head().Number != current.Number {
		h.lists = append(h.lists, full)
	}
	for _, log := range full.Head().Logs {
		for i := log.First; i < log.Size; i++ {
			err := full.Check(log.CA, serial(h.t, log.Log, i), now, now)
			if err != nil && !errors.Is(err, chancery.ErrRevoked) || err != nil && !revoked[i] {
				h.t.Errorf("index %d, which the store has as revoked: %t: %v", i, revoked[i], err)
			}
		}
	}
}

// update brings a list forward by what the ledger sends to its holder.
func (h *Holder) update(l *ledger.Ledger, held *chancery.CRL, now time.Time) *chancery.CRL {
	h.t.Helper()
	have := uint64(0)
	if held != nil {
		have = held.Head().Number
	}
	u, _, err := l.CRLAfter(have)
	if err != nil {
		h.t.Fatal(err)
	}
	if u == nil {
		return held
	}
	b := u.List
	_, _, full := chancery.ParseDeltaHead(b)
	if isDelta := full == nil; isDelta != (have > 0 && have+store.KeptCRLs >= l.CRL().Head().Number) {
		h.t.Errorf("the holder of list %d is sent a delta to %d: %t", have, l.CRL().Head().Number, isDelta)
	}
	next, err := chancery.UpdateCRL(h.pointer, held, b, now)
	if err != nil {
		h.t.Fatalf("from list %d to %d: %v", have, l.CRL().Head().Number, err)
	}
	return next
}

// Revoked returns the indexes that the ledger's current list names.
func Revoked(t testing.TB, l *ledger.Ledger) (indexes []uint64) {
	t.Helper()
	crl := l.CRL()
	for _, log := range crl.Head().Logs {
		for i := log.First; i < log.Size; i++ {
			if err := crl.Check(log.CA, serial(t, log.Log, i), time.Time{}, time.Time{}); errors.Is(err, chancery.ErrRevoked) {
				indexes = append(indexes, i)
			}
		}
	}
	return slices.Clip(indexes)
}
