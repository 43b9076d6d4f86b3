package join

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/state"
)

// A Result is what came of it.
type Result struct {
	Status    string    `json:"status"` // "enrolled", "pending" or "already enrolled"
	Node      string    `json:"node"`
	NodeID    string    `json:"node_id"`
	Fleet     string    `json:"fleet"` // pin
	Serial    string    `json:"serial,omitempty"`
	Assurance string    `json:"assurance,omitempty"`
	Simulator bool      `json:"simulator"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	CRL       uint64    `json:"crl,omitempty"`
	Steps     []Step    `json:"steps,omitempty"`
}

// Values of [Result.Status].
const (
	Enrolled = "enrolled"
	Pending  = "pending"
	Already  = "already enrolled"
)

func (j *joining) result(status string, ns *chancery.NS) *Result {
	return &Result{
		Status: status, Node: ns.Name, Fleet: j.Fleet.Pin(),
		NodeID: chancery.NewNodeID(j.Fleet, ns.NodeKey).String(), Steps: j.steps,
	}
}

func (r *Result) certify(nc *chancery.Certificate) {
	r.Serial, r.Assurance, r.Simulator, r.NotAfter = nc.Serial.String(), nc.Assurance.Level.String(), nc.Assurance.Simulator, nc.NotAfter
}

// ErrOtherFleet: the node is enrolled, elsewhere.
var ErrOtherFleet = errors.New("this node is enrolled in another fleet")

// Present tells of a node that is enrolled already; it returns nil for one
// that is not. A node of another fleet is [ErrOtherFleet].
func Present(dir *state.Dir, fleet chancery.FleetID) (*Result, error) {
	if !dir.Enrolled() {
		return nil, nil
	}
	nc, err := dir.Certificate()
	if err != nil {
		return nil, err
	}
	p, err := dir.Pointer()
	if err != nil {
		return nil, err
	}
	if have := p.FleetID(); have != fleet {
		return nil, fmt.Errorf("%w, %s", ErrOtherFleet, have.Pin())
	}
	r := &Result{Status: Already, Node: nc.Name, NodeID: nc.NodeID(fleet).String(), Fleet: fleet.Pin()}
	r.certify(nc)
	if list, err := dir.CRL(); err == nil {
		r.CRL, _ = chancery.CRLNumber(list)
	}
	return r, nil
}

// Text prints the result for people.
func (r *Result) Text(w io.Writer) {
	switch r.Status {
	case Pending:
		fmt.Fprintf(w, "pending: %s waits for an operator's approval\n", r.Node)
		return
	case Already:
		fmt.Fprintf(w, "%s is enrolled already; nothing was changed\n", r.Node)
	default:
		fmt.Fprintf(w, "enrolled as %s\n", r.Node)
	}
	fmt.Fprintf(w, "  fleet      %s\n  node id    %s\n  serial     %s\n  assurance  %s\n  until      %s\n  CRL        number %d\n",
		r.Fleet, r.NodeID, r.Serial, Assurance(r.Assurance, r.Simulator), r.NotAfter.Format(time.RFC3339), r.CRL)
}

// Assurance marks the assurance of a simulated chip.
func Assurance(level string, simulator bool) string {
	if simulator {
		return level + " (SIMULATOR: this chip protects nothing)"
	}
	return level
}
