package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
	"github.com/chancery-pki/chancery/merkle"
)

// The life of a ledger, with CA:SK in a token.
func TestLife(t *testing.T) {
	w := newWorldWith(t, hsmtest.Key(t, "ca"))
	if n := w.CRL().Head().Number; n != 1 {
		t.Errorf("a new ledger shows list %d", n)
	}
	w.check()

	c := w.newCANS()
	w.must(w.Answer(t.Context(), c))
	if err := w.good(c); err != nil {
		t.Error(err)
	}
	first := w.issue(3)
	w.check()
	w.checkpoint()
	w.publish()
	w.check()

	w.clock.Advance(time.Minute)
	w.revoke(1)
	w.check()
	w.publish()
	w.check()
	if got := appliancetest.Revoked(t, w.Ledger); !slices.Equal(got, []uint64{1}) {
		t.Errorf("the list names %v", got)
	}
	w.close()
	w.open()
	w.check()
	w.issue(2)
	w.clock.Advance(time.Minute)
	w.checkpoint()
	w.publish()
	w.check()
	again, err := w.Certificate(t.Context(), first[2].Serial)
	if err != nil || !bytes.Equal(again, first[2].Raw()) {
		t.Errorf("a certificate from before the restart: %v", err)
	}
}

func TestOpenRefusesAnotherKey(t *testing.T) {
	w := newWorld(t)
	config := w.config()
	config.Signer = newKey(t)
	if l, err := ledger.Open(t.Context(), config); err == nil {
		l.Close()
		t.Error("a ledger opens with a key that the pointer record does not list")
	}
}

// However many wait, each kind costs one signature: 500 certificates and 500
// CA:N:S queue while the token works on the one before them.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		w := newWorld(t)
		release := w.signer.Hold()
		var all sync.WaitGroup
		all.Go(func() { w.issue(1) })
		synctest.Wait()
		answers := make([]*chancery.CANS, n)
		for i := range answers {
			answers[i] = w.newCANS()
			all.Go(func() {
				if err := w.Answer(context.Background(), answers[i]); err != nil {
					t.Error(err)
				}
			})
		}
		all.Go(func() { w.issue(n) })
		synctest.Wait()
		if asked := w.signer.Signed(appliancetest.Subtree); asked != 0 {
			t.Fatalf("%d subtrees were signed by a token that holds still", asked)
		}
		release()
		all.Wait()
		if got := w.signer.Signed(appliancetest.Subtree); got != 2 {
			t.Errorf("%d signatures for one certificate and then %d, want 2", got, n)
		}
		if got := w.signer.Signed(appliancetest.CANS); got != 1 {
			t.Errorf("%d signatures for %d CA:N:S, want 1", got, n)
		}
		places := map[uint32]bool{}
		for _, c := range answers {
			if err := w.good(c); err != nil {
				t.Error(err)
			}
			places[c.Index] = true
		}
		if len(places) != n || w.Size() != n+1 {
			t.Errorf("%d CA:N:S have a place of their own and %d entries are there, want %d and %d", len(places), w.Size(), n, n+1)
		}
		w.check()
	})
}

// The kinds take turns at the token, and lists come first: nobody waits for more
// than the signature under way, one of each other kind, and his own.
func TestTurns(t *testing.T) {
	const op = time.Minute // of a token
	for _, test := range []struct {
		name    string
		besides bool // lists and checkpoints are wanted all the time too
		longest map[string]time.Duration
	}{
		{"answers and certificates", false, map[string]time.Duration{"answer": 3 * op, "issue": 3 * op}},
		{"everything", true, map[string]time.Duration{"list": 2 * op, "answer": 9 * op, "issue": 9 * op, "checkpoint": 9 * op}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.signer.Signer = slowKey{w.signer.Signer, op}
				var all sync.WaitGroup
				end := time.Now().Add(100 * op)
				keep := func(name string, call func() error) {
					all.Go(func() {
						for time.Now().Before(end) {
							began := time.Now()
							if err := call(); err != nil {
								t.Errorf("%s: %v", name, err)
							}
							if took := time.Since(began); took > test.longest[name] {
								t.Errorf("%s: waited for %.1f signatures, want at most %.1f", name, float64(took)/float64(op), float64(test.longest[name])/float64(op))
							}
						}
					})
				}
				for range 3 {
					keep("answer", func() error { return w.Answer(t.Context(), w.newCANS()) })
					keep("issue", func() error { _, err := w.one(t.Context(), w.newRequest()); return err })
				}
				if test.besides {
					keep("list", func() error { w.clock.Advance(time.Second); return w.PublishCRL(t.Context()) })
					keep("checkpoint", func() error { w.clock.Advance(time.Second); return w.Checkpoint(t.Context()) })
				}
				before := w.signer.Total()
				all.Wait()
				if n := w.signer.Total() - before; n < 100 {
					t.Errorf("CA:SK signed %d times in the time of 100", n)
				}
				w.check()
			})
		})
	}
}

