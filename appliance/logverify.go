package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/merkle"
)

func (a *app) logCommand() *cobra.Command {
	c := &cobra.Command{Use: "log", Short: "The issuance log"}
	c.AddCommand(&cobra.Command{
		Use:   "verify",
		Short: "Rebuild the log and verify all that CA:SK said about it",
		Long: `verify fetches every entry, hashes the log anew, and checks with nothing but
CA:PK: that serial numbers have no gap, that every batch is signed over the
subtree that was rebuilt, that every entry is an N:C whose N:S verifies, and
that the newest checkpoint is the log's.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.verifyLog(c.Context()) },
	})
	c.AddCommand(a.proveCommand(), a.followCommand(false))
	return c
}

func (a *app) auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "The audit log: what operators did"}
	c.AddCommand(a.followCommand(true))
	return c
}

// A logResult is what log verify prints with -o json.
type logResult struct {
	CA         string `json:"ca"`
	Log        uint16 `json:"log"`
	Size       uint64 `json:"size"`
	Waiting    uint64 `json:"waiting" doc:"further entries that CA:SK has not signed yet"`
	Batches    int    `json:"batches"`
	Root       string `json:"root"`
	Checkpoint uint64 `json:"checkpoint_size"`
}

func (a *app) verifyLog(ctx context.Context) error {
	p, err := a.loadPointer()
	if err != nil {
		return err
	}
	if err := p.Verify(p.FleetID()); err != nil {
		return err
	}
	v := &logVerifier{fleet: p.FleetID(), key: p.Current()}
	for more := true; more; {
		var page api.LogPage
		if err := a.call(ctx, "GET", fmt.Sprintf("/v1/log?from=%d", v.tree.Size()), nil, &page); err != nil {
			return err
		}
		if more, err = v.page(&page); err == nil && !more {
			err = v.finish(&page)
		}
		if err != nil {
			return cli.Failure("keep a copy of the data directory and the pointer record as evidence", "the log does not verify: %v", err)
		}
	}
	r := logResult{CA: v.key.ID.String(), Log: v.key.Log(), Size: v.tree.Size(), Waiting: v.waiting, Batches: v.batches, Root: v.tree.Root().String(), Checkpoint: v.checkpoint}
	return a.out.Print(r, func(w io.Writer) {
		fmt.Fprintf(w, "log %s/%d verifies: %d entries without a gap, %d batches signed by CA:SK, checkpoint at %d\nroot %s\n", r.CA, r.Log, r.Size, r.Batches, r.Checkpoint, r.Root)
		if r.Waiting > 0 {
			fmt.Fprintf(w, "%d further entries wait for CA:SK\n", r.Waiting)
		}
	})
}

// A logVerifier rebuilds a log from its entries. It believes CA:PK and nothing
// that it is sent.
type logVerifier struct {
	fleet chancery.FleetID
	key   *chancery.CAKey
	tree  merkle.Tree
	// pending are entries whose batch has not been seen whole.
	pending    []api.LogEntry
	subtrees   []api.LogSubtree
	certified  uint64 // all entries below are in a signed batch
	waiting    uint64 // entries after the tree
	batches    int
	checkpoint uint64
}

// page takes a page in and tells whether there may be more. It ends before the
// first batch that CA:SK has not signed: on a coordinator that is at work there
// is one most of the time.
func (v *logVerifier) page(p *api.LogPage) (more bool, err error) {
	if p.CA != v.key.ID.String() || p.Log != v.key.Log() {
		return false, fmt.Errorf("log %s/%d, want %s/%d", p.CA, p.Log, v.key.ID, v.key.Log())
	}
	full := len(p.Entries) == api.PageSize
	unsigned := slices.IndexFunc(p.Subtrees, func(s api.LogSubtree) bool { return len(s.Signature) == 0 })
	if unsigned >= 0 {
		end := p.Subtrees[unsigned].BatchStart
		p.Subtrees = p.Subtrees[:unsigned]
		p.Entries = slices.DeleteFunc(p.Entries, func(e api.LogEntry) bool { return e.Index >= end })
	}
	for _, e := range p.Entries {
		if e.Index != v.tree.Size() {
			return false, fmt.Errorf("entry %d where %d was to come: serial numbers have a gap", e.Index, v.tree.Size())
		}
		v.tree.Append(merkle.HashLeaf(e.Entry))
		v.pending = append(v.pending, e)
	}
	v.subtrees = append(v.subtrees, p.Subtrees...)
	for len(v.subtrees) > 0 && v.subtrees[0].End <= v.tree.Size() {
		if err := v.batch(&v.subtrees[0]); err != nil {
			return false, err
		}
		v.subtrees = v.subtrees[1:]
	}
	// A page that was cut is asked for again from where it was cut, unless
	// that is where it began.
	return full && len(p.Entries) > 0, nil
}

// batch verifies a signed subtree and every certificate that it certifies.
func (v *logVerifier) batch(s *api.LogSubtree) error {
	tree := merkle.Subtree{Start: s.Start, End: s.End}
	if s.BatchStart != v.certified || tree != merkle.Smallest(s.BatchStart, s.End) || s.End <= s.BatchStart {
		return fmt.Errorf("batch [%d, %d) with subtree %s does not continue from %d", s.BatchStart, s.End, tree, v.certified)
	}
	root, err := v.tree.Subtree(tree)
	if err != nil {
		return err
	}
	statement := chancery.NewSubtree(v.key.ID, v.key.Log(), tree, root)
	if err := v.key.Key.Verify(v.fleet, statement, s.Signature); err != nil {
		return fmt.Errorf("subtree %s: %w", tree, err)
	}
	for _, e := range v.pending[:s.End-s.BatchStart] {
		if err := v.entry(&e, tree, s.Signature); err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
	}
	v.pending = v.pending[s.End-s.BatchStart:]
	v.certified = s.End
	v.batches++
	return nil
}

// entry puts the certificate of an entry together and reads it as a peer
// would.
func (v *logVerifier) entry(e *api.LogEntry, tree merkle.Subtree, sig chancery.Signature) error {
	entry, err := merkle.ParseEntry(e.Entry)
	if err != nil {
		return err
	}
	serial, err := merkle.NewSerial(v.key.Log(), e.Index)
	if err != nil {
		return err
	}
	path, err := v.tree.Inclusion(e.Index, tree)
	if err != nil {
		return err
	}
	der, err := merkle.MarshalCertificate(merkle.EntryFields{Issuer: entry.Issuer, NotBefore: entry.NotBefore, NotAfter: entry.NotAfter,
		Subject: entry.RawSubject, SPKI: e.SPKI, Extensions: entry.RawExtensions}, serial,
		merkle.Proof{Subtree: tree, Inclusion: path, Signatures: []merkle.SubtreeSignature{{Cosigner: v.key.ID, Signature: sig.ASN1()}}})
	if err != nil {
		return err
	}
	nc, err := chancery.ParseCertificate(der)
	if err != nil {
		return err
	}
	if nc.CA != v.key.ID {
		return fmt.Errorf("issuer is %s, want %s", nc.CA, v.key.ID)
	}
	if nc.MTC().EntryHash() != merkle.HashLeaf(e.Entry) {
		return fmt.Errorf("the stored key is not the certified one")
	}
	return nc.VerifyNS(v.fleet)
}

func (v *logVerifier) finish(p *api.LogPage) error {
	if v.certified != v.tree.Size() || p.Size < v.tree.Size() {
		return fmt.Errorf("%d entries, of which CA:SK certified %d", v.tree.Size(), v.certified)
	}
	v.waiting = p.Size - v.tree.Size()
	c := p.Checkpoint
	if c == nil || len(c.Signature) == 0 {
		return nil // none was made yet
	}
	if c.Size > v.tree.Size() {
		return fmt.Errorf("checkpoint at %d, the log ends at %d", c.Size, v.tree.Size())
	}
	root, err := v.tree.Subtree(merkle.Subtree{End: c.Size})
	if err != nil {
		return err
	}
	if err := v.key.Key.Verify(v.fleet, chancery.NewCheckpoint(v.key.ID, v.key.Log(), c.Size, root, c.At), c.Signature); err != nil {
		return fmt.Errorf("checkpoint at %d: %w", c.Size, err)
	}
	v.checkpoint = c.Size
	return nil
}
