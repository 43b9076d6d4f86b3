package testcoordinator

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// x509 certifies a TLS key for third parties, one for each N:C.
func (c *Coordinator) x509(r *http.Request) (any, error) {
	p, err := c.peer(r)
	if err != nil {
		return nil, err
	}
	m, err := read[chancery.X509Request](r)
	if err != nil {
		return nil, err
	}
	key, err := chancery.ParsePublicKey(m.Key)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	nc := p.Certificate
	if err := key.Verify(c.pointer.FleetID(), chancery.X509PoP{Key: key, CA: nc.CA, Serial: nc.Serial}, m.PoP); err != nil {
		return nil, err
	}
	made, ok := c.x509s[nc.Serial]
	if ok && !bytes.Equal(made.key, m.Key) {
		return nil, refuse(409, "other-key", "the certificate is another key's")
	}
	if !ok {
		tbs := must(chancery.NewX509(c.pointer, nc, key))
		made = x509s{m.Key, tbs.Certificate(c.sign(c.issuer, tbs))}
		c.x509s[nc.Serial] = made
	}
	if c.own == nil {
		tbs, _, err := chancery.NewX509CA(c.pointer, c.pointer.Current())
		if err != nil {
			return nil, err
		}
		c.own = tbs.Certificate(c.sign(c.issuer, tbs))
	}
	a := &chancery.X509Answer{Certificate: made.der, Issuer: c.own}
	if f := c.faults.X509; f != nil {
		f(a)
	}
	return a, nil
}

// x509s are certificates for third parties, with their keys.
type x509s struct{ key, der []byte }

// serveX509CRL makes the list of all anew each time.
func (c *Coordinator) serveX509CRL(*http.Request) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	head := c.crls[len(c.crls)-1].Head()
	if f := c.faults.X509CRL; f != nil {
		changed := *head
		f(&changed)
		head = &changed
	}
	b, err := chancery.NewX509CRL(c.pointer, head, c.caID, nil, len(c.revoked))
	if err != nil {
		return nil, err
	}
	for _, index := range slices.Sorted(maps.Keys(c.revoked)) {
		b.Add(must(merkle.NewSerial(log1, index)), time.Now(), chancery.ReasonUnspecified)
	}
	list := b.Finish()
	return list.List(c.sign(c.issuer, list)), nil
}
