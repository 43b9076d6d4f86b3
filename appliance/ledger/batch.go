package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
)

// A Request asks for one certificate.
type Request interface {
	// Prepare is called inside the transaction that appends the entry. It
	// checks once more that the certificate may be issued (a revocation may
	// have come in between) and returns what it is to say; notBefore is the
	// time of the append. An error refuses this request and no other; what
	// Prepare wrote until then stays, as it does if the certificate is refused
	// afterwards.
	Prepare(tx *store.Tx, notBefore time.Time) (*chancery.Subject, error)
	// Appended is called in the same transaction with the entry's place. An
	// error fails the whole batch.
	Appended(tx *store.Tx, ca string, serial merkle.Serial) error
}

// Answer signs a CA:N:S, together with all others that wait.
func (l *Ledger) Answer(ctx context.Context, c *chancery.CANS) error {
	a := &answer{cans: c, done: make(chan error, 1)}
	l.enqueue(func(q *queue) { q.answers = append(q.answers, a) })
	err, waitErr := wait(ctx, l, a.done)
	return errors.Join(err, waitErr)
}

// Issue appends an entry to the log and returns its certificate, as DER.
func (l *Ledger) Issue(ctx context.Context, r Request) ([]byte, error) {
	i := &issue{request: r, done: make(chan issued, 1)}
	l.enqueue(func(q *queue) { q.issues = append(q.issues, i) })
	v, err := wait(ctx, l, i.done)
	if err = errors.Join(err, v.err); err != nil {
		return nil, err
	}
	return l.assemble(i.fields, i.index, v.subtree)
}

// PublishCRL makes the next list: a heartbeat, or one that names what was
// revoked since the last. When it returns, readers see it.
func (l *Ledger) PublishCRL(ctx context.Context) error { return l.call(ctx, lists) }

// Checkpoint signs the present size and root of the issuance log and of the
// audit log, and shows them.
func (l *Ledger) Checkpoint(ctx context.Context) error {
	audit := make(chan error, 1)
	go func() { audit <- l.call(ctx, auditHeads) }()
	return errors.Join(l.call(ctx, issuanceHeads), <-audit)
}

// sign has the token sign a message that is committed already, and keeps
// trying while the token fails: the message cannot be taken back.
func (l *Ledger) sign(ctx context.Context, s chancery.Statement) (chancery.Signature, error) {
	delay := 50 * time.Millisecond
	for {
		sig, err := l.Signer.Sign(ctx, l.fleet, s)
		if err == nil {
			return sig, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", ErrClosed, err)
		}
		l.Logger.Error("CA:SK does not sign", "error", err, "retry_in", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrClosed, err)
		}
		delay = min(2*delay, 5*time.Second)
	}
}

