package ledger_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

var epoch = time.Date(2031, 5, 17, 12, 0, 0, 0, time.UTC)

const (
	life    = 24 * time.Hour // of certificates
	crlLife = time.Hour
)

// A world is a ledger over a store in a file, and somebody who watches it.
type world struct {
	*ledger.Ledger
	t       testing.TB
	clock   *appliancetest.Clock
	signer  *appliancetest.Signer
	pointer *chancery.Pointer
	file    string // of the store
	store   *store.Store
	holder  *appliancetest.Holder
	names   atomic.Int64
	anchor  func(*anchor.Mark) // nil: nobody
}

// newWorld makes a ledger whose CA:SK is in memory.
func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldWith(t, newKey(t))
}

func newWorldWith(t testing.TB, ca chancery.Signer) *world {
	t.Helper()
	w := &world{t: t, clock: appliancetest.NewClock(epoch), signer: appliancetest.NewSigner(ca), file: filepath.Join(t.TempDir(), "store.db")}
	w.pointer = appliancetest.Pointer(t, w.signer, newKey(t).PublicKey(), epoch)
	w.holder = appliancetest.NewHolder(t, w.pointer)
	w.open()
	t.Cleanup(w.close)
	return w
}

func newKey(t testing.TB) *fleet.Key {
	t.Helper()
	k, err := fleet.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (w *world) config() ledger.Config {
	return ledger.Config{Store: w.store, Signer: w.signer, Pointer: w.pointer, CRLLife: crlLife, Anchor: w.anchor, Now: w.clock.Now, Logger: slog.New(slog.DiscardHandler)}
}

func (w *world) open() {
	w.t.Helper()
	var err error
	if w.store, err = store.Open(context.Background(), w.file); err != nil {
		w.t.Fatal(err)
	}
	if w.Ledger, err = ledger.Open(context.Background(), w.config()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) close() {
	w.t.Helper()
	if w.Ledger != nil {
		w.Ledger.Close()
		w.Ledger = nil
	}
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

// check holds the log against everything that it promises.
func (w *world) check() {
	w.t.Helper()
	w.holder.Check(w.store, w.Ledger, w.clock.Now())
}

// A request asks for the certificate of a node on paper.
type request struct {
	subject  chancery.Subject
	refusal  error // what Prepare says
	failure  error // what Appended says
	appended int
}

func (r *request) Prepare(_ *store.Tx, notBefore time.Time) (*chancery.Subject, error) {
	if r.refusal != nil {
		return nil, r.refusal
	}
	s := r.subject
	s.NotBefore, s.NotAfter = notBefore, notBefore.Add(life)
	return &s, nil
}

func (r *request) Appended(tx *store.Tx, ca string, serial merkle.Serial) error {
	r.appended++
	return errors.Join(r.failure, tx.SetSetting(r.subject.Name, []byte(ca+"/"+serial.String())))
}

// newRequest returns the request of a new node, whose N:S is good.
func (w *world) newRequest() *request {
	w.t.Helper()
	key, id := newKey(w.t), w.pointer.FleetID()
	ns := &chancery.NS{Fleet: id, NodeKey: key.PublicKey(), CANSHash: [32]byte{1}, Created: epoch, Name: fmt.Sprintf("node-%d", w.names.Add(1))}
	sig, err := key.Sign(context.Background(), id, ns)
	if err != nil {
		w.t.Fatal(err)
	}
	return &request{subject: chancery.Subject{
		Name: ns.Name, TrustDomain: w.pointer.TrustDomain, NodeKey: key.PublicKey(), Roles: []string{"web"},
		NS:        chancery.DetachedNS{CANSHash: ns.CANSHash, Created: ns.Created, Signature: sig},
		Assurance: chancery.Assurance{Level: chancery.AssuranceEK, EKDigest: [32]byte{2}},
	}}
}

// one asks for one certificate.
func (w *world) one(ctx context.Context, r ledger.Request) (*chancery.Certificate, error) {
	der, err := w.Issue(ctx, r)
	if err != nil {
		return nil, err
	}
	return chancery.ParseCertificate(der)
}

func (w *world) certificate(ctx context.Context, serial merkle.Serial) (*chancery.Certificate, error) {
	der, err := w.Certificate(ctx, serial)
	if err != nil {
		return nil, err
	}
	return chancery.ParseCertificate(der)
}

// issue asks for so many certificates at the same time. They are one batch if
// all of them wait while CA:SK is held. They are in the order of the log.
func (w *world) issue(n int) []*chancery.Certificate {
	w.t.Helper()
	certificates := make([]*chancery.Certificate, n)
	failed := make(chan error, n)
	for i := range n {
		go func() {
			c, err := w.one(context.Background(), w.newRequest())
			certificates[i] = c
			failed <- err
		}()
	}
	for range n {
		if err := <-failed; err != nil {
			w.t.Error(err)
			return nil
		}
	}
	slices.SortFunc(certificates, func(a, b *chancery.Certificate) int { return cmp.Compare(a.Serial, b.Serial) })
	return certificates
}

// must is for steps that succeed.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) publish() {
	w.t.Helper()
	w.must(w.PublishCRL(context.Background()))
}

func (w *world) checkpoint() {
	w.t.Helper()
	w.must(w.Checkpoint(context.Background()))
}

// revoke revokes entries in the store; the next list names them.
func (w *world) revoke(indexes ...uint64) {
	w.t.Helper()
	w.must(w.store.Update(context.Background(), func(tx *store.Tx) error {
		act := &store.Revocation{At: w.clock.Now(), Reason: "test"}
		err := tx.InsertRevocation(act)
		for _, i := range indexes {
			n, failed := tx.RevokeSpan(w.Log(), i, i+1, act.ID)
			if err = cmp.Or(err, failed); err == nil && n != 1 {
				err = fmt.Errorf("index %d was revoked before", i)
			}
		}
		return err
	}))
}

// newCANS returns an answer that waits for CA:SK.
func (w *world) newCANS() *chancery.CANS {
	key := newKey(w.t).PublicKey()
	return &chancery.CANS{NodeKey: key, NodeID: chancery.NewNodeID(w.pointer.FleetID(), key), Issued: w.clock.Now(), Expires: w.clock.Now().Add(chancery.MaxCANSLife)}
}

// good tells whether a node takes the answer.
func (w *world) good(c *chancery.CANS) error {
	return c.Verify(w.pointer.FleetID(), w.pointer.Current().Key, c.NodeKey, nil, c.NodeNonce, w.clock.Now())
}
