package authority

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
)

// A TokenRequest says what a join token shall be good for.
type TokenRequest struct {
	Names   string // glob, as in "edge-*"
	Roles   []string
	Uses    int
	Life    time.Duration
	Approve bool // an operator approves each use
}

// CreateToken makes a join token. The caller reveals it to whoever joins; the
// coordinator keeps only what it needs to check it.
func (a *Authority) CreateToken(ctx context.Context, operator string, r TokenRequest) (chancery.Token, time.Time, error) {
	if _, err := path.Match(r.Names, ""); err != nil || r.Names == "" {
		return chancery.Token{}, time.Time{}, refuse(400, "bad-glob", "a pattern like edge-* or a plain name", "%q is not a pattern for names", r.Names)
	}
	if r.Uses < 1 || r.Life <= 0 {
		return chancery.Token{}, time.Time{}, refuse(400, "bad-token", "", "a token with %d uses and a life of %s is good for nothing", r.Uses, r.Life)
	}
	roles := slices.Compact(slices.Sorted(slices.Values(r.Roles)))
	if len(roles) > chancery.MaxRoles {
		return chancery.Token{}, time.Time{}, refuse(400, "bad-role", "", "%d roles, at most %d", len(roles), chancery.MaxRoles)
	}
	for _, role := range roles {
		if err := chancery.ValidateName(role); err != nil {
			return chancery.Token{}, time.Time{}, refuse(400, "bad-role", "", "role: %v", err)
		}
	}
	now := a.Now()
	t := chancery.NewToken(a.fleet)
	k := &store.Token{ID: t.ID, Key: t.Key(), Names: r.Names, Roles: roles, Approve: r.Approve, UsesLeft: r.Uses, Created: now, Expires: now.Add(r.Life)}
	d := &deed{operator, "token.create", r.Names, map[string]string{"token": hex.EncodeToString(t.ID[:]), "roles": strings.Join(roles, " "),
		"uses": strconv.Itoa(r.Uses), "expires": k.Expires.UTC().Format(time.RFC3339), "approve": strconv.FormatBool(r.Approve)}}
	return t, k.Expires, a.act(ctx, d, func(tx *store.Tx) error { return tx.InsertToken(k) })
}

// Approve notes that an operator approves what a node of the name waits for,
// and issues it if no others are asked. left is how many still are.
func (a *Authority) Approve(ctx context.Context, operator, name string) (v *chancery.Verdict, left int, err error) {
	in, err := a.pending(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	d := &deed{operator, "node.approve", name, map[string]string{"intake": in.ID.String(), "node": in.NodeID.String()}}
	if in.Replaces != nil {
		d.details["replaces"] = in.Replaces.String()
	}
	err = a.act(ctx, d, func(tx *store.Tx) error {
		count, err := tx.Approve(in.ID, operator, a.Now())
		if errors.Is(err, store.ErrTaken) {
			return refuse(409, "approved", "somebody else has to", "%s has approved %s already", operator, name)
		}
		if err != nil {
			return err
		}
		left = max(in.Facts.Approvals-count, 0)
		if d.details["others-wanted"] = strconv.Itoa(left); left > 0 {
			return nil
		}
		return notFound(tx.MoveIntake(in.ID, store.IntakePending, store.IntakeApproved, ""), "%s does not wait for approval any more", name)
	})
	if err != nil {
		return nil, 0, err
	}
	v, err = a.Verdict(ctx, in.ID)
	if err == nil && in.Replaces != nil && v.Status == chancery.VerdictIssued {
		// The certificates of the node whose place it took are revoked.
		err = a.Ledger.PublishCRL(ctx)
	}
	return v, left, err
}

// Release ends a hold: the node is renewed again.
func (a *Authority) Release(ctx context.Context, operator, name string) error {
	d := &deed{operator, "node.release", name, map[string]string{}}
	return a.act(ctx, d, func(tx *store.Tx) error {
		node, err := tx.NodeByName(name)
		if err != nil || node.State != store.NodeActive {
			return notFound(store.ErrNotFound, "no live node is called %s", name)
		}
		if node.Held == "" {
			return refuse(409, "not-held", "", "%s is not held", name)
		}
		d.details["node"], d.details["held"] = node.ID.String(), node.Held
		return tx.Hold(node.ID, "")
	})
}

// Refuse turns down all that wait under the name.
func (a *Authority) Refuse(ctx context.Context, operator, name, reason string) error {
	d := &deed{operator, "node.refuse", name, map[string]string{"reason": reason}}
	return a.act(ctx, d, func(tx *store.Tx) error {
		list, err := tx.Intakes(store.IntakePending)
		if err != nil {
			return err
		}
		refused := 0
		for _, in := range list {
			if in.Name != name {
				continue
			}
			if err := tx.MoveIntake(in.ID, store.IntakePending, store.IntakeRefused, reason); err != nil {
				return err
			}
			refused++
		}
		if refused == 0 {
			return refuse(404, "not-found", "see: chancery node list", "no node %s waits for approval", name)
		}
		return nil
	})
}

// Sweep closes intakes whose CA:N:S has expired, and holds nodes that have been
// silent for too long.
func (a *Authority) Sweep(ctx context.Context) error {
	err := a.Store.Update(ctx, func(tx *store.Tx) error { return tx.ExpireIntakes(a.Now()) })
	return errors.Join(err, a.holdSilent(ctx))
}

func (a *Authority) pending(ctx context.Context, name string) (*store.Intake, error) {
	var list []store.Intake
	err := a.Store.View(ctx, func(tx *store.Tx) (err error) {
		list, err = tx.Intakes(store.IntakePending)
		return err
	})
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(i store.Intake) bool { return i.Name != name })
	switch len(list) {
	case 0:
		return nil, refuse(404, "not-found", "see: chancery node list", "no node %s waits for approval", name)
	case 1:
		return &list[0], nil
	}
	return nil, refuse(409, "several", "refuse all of them and let the right one join again", "%d nodes that call themselves %s wait for approval", len(list), name)
}

// SetAddress notes where a node listens: a hint for whoever wants to dial it.
func (a *Authority) SetAddress(ctx context.Context, peer *chancery.Peer, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil || !printable(address) {
		return refuse(400, "malformed", "", "an address is HOST:PORT in at most %d printable ASCII characters", maxText)
	}
	return a.Store.Update(ctx, func(tx *store.Tx) error {
		return notFound(tx.SetAddress(peer.NodeID, address, a.Now()), "node is not enrolled")
	})
}

// Address returns where a node said that it listens.
func (a *Authority) Address(ctx context.Context, name string) (addr chancery.Address, err error) {
	err = a.Store.View(ctx, func(tx *store.Tx) error {
		node, err := tx.NodeByName(name)
		if err != nil || node.State != store.NodeActive || node.Address == "" {
			if err == nil {
				err = store.ErrNotFound
			}
			return notFound(err, "no address is known for a node called %s", name)
		}
		addr = chancery.Address{Name: node.Name, Address: node.Address, Seen: node.Seen}
		return nil
	})
	return addr, err
}
