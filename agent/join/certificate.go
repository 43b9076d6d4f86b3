package join

import (
	"errors"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
)

// ErrCertificate means that the certificate that came back is not the one
// that N:S asked for.
var ErrCertificate = errors.New("the certificate that came back is not this node's")

// CheckCertificate is step 8 of section 4: that a DER certificate is the N:C
// for this N:S, first by comparison with what was sent, then as any peer would
// verify it. The verifier must hold a CRL.
func CheckCertificate(v *chancery.Verifier, ns *chancery.NS, der []byte, now time.Time) (*chancery.Certificate, error) {
	nc, err := chancery.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	sent := chancery.DetachedNS{CANSHash: ns.CANSHash, Created: ns.Created, Signature: ns.Signature}
	switch {
	case nc.Name != ns.Name:
		return nil, fmt.Errorf("%w: it names %s, want %s", ErrCertificate, nc.Name, ns.Name)
	case !nc.NodeKey.Equal(ns.NodeKey):
		return nil, fmt.Errorf("%w: it is for another key, %s", ErrCertificate, nc.NodeKey)
	case nc.NS.CANSHash != sent.CANSHash || !nc.NS.Created.Equal(sent.Created) || string(nc.NS.Signature) != string(sent.Signature):
		return nil, fmt.Errorf("%w: it holds another N:S than the one that was sent", ErrCertificate)
	}
	if _, err := v.Verify([][]byte{der}, ns.Name, chancery.NodeID{}, chancery.Policy{}, now); err != nil {
		return nil, fmt.Errorf("the certificate that came back: %w", err)
	}
	return nc, nil
}

// A RefusedError is the coordinator's no.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string {
	if e.Reason == "" {
		return "the coordinator refuses this node"
	}
	return "the coordinator refuses this node: " + e.Reason
}

// Refused returns the error for a verdict that gives no certificate: a
// [*RefusedError], or for a verdict that this version does not know
// chancery.ErrMalformed. The reason is a text of the coordinator's.
func Refused(v *chancery.Verdict) error {
	if v.Status != chancery.VerdictRefused {
		return fmt.Errorf("coordinator: %w: verdict %q", chancery.ErrMalformed, coordinator.Printable(v.Status))
	}
	return &RefusedError{Reason: coordinator.Printable(v.Reason)}
}
