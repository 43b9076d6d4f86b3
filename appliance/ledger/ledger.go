// Package ledger is the one place where CA:SK signs.
//
// Start with [Open]. Everything that CA:SK says in the course of operation
// goes through one [Ledger]: [Ledger.Answer] for CA:N:S, [Ledger.Issue] for
// N:C, [Ledger.PublishCRL] and [Ledger.Checkpoint]. Each call waits for its
// signature.
//
// # Batches
//
// CA:SK signs one message at a time. Before it does, the message takes in
// whatever arrived until then: all answers become one tree, all certificates one
// subtree of the log, and so each kind costs one signature however many wait.
// The kinds take turns, and lists come first. There is no timer. A call waits for
// the signature under way, for one of each other kind that is asked for, and for
// its own.
//
// # Order
//
// A message is fixed, committed together with the state that it speaks about,
// signed (and verified, by the signer), the signature is committed, and only
// then callers are answered: the last two beside the next message, which has the
// token meanwhile. What a crash leaves unsigned is signed by
// the next Open, as it was fixed: there is never a second message with the
// same number (docs/protocol.md section 2).
//
// # Failure
//
// When the token fails, it is tried again and again; nothing that was committed is
// given up. Callers that do not want to wait bound their context; their
// certificate may still come into being, and a repeated request finds it.
// When the store fails, the callers are told, and the next message is fixed
// once the store works and whatever it took of this one is signed.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/appliance/logs"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/appliance/witnesses"
	"github.com/chancery-pki/chancery/merkle"
)

// A Config says what a ledger works on. All fields but DNSSuffix, Anchor and
// those about witnesses are required.
type Config struct {
	Store   *store.Store
	Signer  chancery.Signer // CA:SK, the pointer record's current key
	Pointer *chancery.Pointer
	// CRLLife is the time from a list's thisUpdate to its nextUpdate.
	CRLLife time.Duration
	// DNSSuffix gives every node the DNS name NAME.SUFFIX. The only field that
	// may be empty: then nodes have none.
	DNSSuffix string
	// Witnesses cosign checkpoints of both logs; nil is none. With a WitnessWait
	// certificates wait as long for their cosignatures, which costs each batch
	// a checkpoint.
	Witnesses   *witnesses.Set
	WitnessWait time.Duration

	// Anchor is told how far the database has come, before a list is shown to
	// anybody. Nil is nobody.
	Anchor func(*anchor.Mark)

	Now    func() time.Time
	Logger *slog.Logger
}

// A Ledger signs for one CA key and appends to its current log. Its methods
// may be called concurrently.
type Ledger struct {
	Config
	fleet chancery.FleetID
	ca    merkle.TrustAnchorID
	logNo uint16
	log   store.Log
	lint  *lint.Linter

	// mu guards the queue and what readers see of what is finished. It is
	// never held while the store or the token is used.
	mu      sync.Mutex
	queue   queue
	wake    chan struct{} // has room for one
	current *chancery.CRL
	recent  []*chancery.CRL // the lists before current that deltas start from
	changed chan struct{}   // closed when current is replaced
	updates *updates        // to current
	alarm   *Alarm          // that has stopped the loop
	halted  chan struct{}   // closed then

	entries lockedTree // over the issuance log's entries, which the loop appends
	deeds   lockedTree // over the audit log's, as far as a checkpoint went

	issuance, audit *Public

	stop   context.CancelFunc
	done   chan struct{}
	life   context.Context // until Close
	beside sync.WaitGroup  // what runs beside the loop
}

// ErrClosed is the answer to calls that a closing ledger did not get to.
var ErrClosed = errors.New("ledger: closed")

