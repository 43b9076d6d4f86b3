package authority

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
)

// A RevokeRequest says how to revoke what a list of selectors names.
type RevokeRequest struct {
	Scope         Scope
	Code          chancery.ReasonCode
	Reason        string // for people
	DryRun        bool   // change nothing, and tell what would change
	IgnoreUnknown bool   // selectors that name nothing are counted, not refused
}

// A Revoked is what came of a request. With a dry run it is what would come of
// it; a certificate that the list names twice may count twice then.
type Revoked struct {
	store.Tally
	List   [32]byte // SHA-256 over the selectors in their one form, a newline after each
	CRL    uint64   // number of the list that says so
	First  []Found  // the first few that were found
	Misses []Miss   // the first few that were not
}

// A Found is something that a selector names.
type Found struct {
	Line     uint64
	Selector string
	Name     string
	NodeID   chancery.NodeID
	Serial   string    // of a certificate
	Revoked  time.Time // if it was before
}

// A Miss is a selector that names nothing.
type Miss struct {
	Line     uint64
	Selector string
}

const (
	// A transaction of an act has at most so many selectors, and entries named
	// by number: others who write wait for some 100 ms.
	chunkNodes        = 2048
	chunkCertificates = 1 << 15

	maxFound  = 10
	maxMisses = 100

	// settleTime is how long an act has to be closed that was broken off.
	settleTime = 30 * time.Second
)

// Revoke revokes what the list names, for ever, and publishes the CRL that says
// so. When it returns, the coordinator serves that CRL. progress, if it is not
// nil, is told how far it is.
//
// A list is taken in transactions of bounded size, and is in memory a piece at
// a time. One that breaks off, or an error, ends it where it is: what is
// committed is in the next CRL and in the audit log, and the same list once
// more goes on from there, because what is revoked already is counted and no
// error. Nothing is changed if all of the list fits one transaction and is
// refused.
func (a *Authority) Revoke(ctx context.Context, operator string, q RevokeRequest, list iter.Seq2[Selector, error], progress func(store.Tally)) (*Revoked, error) {
	r := &revoking{a: a, ctx: ctx, q: q, hash: sha256.New(), out: &Revoked{}}
	r.act = store.Revocation{At: a.Now(), Code: q.Code, Reason: q.Reason, Operator: operator, Action: q.action(), UnderWay: true}
	for _, l := range a.Ledger.CRL().Head().Logs {
		if l.CA.String() == a.Ledger.Log().CA && l.Log == a.Ledger.Log().Number {
			r.first = l.First
		}
	}
	err := r.run(list, progress)
	r.out.Tally = r.act.Tally
	r.hash.Sum(r.out.List[:0])
	if q.DryRun {
		return r.out, err
	}
	if err != nil && r.act.ID != 0 { // a part of it is committed
		copy(r.out.List[:], r.act.List)
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
		defer cancel()
		err = errors.Join(err, a.breakOff(detached, &r.act), a.Ledger.PublishCRL(detached))
	} else if err == nil && r.out.Nodes+r.out.Certificates > 0 {
		err = a.Ledger.PublishCRL(ctx)
	}
	r.out.CRL = a.Ledger.CRL().Head().Number
	return r.out, err
}

func (q *RevokeRequest) action() string {
	if q.Scope == Certificates {
		return "certificate.revoke"
	}
	return "node.revoke"
}

// revoking is one act under way.
type revoking struct {
	a     *Authority
	ctx   context.Context
	q     RevokeRequest
	act   store.Revocation // as it is committed
	first uint64           // certificates with lower indexes have expired, all of them
	hash  hash.Hash
	out   *Revoked
}

// A piece is a selector, or a part of one that names many certificates.
type piece struct {
	Selector
	begins      bool // it is the first piece of its selector
	short       bool // the selector goes beyond what was issued
	from, below uint64
}

// pieces cuts ranges so that each fits a transaction.
func (r *revoking) pieces(list iter.Seq2[Selector, error]) iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		for sel, err := range list {
			if err != nil {
				yield(piece{}, err)
				return
			}
			p := piece{Selector: sel, begins: true}
			if sel.kind != bySerial {
				if !yield(p, nil) {
					return
				}
				continue
			}
			// All indexes below the size are there: the log has no gaps.
			size := r.a.Ledger.Size()
			if sel.first.Log() != r.a.Ledger.Log().Number {
				size = 0
			}
			end := min(sel.last.Index()+1, size)
			p.short = sel.last.Index() >= size
			for p.from = min(sel.first.Index(), end); p.begins || p.from < end; p.from = p.below {
				p.below = min(p.from+chunkCertificates, end)
				if !yield(p, nil) {
					return
				}
				p.begins = false
			}
		}
	}
}

