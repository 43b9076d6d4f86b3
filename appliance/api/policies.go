package api

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/policy"
	"github.com/chancery-pki/chancery/appliance/store"
)

// A PolicyInfo is a policy that is, or was, in force.
type PolicyInfo struct {
	Version  int       `json:"version"`
	Hash     string    `json:"sha256"`
	Operator string    `json:"operator" doc:"who put it into force"`
	At       time.Time `json:"at"`
	Text     string    `json:"text,omitempty"`
}

// A PolicyInput is a policy, and for a check the node to explain it by.
type PolicyInput struct {
	Text string `json:"text"`
	Node string `json:"node,omitempty"`
}

// A DecisionInfo explains what a policy says of a node.
type DecisionInfo struct {
	Action    string        `json:"action" enum:"auto,approve,refuse"`
	Open      bool          `json:"open,omitempty" doc:"it depends on a boot state that is not known"`
	Rule      string        `json:"rule,omitempty"`
	Approvals int           `json:"approvals,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	Assurance string        `json:"assurance"`
	Roles     []string      `json:"roles,omitempty"`
	Steps     []policy.Step `json:"steps"`
}

// An EKInfo is a chip on a list.
type EKInfo struct {
	EK   string `json:"ek" doc:"SHA-256 over the endorsement key's SubjectPublicKeyInfo, hexadecimal"`
	Note string `json:"note,omitempty"`
}

// An EKListInfo is a list of chips.
type EKListInfo struct {
	List  string `json:"list"`
	Chips int    `json:"chips"`
	New   int    `json:"new,omitempty" doc:"of an import: how many were not on it"`
}

func policyInfo(p *store.Policy) PolicyInfo {
	return PolicyInfo{p.Version, p.Hash, p.Operator, p.At, p.Text}
}

func (a *Admin) policies(api huma.API) {
	huma.Get(api, "/v1/policy", handle(a.Logger, func(ctx context.Context, _ *struct{}) (*body[[]PolicyInfo], error) {
		list := []PolicyInfo{}
		err := a.Store.View(ctx, func(tx *store.Tx) error {
			all, err := tx.Policies()
			for i := range all {
				list = append(list, policyInfo(&all[i]))
			}
			return err
		})
		return &body[[]PolicyInfo]{list}, err
	}))
	huma.Post(api, "/v1/policy", handle(a.Logger, func(ctx context.Context, in *body[PolicyInput]) (*body[PolicyInfo], error) {
		p, err := a.Authority.SetPolicy(ctx, operator(ctx), []byte(in.Body.Text), a.KeepPolicy)
		if err != nil {
			return nil, err
		}
		return &body[PolicyInfo]{PolicyInfo{Version: p.Version, Hash: p.Hash, Operator: operator(ctx), At: a.Now()}}, nil
	}))
	huma.Post(api, "/v1/policy/check", handle(a.Logger, func(ctx context.Context, in *body[PolicyInput]) (*body[DecisionInfo], error) {
		p, err := policy.Parse([]byte(in.Body.Text))
		if err != nil {
			return nil, badPolicy(err)
		}
		d, err := a.Authority.Explain(ctx, p, in.Body.Node)
		if err != nil {
			return nil, err
		}
		return &body[DecisionInfo]{DecisionInfo{d.Action, d.Open, d.Rule, d.Approvals, d.Reason, d.Assurance.String(), d.Roles, d.Steps}}, nil
	}))

	type listIn struct {
		List string `path:"list"`
	}
	type importIn struct {
		List string `path:"list"`
		Body []EKInfo
	}
	huma.Get(api, "/v1/eks", handle(a.Logger, func(ctx context.Context, _ *struct{}) (*body[map[string]int], error) {
		out := &body[map[string]int]{}
		err := a.Store.View(ctx, func(tx *store.Tx) (err error) {
			out.Body, err = tx.EKCounts()
			return err
		})
		return out, err
	}))
	huma.Get(api, "/v1/eks/{list}", handle(a.Logger, func(ctx context.Context, in *listIn) (*body[[]EKInfo], error) {
		list := []EKInfo{}
		err := a.Store.View(ctx, func(tx *store.Tx) error {
			chips, err := tx.EKsOn(in.List)
			for _, c := range chips {
				list = append(list, EKInfo{hex.EncodeToString(c.EK[:]), c.Note})
			}
			return err
		})
		return &body[[]EKInfo]{list}, err
	}))
	huma.Post(api, "/v1/eks/{list}", handle(a.Logger, func(ctx context.Context, in *importIn) (*body[EKListInfo], error) {
		chips, err := parseEKs(in.Body)
		if err != nil {
			return nil, err
		}
		added, err := a.Authority.ImportEKs(ctx, operator(ctx), in.List, chips)
		return &body[EKListInfo]{EKListInfo{in.List, len(chips), added}}, err
	}), func(o *huma.Operation) { o.MaxBodyBytes = 128 << 20 })
	huma.Delete(api, "/v1/eks/{list}", handle(a.Logger, func(ctx context.Context, in *listIn) (*body[EKListInfo], error) {
		n, err := a.Authority.RemoveEKList(ctx, operator(ctx), in.List)
		return &body[EKListInfo]{EKListInfo{List: in.List, Chips: int(n)}}, err
	}))
}

func badPolicy(err error) error {
	if e, ok := errors.AsType[*policy.Error](err); ok {
		return &problem{chancery.Problem{Title: "Unprocessable Entity", Status: 422, Detail: e.Error(), Code: "bad-policy", Hint: e.Hint()}}
	}
	return err
}

func parseEKs(list []EKInfo) (chips []store.EKListed, err error) {
	for _, e := range list {
		b, err := hex.DecodeString(e.EK)
		if err != nil || len(b) != 32 {
			return nil, huma.Error400BadRequest("ek " + e.EK + " is no SHA-256 digest")
		}
		if len(e.Note) > maxNote {
			return nil, huma.Error400BadRequest("a note is too long")
		}
		chips = append(chips, store.EKListed{EK: [32]byte(b), Note: e.Note})
	}
	return chips, nil
}

// maxNote bounds what is noted of a chip, in bytes.
const maxNote = 200

// evidence returns the record of a node's last certificate, or of the one with
// the serial number.
func (a *Admin) evidence(ctx context.Context, name, serial string) (*evidence.Record, error) {
	if serial == "" {
		return a.Authority.Evidence(ctx, name)
	}
	s, err := parseSerial(serial)
	if err != nil {
		return nil, err
	}
	r, err := a.Authority.RecordOf(ctx, s.Index())
	if err == nil && r.Connection.Name != name {
		return nil, huma.Error404NotFound("certificate " + serial + " is not " + name + "'s")
	}
	return r, err
}