// commit changes the store. A change that Close interrupts is ErrClosed.
func (l *Ledger) commit(ctx context.Context, f func(*store.Tx) error) error {
	err := l.Store.Update(ctx, f)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// signAnswers signs one tree of CA:N:S. Nothing is committed before: an answer
// is no statement about the coordinator's state, and its intake is stored.
func (l *Ledger) signAnswers(ctx context.Context, answers []*answer) {
	list := make([]*chancery.CANS, len(answers))
	for i, a := range answers {
		list[i] = a.cans
	}
	tree, err := chancery.BatchCANS(list)
	var sig chancery.Signature
	if err == nil {
		sig, err = l.sign(ctx, tree)
	}
	for _, a := range answers {
		a.cans.Signature = sig
		a.done <- err
	}
}

// issue appends a batch and signs the smallest subtree that holds it.
func (l *Ledger) issue(ctx context.Context, issues []*issue) (finish, error) {
	if len(issues) == 0 {
		return nil, nil
	}
	batch, subtree, leaves, err := l.appendBatch(ctx, issues)
	if err != nil || len(batch) == 0 {
		return nil, err
	}
	l.entries.append(leaves...)
	commit, err := l.signSubtree(ctx, subtree)
	if err != nil {
		release(batch, issued{err: err})
		return nil, err
	}
	return func() error {
		if err := commit(); err != nil {
			release(batch, issued{err: err})
			return err
		}
		if l.cosigned() {
			l.cosign(batch, subtree)
			return nil
		}
		release(batch, issued{subtree: subtree})
		return nil
	}, nil
}

func release(batch []*issue, with issued) {
	for _, i := range batch {
		i.done <- with
	}
}

// appendBatch fixes the batch: entries, their requests' state and the subtree
// message, in one transaction. It takes in what arrives meanwhile: a node that
// was just sent its CA:N:S comes for its N:C at once, and would wait for a whole
// turn. Requests that are refused, and all if there is an error, get their
// answer and are not in the batch that it returns.
func (l *Ledger) appendBatch(ctx context.Context, issues []*issue) (batch []*issue, subtree *store.Subtree, leaves []merkle.Hash, err error) {
	refused := map[*issue]error{}
	err = l.commit(ctx, func(tx *store.Tx) error {
		start := l.Size()
		next := start
		now := time.Unix(l.Now().Unix(), 0).UTC()
		for n := 0; n < len(issues); n++ {
			i := issues[n]
			if n == len(issues)-1 {
				issues = append(issues, l.arrived(maxBatch-len(issues))...)
			}
			serial, err := merkle.NewSerial(l.logNo, next)
			if err != nil {
				return err
			}
			fields, e, err := l.prepare(tx, i.request, serial, now)
			if err != nil {
				refused[i] = err
				continue
			}
			if err := tx.AppendEntry(l.log, e); err != nil {
				return err
			}
			if err := i.request.Appended(tx, l.log.CA, serial); err != nil {
				return err
			}
			i.fields, i.index = fields, next
			batch, leaves = append(batch, i), append(leaves, e.Leaf)
			next++
		}
		if next == start {
			return nil
		}
		subtree = &store.Subtree{BatchStart: start, Tree: merkle.Smallest(start, next)}
		l.entries.mu.RLock()
		subtree.Root, err = l.entries.tree.SubtreeWith(subtree.Tree, leaves)
		l.entries.mu.RUnlock()
		if err != nil {
			return err
		}
		return tx.InsertSubtree(l.log, subtree)
	})
	if err != nil {
		release(issues, issued{err: err})
		return nil, nil, nil, err
	}
	for i, err := range refused {
		i.done <- issued{err: err}
	}
	return batch, subtree, leaves, nil
}

// prepare returns what is to be certified for a request, and the entry of that
// after a second look at its bytes: once appended it cannot be taken back.
func (l *Ledger) prepare(tx *store.Tx, r Request, serial merkle.Serial, now time.Time) (f merkle.EntryFields, e *store.Entry, err error) {
	s, err := r.Prepare(tx, now)
	if err != nil {
		return f, nil, err
	}
	if f, err = s.Fields(l.ca); err != nil {
		return f, nil, err
	}
	raw, err := merkle.MarshalEntry(f)
	if err != nil {
		return f, nil, err
	}
	id := chancery.NewNodeID(l.fleet, s.NodeKey)
	err = l.lint.Check(&lint.Candidate{Entry: raw, SPKI: f.SPKI, Serial: serial, Name: s.Name, Now: now}, func([]byte) (string, error) {
		return tx.NameOfKey(id) // node_id follows from the key
	})
	if err != nil {
		return f, nil, err
	}
	return f, &store.Entry{Index: serial.Index(), Entry: raw, Leaf: merkle.HashLeaf(raw), SPKI: f.SPKI, NodeID: id, NotAfter: s.NotAfter}, nil
}

func (l *Ledger) signSubtree(ctx context.Context, s *store.Subtree) (finish, error) {
	sig, err := l.sign(ctx, chancery.NewSubtree(l.ca, l.logNo, s.Tree, s.Root))
	if err != nil {
		return nil, err
	}
	s.Signature = sig
	return func() error {
		return l.commit(ctx, func(tx *store.Tx) error { return tx.SignSubtree(l.log, s) })
	}, nil
}

// assemble puts N:C together.
func (l *Ledger) assemble(f merkle.EntryFields, index uint64, subtree *store.Subtree) ([]byte, error) {
	serial, err := merkle.NewSerial(l.logNo, index)
	if err != nil {
		return nil, err
	}
	proof, err := l.proof(index, subtree)
	if err != nil {
		return nil, err
	}
	return merkle.MarshalCertificate(f, serial, proof)
}

func (l *Ledger) proof(index uint64, subtree *store.Subtree) (merkle.Proof, error) {
	l.entries.mu.RLock()
	defer l.entries.mu.RUnlock()
	path, err := l.entries.tree.Inclusion(index, subtree.Tree)
	if err != nil {
		return merkle.Proof{}, err
	}
	signatures := append([]merkle.SubtreeSignature{{Cosigner: l.ca, Signature: subtree.Signature.ASN1()}}, subtree.Cosignatures...)
	slices.SortFunc(signatures, func(a, b merkle.SubtreeSignature) int { return a.Cosigner.Compare(b.Cosigner) })
	return merkle.Proof{Subtree: subtree.Tree, Inclusion: path, Signatures: signatures}, nil
}

// list fixes the next list from what is committed, signs it and shows it.
func (l *Ledger) list(ctx context.Context) (finish, error) {
	previous := l.CRL()
	var next *chancery.CRL
	err := l.commit(ctx, func(tx *store.Tx) error {
		now := l.Now()
		if previous != nil && now.Before(previous.Head().ThisUpdate) {
			now = previous.Head().ThisUpdate // a clock set back does not make an older list
		}
		sets, err := l.revoked(tx, previous, now)
		if err != nil {
			return err
		}
		if next, err = chancery.NextCRL(previous, sets, now, now.Add(l.CRLLife)); err != nil {
			return err
		}
		return tx.InsertCRL(&store.CRL{Number: next.Head().Number, List: next.Marshal()})
	})
	if err != nil {
		return nil, err
	}
	return l.signCRL(ctx, next)
}

// revoked returns what the next list says of each log of the CA key. Only the
// loop appends, so no size can move under its set.
func (l *Ledger) revoked(tx *store.Tx, previous *chancery.CRL, now time.Time) (sets []chancery.RevokedSet, err error) {
	known := map[uint16]chancery.CRLLog{}
	if previous != nil {
		for _, log := range previous.Head().Logs {
			if log.CA == l.ca {
				known[log.Log] = log
			}
		}
	}
	for _, log := range l.Logs() {
		set := chancery.RevokedSet{CA: l.ca, Log: log.Number}
		if set.Size, err = tx.LogSize(log); err != nil {
			return nil, err
		}
		if set.First, err = tx.FirstLive(log, known[log.Number].First, set.Size, now); err != nil {
			return nil, err
		}
		if set.Indexes, err = tx.RevokedFrom(log, set.First); err != nil {
			return nil, err
		}
		if log != l.log {
			// Of a log that ended with a recovery, beyond what is stored nothing
			// is good.
			set.Size = max(set.Size, known[log.Number].Size)
			if set.First == set.Size {
				continue // all of it has expired
			}
		}
		sets = append(sets, set)
	}
	return sets, nil
}

func (l *Ledger) signCRL(ctx context.Context, c *chancery.CRL) (finish, error) {
	sig, err := l.sign(ctx, c.Head())
	if err != nil {
		return nil, err
	}
	c.Sign(sig)
	return func() error {
		var mark *anchor.Mark
		err := l.commit(ctx, func(tx *store.Tx) (err error) {
			if mark, err = MarkOf(tx, l.Pointer); err != nil {
				return err
			}
			return tx.SignCRL(c.Head().Number, sig)
		})
		if err != nil {
			return err
		}
		if l.Anchor != nil {
			l.Anchor(mark)
		}
		l.setCRL(c)
		return nil
	}, nil
}

// Certificate puts the certificate at a place of the log together again, the
// same bytes that were handed out, as DER. One that CA:SK has not signed yet is
// waited for. It is store.ErrNotFound for an index that was not issued.
func (l *Ledger) Certificate(ctx context.Context, serial merkle.Serial) ([]byte, error) {
	e, s, err := l.stored(ctx, serial)
	if err == nil && s.Signature == nil {
		if err = l.call(ctx, certificates); err == nil {
			e, s, err = l.stored(ctx, serial)
		}
	}
	if err != nil {
		return nil, err
	}
	if s.Signature == nil {
		return nil, fmt.Errorf("ledger: internal error: subtree %s was left unsigned", s.Tree)
	}
	entry, err := merkle.ParseEntry(e.Entry)
	if err != nil {
		return nil, err
	}
	return l.assemble(merkle.EntryFields{Issuer: entry.Issuer, NotBefore: entry.NotBefore, NotAfter: entry.NotAfter,
		Subject: entry.RawSubject, SPKI: e.SPKI, Extensions: entry.RawExtensions}, e.Index, s)
}

// stored returns an entry and the message that certifies it.
func (l *Ledger) stored(ctx context.Context, serial merkle.Serial) (e *store.Entry, s *store.Subtree, err error) {
	err = l.Store.View(ctx, func(tx *store.Tx) (err error) {
		if serial.Log() != l.logNo {
			return store.ErrNotFound
		}
		if e, err = tx.Entry(l.log, serial.Index()); err != nil {
			return err
		}
		s, err = tx.SubtreeOf(l.log, serial.Index())
		return err
	})
	return e, s, err
}