// Open loads the log, signs what was left unsigned, makes the first CRL if
// there is none, and starts the loop. It waits for the token. The error is an
// [*Alarm] while one stands.
func Open(ctx context.Context, c Config) (*Ledger, error) {
	current := c.Pointer.Current()
	if !current.Key.Equal(c.Signer.PublicKey()) {
		return nil, fmt.Errorf("ledger: the signer has key %s, the pointer record's current key is %s", c.Signer.PublicKey(), current.Key)
	}
	l := &Ledger{
		Config:  c,
		fleet:   c.Pointer.FleetID(),
		ca:      current.ID,
		logNo:   current.Log(),
		log:     store.Log{CA: current.ID.String(), Number: current.Log()},
		wake:    make(chan struct{}, 1),
		changed: make(chan struct{}),
		halted:  make(chan struct{}),
		done:    make(chan struct{}),
	}
	rules := lint.RulesOf(c.Pointer)
	rules.DNSSuffix = c.DNSSuffix
	var err error
	if l.lint, err = lint.New(rules); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if err := l.public(); err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) (err error) {
		l.alarm, err = StoredAlarm(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if l.alarm != nil {
		return nil, l.alarm
	}
	if err := l.load(ctx); err != nil {
		return nil, err
	}
	l.life, l.stop = context.WithCancel(context.Background())
	go l.loop(l.life)
	for _, c := range []checkpoints{l.ofIssuance(), l.ofAudit()} {
		c.witness()
	}
	if l.CRL() == nil {
		if err := l.PublishCRL(ctx); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// public sets up what is shown of the logs.
func (l *Ledger) public() error {
	issuance, err := logs.Issuance(l.Pointer.Current(), l.logNo)
	if err != nil {
		return err
	}
	audit, err := logs.Audit(l.fleet, l.Pointer.Current())
	if err != nil {
		return err
	}
	l.issuance = &Public{Log: issuance, hashes: &l.entries, entries: func(ctx context.Context, from uint64, limit int) (list [][]byte, err error) {
		err = l.Store.View(ctx, func(tx *store.Tx) error {
			entries, err := tx.Entries(l.log, from, limit)
			for i := range entries {
				list = append(list, entries[i].Entry)
			}
			return err
		})
		return list, err
	}}
	l.audit = &Public{Log: audit, hashes: &l.deeds, entries: func(ctx context.Context, from uint64, limit int) (list [][]byte, err error) {
		err = l.Store.View(ctx, func(tx *store.Tx) error {
			list, err = tx.AuditEntries(l.log.CA, from, limit)
			return err
		})
		return list, err
	}}
	return nil
}

// Close ends the loop. A message that waits for the token is abandoned where
// it stands; the next Open completes it.
func (l *Ledger) Close() {
	l.stop()
	<-l.done
	l.beside.Wait()
}

// load takes over from the store what the ledger does not have yet, and signs
// what was committed and not signed.
func (l *Ledger) load(ctx context.Context) error {
	if err := l.loadTree(ctx); err != nil {
		return err
	}
	if err := l.loadCRLs(ctx); err != nil {
		return err
	}
	return l.signLeftovers(ctx)
}

// loadTree appends the leaves that are stored and not in the tree.
func (l *Ledger) loadTree(ctx context.Context) error {
	l.entries.mu.Lock()
	defer l.entries.mu.Unlock()
	tree := &l.entries.tree
	return l.Store.View(ctx, func(tx *store.Tx) error {
		var stored uint64
		err := tx.Leaves(l.log, func(h merkle.Hash) {
			if stored++; stored > tree.Size() {
				tree.Append(h)
			}
		})
		if err != nil {
			return err
		}
		size, err := tx.LogSize(l.log)
		if err != nil {
			return err
		}
		if size != stored || size != tree.Size() {
			return fmt.Errorf("ledger: log %s/%d has a gap: %d entries, next index %d, %d in the tree", l.log.CA, l.log.Number, stored, size, tree.Size())
		}
		return nil
	})
}

// loadCRLs takes over the lists after the current one and signs the one that
// was left unsigned.
func (l *Ledger) loadCRLs(ctx context.Context) error {
	var crls []store.CRL
	err := l.Store.View(ctx, func(tx *store.Tx) (err error) {
		crls, err = tx.CRLs()
		return err
	})
	if err != nil {
		return err
	}
	current := l.CRL()
	for i := range crls {
		if current != nil && crls[i].Number <= current.Head().Number {
			continue
		}
		c, err := chancery.RestoreCRL(crls[i].List)
		if err != nil {
			return fmt.Errorf("ledger: stored CRL %d: %w", crls[i].Number, err)
		}
		if crls[i].Signature != nil {
			c.Sign(crls[i].Signature)
			l.setCRL(c)
		} else if err := complete(l.signCRL(ctx, c)); err != nil {
			return err
		}
	}
	return nil
}

// signLeftovers signs the subtrees and checkpoints that were fixed and not
// signed, and shows the newest checkpoints.
func (l *Ledger) signLeftovers(ctx context.Context) error {
	var subtrees []store.Subtree
	err := l.Store.View(ctx, func(tx *store.Tx) (err error) {
		subtrees, err = tx.UnsignedSubtrees(l.log)
		return err
	})
	if err != nil {
		return err
	}
	for i := range subtrees {
		if err := complete(l.signSubtree(ctx, &subtrees[i])); err != nil {
			return err
		}
	}
	for _, c := range []checkpoints{l.ofIssuance(), l.ofAudit()} {
		if err := c.resume(ctx); err != nil {
			return err
		}
	}
	return nil
}

// CRL returns the current list, signed. It is nil only inside of Open.
func (l *Ledger) CRL() *chancery.CRL {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// setCRL makes a signed list the current one.
func (l *Ledger) setCRL(c *chancery.CRL) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		l.recent = append(l.recent, l.current)
		if len(l.recent) > store.KeptCRLs {
			l.recent = l.recent[1:]
		}
	}
	l.current, l.updates = c, &updates{to: map[uint64]func() (*Update, error){}}
	close(l.changed)
	l.changed = make(chan struct{})
}

// Log names the current log.
func (l *Ledger) Log() store.Log { return l.log }

// Logs names all logs of the CA key, the current one last: the others ended, each
// with a recovery.
func (l *Ledger) Logs() (all []store.Log) {
	for _, n := range l.Pointer.Current().Logs {
		all = append(all, store.Log{CA: l.log.CA, Number: n})
	}
	return all
}

// Size returns how many entries the log has.
func (l *Ledger) Size() uint64 { return l.entries.size() }
