package api

import (
	"context"
	"encoding/json"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
)

// An AttestationInfo is what a node showed of its state after its enrolment.
type AttestationInfo struct {
	ID     int64          `json:"id" doc:"rises"`
	At     time.Time      `json:"at"`
	Good   bool           `json:"good"`
	Reason string         `json:"reason,omitempty" doc:"why it is not"`
	Values map[int][]byte `json:"pcr_values,omitempty"`
}

// A BootStateInfo is a boot state that was approved ahead of time.
type BootStateInfo struct {
	ID       int64          `json:"id"`
	Names    string         `json:"names" doc:"pattern of the nodes that it is for"`
	Values   map[int][]byte `json:"pcr_values"`
	Operator string         `json:"operator"`
	At       time.Time      `json:"at"`
}

// A BootStateInput approves a boot state ahead of time.
type BootStateInput struct {
	Names  string         `json:"names"`
	Values map[int][]byte `json:"pcr_values"`
}

// An AskedOutput says after which attestation one is an answer.
type AskedOutput struct {
	After int64 `json:"after"`
}

func bootStateInfo(b *store.BootState) BootStateInfo {
	return BootStateInfo{b.ID, b.Names, b.PCRs, b.Operator, b.At}
}

func (a *Admin) bootStates(api huma.API) {
	huma.Get(api, "/v1/boot-states", handle(a.Logger, func(ctx context.Context, _ *struct{}) (*body[[]BootStateInfo], error) {
		list := []BootStateInfo{}
		err := a.Store.View(ctx, func(tx *store.Tx) error {
			all, err := tx.BootStates()
			for i := range all {
				list = append(list, bootStateInfo(&all[i]))
			}
			return err
		})
		return &body[[]BootStateInfo]{list}, err
	}))
	huma.Post(api, "/v1/boot-states", handle(a.Logger, func(ctx context.Context, in *body[BootStateInput]) (*body[BootStateInfo], error) {
		b, err := a.Authority.ApproveAhead(ctx, operator(ctx), in.Body.Names, in.Body.Values)
		if err != nil {
			return nil, err
		}
		return &body[BootStateInfo]{bootStateInfo(b)}, nil
	}))
	huma.Delete(api, "/v1/boot-states/{id}", handle(a.Logger, func(ctx context.Context, in *struct {
		ID int64 `path:"id"`
	}) (*struct{}, error) {
		return nil, a.Authority.RemoveAhead(ctx, operator(ctx), in.ID)
	}))
	huma.Post(api, "/v1/nodes/{name}/retire", handle(a.Logger, func(ctx context.Context, in *named) (*struct{}, error) {
		return nil, a.Authority.RetireApprovals(ctx, operator(ctx), in.Name)
	}))
	huma.Post(api, "/v1/nodes/{name}/attest", handle(a.Logger, func(ctx context.Context, in *named) (*body[AskedOutput], error) {
		after, err := a.Authority.AskAttestation(ctx, operator(ctx), in.Name)
		return &body[AskedOutput]{AskedOutput{after}}, err
	}))
	huma.Get(api, "/v1/nodes/{name}/attestations", handle(a.Logger, func(ctx context.Context, in *named) (*body[[]AttestationInfo], error) {
		list, err := a.attestations(ctx, in.Name)
		return &body[[]AttestationInfo]{list}, err
	}))
}

func (a *Admin) attestations(ctx context.Context, name string) ([]AttestationInfo, error) {
	list := []AttestationInfo{}
	err := a.Store.View(ctx, func(tx *store.Tx) error {
		node, err := tx.NodeByName(name)
		if err != nil {
			return missing(err, name)
		}
		all, err := tx.Attestations(node.ID, 100)
		for _, at := range all {
			info := AttestationInfo{ID: at.ID, At: at.At, Good: at.Good, Reason: at.Reason}
			var req chancery.AttestRequest
			if json.Unmarshal(at.Evidence, &req) == nil && req.Quote != nil {
				info.Values = req.Quote.Values
			}
			list = append(list, info)
		}
		return err
	})
	return list, err
}
