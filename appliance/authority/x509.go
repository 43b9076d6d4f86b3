package authority

import (
	"context"
	"errors"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/appliance/store"
)

// CertifyX509 certifies a TLS key of a node for third parties, beside the N:C
// that the node has shown (docs/protocol.md section 6.8).
//
// That certificate has the serial number of the log entry. So a node that is
// revoked between the look at it and the signature is on the list with both.
func (a *Authority) CertifyX509(ctx context.Context, peer *chancery.Peer, req *chancery.X509Request) (*chancery.X509Answer, error) {
	if a.X509 == nil {
		return nil, refuse(404, "no-issuer", "", "this coordinator has no X.509 issuer")
	}
	key, err := chancery.ParsePublicKey(req.Key)
	if err != nil {
		return nil, refuse(400, "bad-key", "", "TLS key: %v", err)
	}
	nc := peer.Certificate
	// Of a log that has ended nobody knows what was certified beside it, if an
	// older database took the place of a newer one (section 6.7).
	if current := a.Pointer.Current(); nc.CA.Compare(current.ID) != 0 || nc.Serial.Log() != current.Log() {
		return nil, refuse(409, "old-log", "the next N:C brings the certificate", "N:C %s of CA %s is of a log that has ended", nc.Serial, nc.CA)
	}
	pop := chancery.X509PoP{Key: key, CA: nc.CA, Serial: nc.Serial}
	if err := key.Verify(a.fleet, pop, req.PoP); err != nil {
		return nil, refuse(403, "bad-pop", "", "proof of possession of the TLS key: %v", err)
	}
	if err := a.mayHaveX509(ctx, peer); err != nil {
		return nil, err
	}
	var answer chancery.X509Answer
	if answer.Certificate, err = a.X509.Certificate(ctx, nc, key); err == nil {
		answer.Issuer, err = a.X509.CA(ctx)
	}
	if errors.Is(err, issuer.ErrOtherKey) {
		return nil, refuse(409, "other-key", "the next N:C brings the next certificate: a node renews at half of its life", "N:C %s is accompanied by the X.509 certificate of another key already", nc.Serial)
	}
	if e, ok := errors.AsType[*lint.Error](err); ok {
		switch e.Rule {
		case lint.Suite, lint.BadKey, lint.KeyPurpose:
			return nil, refuse(400, "bad-key", "make another one for TLS", "%v", err)
		}
		a.Logger.Error("X.509 certificate refused before signing", "node", peer.Name, "rule", e.Rule, "error", e, "hint", e.Hint())
	}
	if err != nil {
		return nil, err
	}
	a.Logger.Info("X.509 certificate", "node", peer.Name, "serial", nc.Serial, "key", key)
	return &answer, nil
}

// mayHaveX509 asks what a renewal is asked, too.
func (a *Authority) mayHaveX509(ctx context.Context, peer *chancery.Peer) error {
	nc := peer.Certificate
	return a.Store.View(ctx, func(tx *store.Tx) error {
		node, err := tx.Node(peer.NodeID)
		switch {
		case err != nil:
			return notFound(err, "no such node")
		case node.State != store.NodeActive:
			return refuse(403, "revoked", "a revoked node stays revoked", "node %s is %s", node.Name, node.State)
		case node.Held != "":
			return refuse(403, "held", "an operator looks at it and runs: chancery node release "+node.Name, "%s is held: %s", node.Name, node.Held)
		}
		entry, err := tx.Entry(store.Log{CA: nc.CA.String(), Number: nc.Serial.Log()}, nc.Serial.Index())
		if err != nil {
			return notFound(err, "no such certificate")
		}
		if !entry.Revoked.IsZero() {
			return refuse(403, "revoked", "the next N:C brings the next certificate", "certificate %s is revoked", nc.Serial)
		}
		return nil
	})
}