// slowKey takes its time for each signature.
type slowKey struct {
	chancery.Signer
	op time.Duration
}

func (k slowKey) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	time.Sleep(k.op)
	return k.Signer.Sign(ctx, fleet, s)
}

// A certificate out of a batch of any size, at any place in the log, verifies
// when it is issued and is the same when it is asked for later.
func TestBatchSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, size := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 255, 256, 257} {
			release := w.signer.Hold()
			var all sync.WaitGroup
			all.Go(func() { w.issue(1) })
			synctest.Wait()
			before := w.signer.Signed(appliancetest.Subtree)
			var batch []*chancery.Certificate
			all.Go(func() { batch = w.issue(size) })
			synctest.Wait()
			release()
			all.Wait()
			if spent := w.signer.Signed(appliancetest.Subtree) - before; spent != 2 {
				t.Errorf("a certificate and a batch of %d cost %d signatures, want 2", size, spent)
			}
			w.check()
			for _, c := range batch {
				again, err := w.Certificate(t.Context(), c.Serial)
				if err != nil || !bytes.Equal(again, c.Raw()) {
					t.Errorf("batch of %d: certificate %s: %v", size, c.Serial, err)
				}
			}
		}
	})
}

// A request that must not be served is no harm to those beside it, and leaves
// nothing in the log.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := w.signer.Hold()
		var all sync.WaitGroup
		all.Go(func() { w.issue(1) })
		synctest.Wait()
		no := errors.New("revoked in between")
		bad := map[string]*request{}
		for name, change := range map[string]func(*request){
			"refused by Prepare":   func(r *request) { r.refusal = no },
			"another trust domain": func(r *request) { r.subject.TrustDomain = "other.example" },
			"no name":              func(r *request) { r.subject.Name = "" },
			"roles out of order":   func(r *request) { r.subject.Roles = []string{"b", "a"} },
			"no N:S":               func(r *request) { r.subject.NS.Signature = nil },
		} {
			r := w.newRequest()
			change(r)
			bad[name] = r
			all.Go(func() {
				c, err := w.Issue(context.Background(), r)
				if err == nil || c != nil || r.refusal != nil && !errors.Is(err, no) {
					t.Errorf("%s: %v, %v", name, c, err)
				}
			})
			all.Go(func() { w.issue(1) })
		}
		synctest.Wait()
		release()
		all.Wait()
		for name, r := range bad {
			if r.appended > 0 {
				t.Errorf("%s: it was appended", name)
			}
		}
		if w.Size() != uint64(1+len(bad)) || w.signer.Signed(appliancetest.Subtree) != 2 {
			t.Errorf("%d entries under %d signatures", w.Size(), w.signer.Signed(appliancetest.Subtree))
		}
		w.check()

		// A batch of refusals only costs no signature.
		if _, err := w.Issue(t.Context(), bad["refused by Prepare"]); !errors.Is(err, no) {
			t.Error(err)
		}
		if got := w.signer.Signed(appliancetest.Subtree); got != 2 {
			t.Errorf("a refusal cost a signature")
		}
		w.check()
	})
}

// What a certificate must never say is not appended, whatever the rules above
// let pass.
func TestLint(t *testing.T) {
	w := newWorld(t)
	refused := func(want lint.Rule, change func(*request)) {
		t.Helper()
		r := w.newRequest()
		change(r)
		_, err := w.Issue(t.Context(), r)
		if e, ok := errors.AsType[*lint.Error](err); !ok || e.Rule != want || r.appended > 0 {
			t.Errorf("%s: %v, appended %d times", want, err, r.appended)
		}
	}
	nothing := func(*request) {}
	refused(lint.Name, func(r *request) { r.subject.Name = "xn--1" })
	refused(lint.AltName, func(r *request) { r.subject.TrustDomain = "other.example" })
	refused(lint.AltName, func(r *request) { r.subject.DNSNames = []string{"node.example"} })
	refused(lint.KeyPurpose, func(r *request) { r.subject.NodeKey = w.pointer.Approval })
	refused(lint.KeyReuse, func(r *request) {
		w.must(w.store.Update(t.Context(), func(tx *store.Tx) error {
			return tx.PutNode(&store.Node{ID: chancery.NewNodeID(w.pointer.FleetID(), r.subject.NodeKey), Name: "another", NodeKey: r.subject.NodeKey.SPKI(), AKPublic: []byte{1}})
		}))
	})
	w.issue(1)

	w.close() // the ledger's record is the one that it was opened with
	w.pointer.MaxLife = life - time.Second
	w.open()
	refused(lint.Life, nothing)
	w.close()
	w.pointer.MaxLife = appliancetest.MaxLife
	w.open()
	w.issue(1)
	w.check()
}