// run takes the list, a chunk at a time.
func (r *revoking) run(list iter.Seq2[Selector, error], progress func(store.Tally)) error {
	next, stop := iter.Pull2(r.pieces(list))
	defer stop()
	p, err, more := next()
	for more {
		var chunk []piece
		selectors, entries := 0, uint64(0)
		for more && err == nil {
			n := p.below - p.from
			if len(chunk) > 0 && (entries+n > chunkCertificates || selectors >= chunkCertificates || p.kind != bySerial && selectors >= chunkNodes) {
				break
			}
			chunk, entries = append(chunk, p), entries+n
			selectors++
			p, err, more = next()
		}
		if err != nil {
			return err
		}
		if err := r.take(chunk, !more); err != nil {
			return err
		}
		if progress != nil {
			progress(r.act.Tally)
		}
	}
	return nil
}

// errDryRun takes back what a dry run has done to find out.
var errDryRun = errors.New("dry run")

// take revokes a chunk, in one transaction with what is noted of it.
func (r *revoking) take(chunk []piece, last bool) error {
	act := r.act
	for _, p := range chunk {
		if p.begins {
			act.Selectors++
			fmt.Fprintln(r.hash, p.Selector)
		}
	}
	if act.Subject == "" {
		act.Subject = chunk[0].String()
	}
	act.List = r.hash.Sum(nil)
	var d *deed
	err := r.a.Store.Update(r.ctx, func(tx *store.Tx) error {
		if act.ID == 0 && !r.q.DryRun {
			if err := tx.InsertRevocation(&act); err != nil {
				return err
			}
		}
		if err := errors.Join(r.takeNodes(tx, &act, chunk), r.takeCertificates(tx, &act, chunk)); err != nil {
			return err
		}
		switch {
		case r.q.DryRun:
			return errDryRun
		case act.Unknown > 0 && !r.q.IgnoreUnknown:
			return r.refuseUnknown(&act)
		}
		if last {
			d = r.a.closing(&act)
			if p := chunk[0]; act.Selectors == 1 && p.first == p.last && len(r.out.First) == 1 {
				d.details["node"] = r.out.First[0].NodeID.String()
			}
			return r.a.closeAct(tx, &act, d)
		}
		return tx.NoteRevocation(&act)
	})
	if errors.Is(err, errDryRun) {
		err = nil
	}
	if err != nil {
		return err
	}
	r.act = act
	if d != nil && act.Nodes+act.Certificates > 0 {
		d.log(r.a.Logger)
	}
	return nil
}

func (r *revoking) takeNodes(tx *store.Tx, act *store.Revocation, chunk []piece) error {
	chosen := false
	for _, p := range chunk {
		var n int64
		var err error
		switch p.kind {
		case byName:
			n, err = tx.ChooseName(p.Line, p.name)
		case byNode:
			n, err = tx.ChooseNode(p.Line, p.id)
		case byChip:
			n, err = tx.ChooseChip(p.Line, p.id)
		default:
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			r.miss(act, p)
		}
		chosen = chosen || n > 0
	}
	if !chosen {
		return nil
	}
	if room := maxFound - len(r.out.First); room > 0 {
		lines, nodes, err := tx.Chosen(room)
		if err != nil {
			return err
		}
		for i, n := range nodes {
			at := slices.IndexFunc(chunk, func(p piece) bool { return p.Line == lines[i] })
			r.out.First = append(r.out.First, Found{lines[i], chunk[at].String(), n.Name, n.ID, "", n.Revoked})
		}
	}
	count := func() (store.Tally, error) { return tx.RevokeChosen(act) }
	if r.q.DryRun {
		count = func() (store.Tally, error) { return tx.CountChosen(act.At) }
	}
	c, err := count()
	act.Add(c)
	return err
}

func (r *revoking) takeCertificates(tx *store.Tx, act *store.Revocation, chunk []piece) error {
	l := r.a.Ledger.Log()
	for _, p := range chunk {
		if p.kind != bySerial {
			continue
		}
		if p.begins && p.short {
			r.miss(act, p)
		}
		from := max(p.from, min(r.first, p.below))
		act.Expired += from - p.from
		if p.from == p.below {
			continue
		}
		if p.begins && len(r.out.First) < maxFound {
			if err := r.find(tx, p); err != nil {
				return err
			}
		}
		if from == p.below {
			continue
		}
		var n int64
		var err error
		if r.q.DryRun {
			n, err = tx.CountRevoked(l, from, p.below)
			n = int64(p.below-from) - n
		} else {
			n, err = tx.RevokeSpan(l, from, p.below, act.ID)
		}
		if err != nil {
			return err
		}
		act.Certificates += uint64(n)
		act.Already += p.below - from - uint64(n)
	}
	return nil
}

// find notes the first certificate that a selector names.
func (r *revoking) find(tx *store.Tx, p piece) error {
	e, err := tx.Entry(r.a.Ledger.Log(), p.from)
	if err != nil {
		return err
	}
	entry, err := merkle.ParseEntry(e.Entry)
	if err != nil {
		return err
	}
	serial, err := merkle.NewSerial(r.a.Ledger.Log().Number, p.from)
	if err != nil {
		return err
	}
	r.out.First = append(r.out.First, Found{p.Line, p.String(), chancery.CommonName(entry.RawSubject), e.NodeID, serial.String(), e.Revoked})
	return nil
}

