package authority

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/policy"
	"github.com/chancery-pki/chancery/appliance/store"
)

// SetPolicy puts a policy into force. Its version must be above that of the one
// that is. keep is called with the text before it counts, to put it where the
// next start finds it.
func (a *Authority) SetPolicy(ctx context.Context, operator string, text []byte, keep func([]byte) error) (*policy.Policy, error) {
	p, err := policy.Parse(text)
	if e, ok := errors.AsType[*policy.Error](err); ok {
		return nil, refuse(422, "bad-policy", e.Hint(), "%v", err)
	}
	if err != nil {
		return nil, err
	}
	now := a.Policy()
	if p.Version <= now.Version {
		return nil, refuse(409, "old-policy", "raise version in the file", "the policy has version %d, version %d is in force", p.Version, now.Version)
	}
	if err := keep(text); err != nil {
		return nil, err
	}
	d := &deed{operator, "policy.apply", "version " + strconv.Itoa(p.Version), map[string]string{"sha256": p.Hash}}
	err = a.act(ctx, d, func(tx *store.Tx) error {
		return tx.InsertPolicy(&store.Policy{Version: p.Version, Hash: p.Hash, Text: string(text), Operator: operator, At: a.Now()})
	})
	if errors.Is(err, store.ErrTaken) {
		return nil, refuse(409, "old-policy", "raise version in the file", "another operator was faster with version %d", p.Version)
	}
	if err != nil {
		return nil, err
	}
	a.policy.Store(p)
	return p, nil
}

// Explain says what a policy would say of an enrolled node that renews, by the
// evidence of its last certificate.
func (a *Authority) Explain(ctx context.Context, p *policy.Policy, name string) (*policy.Decision, error) {
	node, in, err := a.lastIntake(ctx, name)
	if err != nil {
		return nil, err
	}
	claim, err := evidence.Parse(a.fleet, in.Request, [32]byte(in.Exporter))
	if err != nil {
		return nil, err
	}
	standing, err := claim.Standing(a.Roots, in.Submitted)
	if err != nil {
		return nil, err
	}
	facts := in.Facts
	if standing.Unknown != nil || standing.Certificate == nil {
		facts.Issuer, facts.Vendor, facts.Model = "", "", ""
	}
	err = a.Store.View(ctx, func(tx *store.Tx) (err error) {
		facts.EKLists, err = tx.EKLists(node.EKDigest)
		return err
	})
	if err != nil {
		return nil, err
	}
	s := subject(in.Request, &facts, standing.Assurance)
	s.Enrolled = true
	quote, log, err := seen(claim, in)
	if err != nil {
		return nil, err
	}
	s.Booted = booted(quote, log)
	return p.Decide(s), nil
}

// lastIntake returns a live node and the intake of its last certificate, with
// all that it showed.
func (a *Authority) lastIntake(ctx context.Context, name string) (node *store.Node, in *store.Intake, err error) {
	return node, in, a.Store.View(ctx, func(tx *store.Tx) error {
		if node, err = tx.NodeByName(name); err != nil {
			return notFound(err, "no node is called %s", name)
		}
		entries, err := tx.EntriesOf(a.Ledger.Log(), node.ID)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return refuse(404, "no-evidence", "", "%s has no certificate in the current log", name)
		}
		in, err = evidenceOf(tx, a.Ledger.Log(), entries[len(entries)-1].Index)
		return err
	})
}

// evidenceOf returns the intake of an entry, if it has the evidence.
func evidenceOf(tx *store.Tx, log store.Log, index uint64) (*store.Intake, error) {
	in, err := tx.IntakeOf(log, index)
	if err != nil || in.Request == nil || in.Submission == nil || len(in.Exporter) != 32 {
		if err == nil {
			err = store.ErrNotFound
		}
		return nil, notFound(err, "the certificate is from before evidence was kept; the next renewal brings some")
	}
	return in, nil
}

// Evidence returns the record on which a node's certificate rests: its last
// one, or the one with the serial number.
func (a *Authority) Evidence(ctx context.Context, name string) (*evidence.Record, error) {
	_, in, err := a.lastIntake(ctx, name)
	if err != nil {
		return nil, err
	}
	return a.record(ctx, in)
}

func (a *Authority) record(ctx context.Context, in *store.Intake) (*evidence.Record, error) {
	serial, err := in.Serial()
	if err != nil {
		return nil, err
	}
	nc, err := a.Ledger.Certificate(ctx, serial)
	if err != nil {
		return nil, err
	}
	return &evidence.Record{
		Connection: in.Request, Exporter: in.Exporter, Activation: in.Activation, Submission: in.Submission, Submitted: in.Submitted.UTC().Truncate(time.Second),
		Renewal: in.Renewal, Lists: in.Facts.Vouched, Rule: in.Facts.Rule, Policy: in.Facts.Policy, NC: nc,
	}, nil
}

// RecordOf returns the record of one certificate.
func (a *Authority) RecordOf(ctx context.Context, index uint64) (*evidence.Record, error) {
	var in *store.Intake
	err := a.Store.View(ctx, func(tx *store.Tx) (err error) {
		in, err = evidenceOf(tx, a.Ledger.Log(), index)
		return err
	})
	if err != nil {
		return nil, err
	}
	return a.record(ctx, in)
}

// ImportEKs puts chips on a list and returns how many were not on it.
func (a *Authority) ImportEKs(ctx context.Context, operator, list string, chips []store.EKListed) (added int, err error) {
	if err := chancery.ValidateName(list); err != nil {
		return 0, refuse(400, "bad-name", "a name as nodes have them", "the list: %v", err)
	}
	d := &deed{operator, "ek-list.import", list, map[string]string{"chips": strconv.Itoa(len(chips))}}
	err = a.act(ctx, d, func(tx *store.Tx) error {
		added = 0
		for i := range chips {
			chips[i].List = list
			isNew, err := tx.PutEK(&chips[i])
			if err != nil {
				return err
			}
			if isNew {
				added++
			}
		}
		d.details["new"], d.details["sha256"] = strconv.Itoa(added), chipsDigest(chips)
		return nil
	})
	return added, err
}

// chipsDigest identifies what was imported: SHA-256 over the digests of the
// EKs, in the order of the import.
func chipsDigest(chips []store.EKListed) string {
	h := sha256.New()
	for i := range chips {
		h.Write(chips[i].EK[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// RemoveEKList removes a list. Nodes that were enrolled by it stay, until the
// policy is asked again.
func (a *Authority) RemoveEKList(ctx context.Context, operator, list string) (n int64, err error) {
	d := &deed{operator, "ek-list.remove", list, map[string]string{}}
	err = a.act(ctx, d, func(tx *store.Tx) (err error) {
		if n, err = tx.RemoveEKList(list); err == nil && n == 0 {
			err = refuse(404, "not-found", "see: chancery ek list", "there is no list %s", list)
		}
		d.details["chips"] = strconv.FormatInt(n, 10)
		return err
	})
	return n, err
}