// A token that refuses is asked again until it signs: what was committed cannot
// be taken back. Nobody sees an error.
func TestTokenRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for name, step := range map[string]func(){
			"issue":      func() { w.issue(3) },
			"answer":     func() { w.must(w.Answer(t.Context(), w.newCANS())) },
			"list":       w.publish,
			"checkpoint": w.checkpoint,
		} {
			for _, n := range []int{1, 2, 10} {
				w.clock.Advance(time.Second)
				before := len(w.signer.Asked())
				w.signer.Refuse(n)
				step()
				asked := w.signer.Asked()[before:]
				if len(asked) != n+1 {
					// The three of an issue may come as one batch or more, and
					// a checkpoint is one of each log.
					if name != "issue" && name != "checkpoint" || len(asked) < n+1 {
						t.Errorf("%s: asked %d times, want %d refusals and a signature", name, len(asked), n)
					}
				}
				for _, m := range asked[:n] {
					if !bytes.Equal(m, asked[n]) {
						t.Errorf("%s: another message after a refusal", name)
					}
				}
				w.check()
			}
		}
	})
}

// A caller that does not want to wait for the token gives up; what it asked
// for may come into being all the same.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := w.signer.Hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r := w.newRequest()
		for name, step := range map[string]func() error{
			"issue":      func() error { _, err := w.Issue(ctx, r); return err },
			"answer":     func() error { return w.Answer(ctx, w.newCANS()) },
			"list":       func() error { return w.PublishCRL(ctx) },
			"checkpoint": func() error { return w.Checkpoint(ctx) },
		} {
			if err := step(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		}
		release()
		synctest.Wait()
		w.publish() // after what was under way
		if r.appended != 1 {
			t.Errorf("the request was appended %d times", r.appended)
		}
		w.check()
	})
}

// While the token works on a batch its certificates are not there yet; whoever
// asks for one waits for it.
func TestCertificateWaitsForItsSignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := w.signer.Hold()
		var all sync.WaitGroup
		all.Go(func() { w.issue(1) })
		synctest.Wait()
		serial, err := merkle.NewSerial(w.Log().Number, 0)
		w.must(err)
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Certificate(impatient, serial); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before the signature: %v", err)
		}
		all.Go(func() {
			if c, err := w.certificate(t.Context(), serial); err != nil || c.Serial != serial {
				t.Errorf("after the signature: %v", err)
			}
		})
		synctest.Wait()
		release()
		all.Wait()
		w.check()
	})
}

// Close abandons what waits. Callers are told, and calls after it too.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := w.signer.Hold()
		defer release()
		l := w.Ledger
		calls := []func() error{
			func() error { _, err := l.Issue(context.Background(), w.newRequest()); return err },
			func() error { return l.Answer(context.Background(), w.newCANS()) },
			func() error { return l.PublishCRL(context.Background()) },
			func() error { return l.Checkpoint(context.Background()) },
		}
		failed := make(chan error, len(calls))
		for _, call := range calls {
			go func() { failed <- call() }()
		}
		synctest.Wait()
		l.Close()
		for range calls {
			if err := <-failed; !errors.Is(err, ledger.ErrClosed) {
				t.Errorf("waiting: %v", err)
			}
		}
		for i, call := range calls {
			if err := call(); !errors.Is(err, ledger.ErrClosed) {
				t.Errorf("call %d after Close: %v", i, err)
			}
		}
	})
}