func (r *revoking) miss(act *store.Revocation, p piece) {
	act.Unknown++
	if len(r.out.Misses) < maxMisses {
		r.out.Misses = append(r.out.Misses, Miss{p.Line, p.String()})
	}
}

func (r *revoking) refuseUnknown(act *store.Revocation) error {
	if act.Selectors == 1 {
		sel, err := ParseSelector(r.q.Scope, r.out.Misses[0].Selector)
		if err != nil {
			return err
		}
		return refuse(404, "not-found", "", "%s", sel.Missing())
	}
	const some = 5
	var list []string
	for _, m := range r.out.Misses[:min(some, len(r.out.Misses))] {
		list = append(list, fmt.Sprintf("line %d: %s", m.Line, m.Selector))
	}
	if act.Unknown > some {
		list = append(list, "...")
	}
	return refuse(404, "not-found", "--ignore-unknown revokes the others", "%d selectors name nothing: %s", act.Unknown, strings.Join(list, ", "))
}

// closing is what the audit log will say of an act.
func (a *Authority) closing(act *store.Revocation) *deed {
	d := &deed{act.Operator, act.Action, act.Subject, map[string]string{"reason": act.Reason, "certificates": strconv.FormatUint(act.Certificates, 10)}}
	if act.Code != chancery.ReasonUnspecified {
		d.details["reason-code"] = act.Code.String()
	}
	if act.Selectors != 1 {
		d.subject = strconv.FormatUint(act.Selectors, 10) + " selectors"
		d.details["list"] = hex.EncodeToString(act.List)
	}
	for name, n := range map[string]uint64{"already": act.Already, "expired": act.Expired, "unknown": act.Unknown} {
		if n > 0 {
			d.details[name] = strconv.FormatUint(n, 10)
		}
	}
	if act.Nodes > 1 || act.Selectors != 1 && act.Nodes > 0 {
		d.details["nodes"] = strconv.FormatUint(act.Nodes, 10)
	}
	return d
}

// closeAct writes an act down, if there was anything to do.
func (a *Authority) closeAct(tx *store.Tx, act *store.Revocation, d *deed) error {
	if act.Nodes+act.Certificates == 0 {
		return tx.ForgetRevocation(act.ID)
	}
	act.UnderWay = false
	return errors.Join(tx.NoteRevocation(act), a.writeDown(tx, d))
}

// breakOff closes an act that did not get to its end.
func (a *Authority) breakOff(ctx context.Context, act *store.Revocation) error {
	d := a.closing(act)
	d.details["broken-off"] = "yes"
	err := a.Store.Update(ctx, func(tx *store.Tx) error { return a.closeAct(tx, act, d) })
	if err == nil && act.Nodes+act.Certificates > 0 {
		d.log(a.Logger)
	}
	return err
}

// breakOffAll closes the acts that were under way when the coordinator ended.
func (a *Authority) breakOffAll(ctx context.Context) error {
	var list []store.Revocation
	err := a.Store.View(ctx, func(tx *store.Tx) (err error) {
		list, err = tx.RevocationsUnderWay()
		return err
	})
	for i := range list {
		err = errors.Join(err, a.breakOff(ctx, &list[i]))
	}
	return err
}

// one is a list of one selector.
func one(scope Scope, text string) iter.Seq2[Selector, error] {
	return func(yield func(Selector, error) bool) {
		sel, err := ParseSelector(scope, text)
		sel.Line = 1
		if err != nil {
			err = badSelector(1, err)
		}
		yield(sel, err)
	}
}

// RevokeNode revokes one node. One that was revoked before is refused.
func (a *Authority) RevokeNode(ctx context.Context, operator, name string, code chancery.ReasonCode, reason string) (*Revoked, error) {
	out, err := a.Revoke(ctx, operator, RevokeRequest{Scope: Nodes, Code: code, Reason: reason}, one(Nodes, name), nil)
	if err == nil && out.Nodes == 0 {
		err = refuse(409, "revoked", "", "%s was revoked %s already", name, out.First[0].Revoked.Format(time.RFC3339))
	}
	return out, err
}

// RevokeCertificate revokes one certificate; its node may keep others, and may
// renew. One that was revoked before, or has expired, is refused.
func (a *Authority) RevokeCertificate(ctx context.Context, operator string, serial merkle.Serial, code chancery.ReasonCode, reason string) (*Revoked, error) {
	out, err := a.Revoke(ctx, operator, RevokeRequest{Scope: Certificates, Code: code, Reason: reason}, one(Certificates, serial.String()), nil)
	switch {
	case err != nil:
	case out.Expired > 0:
		err = refuse(409, "expired", "", "certificate %s has expired; no list has to name it any more", serial)
	case out.Certificates == 0:
		err = refuse(409, "revoked", "", "certificate %s was revoked %s already", serial, out.First[0].Revoked.Format(time.RFC3339))
	}
	return out, err
}