// Lists: a heartbeat names nobody new, a revocation is in the next list, and
// what has expired is dropped from below.
func TestCRL(t *testing.T) {
	w := newWorld(t)
	w.issue(5)
	w.clock.Advance(life / 2)
	w.issue(5)
	for range 2 * store.KeptCRLs {
		w.publish()
		w.check()
		w.clock.Advance(time.Minute)
	}
	w.revoke(0, 3, 7, 9)
	w.publish()
	w.check()
	if got := appliancetest.Revoked(t, w.Ledger); !slices.Equal(got, []uint64{0, 3, 7, 9}) {
		t.Errorf("the list names %v", got)
	}
	log := w.CRL().Head().Logs[0]
	if log.First != 0 || log.Size != 10 || log.Revoked != 4 {
		t.Errorf("the list is of [%d, %d), %d revoked", log.First, log.Size, log.Revoked)
	}
	w.clock.Advance(life / 2)
	w.publish()
	w.check()
	if log := w.CRL().Head().Logs[0]; log.First != 5 || log.Revoked != 2 {
		t.Errorf("after five have expired the list begins at %d and names %d", log.First, log.Revoked)
	}
	w.close()
	w.open()
	w.publish()
	w.check()
	if log := w.CRL().Head().Logs[0]; log.First != 5 {
		t.Errorf("after a restart the list begins at %d", log.First)
	}
}

// A clock that was set back does not make a list that nobody takes.
func TestClockSetBack(t *testing.T) {
	w := newWorld(t)
	w.issue(1)
	w.publish()
	before := w.CRL().Head().ThisUpdate
	w.clock.Advance(-time.Hour)
	w.revoke(0)
	w.publish()
	if got := w.CRL().Head().ThisUpdate; got.Before(before) {
		t.Errorf("a list of %s follows one of %s", got, before)
	}
	w.clock.Advance(time.Hour)
	w.check()
}

func TestCRLAfter(t *testing.T) {
	w := newWorld(t)
	update, changed, err := w.CRLAfter(w.CRL().Head().Number)
	if err != nil || update != nil {
		t.Errorf("for the holder of the current list: %v, %v", update, err)
	}
	select {
	case <-changed:
		t.Error("there is a newer list than the current one")
	default:
	}
	w.publish()
	<-changed
	for have, delta := range map[uint64]bool{0: false, 1: true, 99: false} {
		update, _, err := w.CRLAfter(have)
		w.must(err)
		if again, _, _ := w.CRLAfter(have); again != update {
			t.Errorf("the update from list %d is made for each who asks", have)
		}
		if update.Sum != sha256.Sum256(update.List) || !update.NextUpdate.Equal(w.CRL().Head().NextUpdate) {
			t.Errorf("the update from list %d is described as %x until %s", have, update.Sum, update.NextUpdate)
		}
		base, head, notDelta := chancery.ParseDeltaHead(update.List)
		if (notDelta == nil) != delta || delta && (base != have || head.Number != 2) {
			t.Errorf("for the holder of list %d: a delta from %d: %t", have, base, notDelta == nil)
		}
	}
}

// A checkpoint is made once a second at most.
func TestCheckpoint(t *testing.T) {
	w := newWorld(t)
	latest := func() (c *store.Checkpoint) {
		w.must(w.store.View(t.Context(), func(tx *store.Tx) (err error) {
			c, err = tx.LatestCheckpoint(w.Log())
			return err
		}))
		return c
	}
	w.checkpoint()
	if c := latest(); c.Size != 0 {
		t.Errorf("checkpoint of %d entries in an empty log", c.Size)
	}
	w.issue(4)
	for range 3 {
		w.checkpoint()
	}
	if got := w.signer.Signed(appliancetest.Checkpoint); got != 2 {
		t.Errorf("%d checkpoints in one second, want one for each size", got)
	}
	w.clock.Advance(time.Second)
	w.checkpoint()
	if c := latest(); c.Size != 4 || !c.At.Equal(w.clock.Now()) {
		t.Errorf("latest checkpoint is of %d at %s", c.Size, c.At)
	}
	w.check()
}

// Everything at once, by many.
func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5 {
				c := w.newCANS()
				if err := errors.Join(w.Answer(t.Context(), c), w.good(c), w.PublishCRL(t.Context()), w.Checkpoint(t.Context())); err != nil {
					t.Error(err)
				}
				nc, err := w.one(t.Context(), w.newRequest())
				if err != nil {
					t.Error(err)
					continue
				}
				again, err := w.Certificate(t.Context(), nc.Serial)
				if err != nil || !bytes.Equal(again, nc.Raw()) {
					t.Errorf("certificate %s: %v", nc.Serial, err)
				}
			}
		})
	}
	all.Wait()
	w.check()
}
