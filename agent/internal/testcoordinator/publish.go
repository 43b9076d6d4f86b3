package testcoordinator

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/chancery-pki/chancery"
)

const log1 = 1

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

func (c *Coordinator) firstPointer() {
	p := &chancery.Pointer{
		Genesis:     chancery.Genesis{CA: c.ca.PublicKey(), NextCA: c.next.PublicKey().Fingerprint(), Created: now()},
		TrustDomain: "test.example",
		Endpoints:   []chancery.Endpoint{{URL: c.URL, Pins: [][32]byte{c.pin()}}},
		MinSuite:    chancery.P256,
		MaxLife:     c.options.Life,
		Approval:    c.approval.PublicKey(),
		X509Issuer:  c.issuer.PublicKey(),
	}
	c.pointer = p
	self := chancery.CASelf{Key: c.ca.PublicKey(), Created: now()}
	p.Keys = []chancery.CAKey{{
		Key: self.Key, State: chancery.CAKeyCurrent, Created: self.Created, CAS: c.sign(c.ca, self), ID: c.caID, Logs: []uint16{log1},
	}}
	c.pointer = c.record(*p, func(*chancery.Pointer) {})
}

// record returns the signed record that follows p, after edit.
func (c *Coordinator) record(p chancery.Pointer, edit func(*chancery.Pointer)) *chancery.Pointer {
	if p.Seq > 0 {
		p.Previous = p.Hash()
	}
	p.Seq++
	p.Issued, p.Expires = now(), now().Add(24*time.Hour)
	edit(&p)
	p.Signature = c.sign(c.ca, &p)
	return must(chancery.ParsePointer(p.Marshal()))
}

// Record returns the signed record that would follow the newest one, after
// edit, without publishing it.
func (c *Coordinator) Record(edit func(*chancery.Pointer)) *chancery.Pointer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record(*c.pointer, edit)
}

// Publish makes and publishes the next pointer record.
func (c *Coordinator) Publish(edit func(*chancery.Pointer)) *chancery.Pointer {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pointer = c.record(*c.pointer, edit)
	if err := c.verifier.UpdatePointer(c.pointer, time.Now()); err != nil {
		panic(err)
	}
	return c.pointer
}

// ChangeTLSKey has the coordinator show another TLS key after its next
// Restart; publish a record with [Coordinator.Pin] in it.
func (c *Coordinator) ChangeTLSKey() { c.cert = must(newCertificate()) }

// Pin returns the pin of the coordinator's TLS key.
func (c *Coordinator) Pin() [32]byte { return c.pin() }

func (c *Coordinator) servePointer(*http.Request) (any, error) {
	b := c.Pointer().Marshal()
	if f := c.misbehaviour().Pointer; f != nil {
		b = f(b)
	}
	return b, nil
}

// Heartbeat publishes the next CRL.
func (c *Coordinator) Heartbeat() *chancery.CRL {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.publishCRL()
}

// Revoke revokes every certificate of the nodes and publishes the CRL.
func (c *Coordinator) Revoke(names ...string) *chancery.CRL {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if slices.Contains(names, n.name) {
			for _, index := range n.serials {
				c.revoked[index] = true
			}
		}
	}
	return c.publishCRL()
}

// SetCRLLife changes how long the lists to come are good.
func (c *Coordinator) SetCRLLife(life time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.options.CRLLife = life
}

func (c *Coordinator) publishCRL() *chancery.CRL {
	var held *chancery.CRL
	if n := len(c.crls); n > 0 {
		held = c.crls[n-1]
	}
	crl := c.nextCRL(held, slices.Sorted(maps.Keys(c.revoked)), c.options.CRLLife)
	c.crls = append(c.crls, crl)
	if _, err := c.verifier.UpdateCRL(crl.Marshal(), time.Now()); err != nil {
		panic(err)
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return crl
}

func (c *Coordinator) nextCRL(held *chancery.CRL, revoked []uint64, life time.Duration) *chancery.CRL {
	sets := []chancery.RevokedSet{{CA: c.caID, Log: log1, Size: c.tree.Size(), Indexes: revoked}}
	crl := must(chancery.NextCRL(held, sets, now(), now().Add(life)))
	crl.Sign(c.sign(c.ca, crl.Head()))
	return crl
}

// OtherCRL returns a signed list that follows number n of the published ones,
// but is not the one that was published.
func (c *Coordinator) OtherCRL(n uint64, life time.Duration) *chancery.CRL {
	c.mu.Lock()
	defer c.mu.Unlock()
	var held *chancery.CRL
	if n > 0 {
		held = c.crls[n-1]
	}
	revoked := maps.Clone(c.revoked)
	revoked[0] = true // the null entry, which is nobody's certificate
	return c.nextCRL(held, slices.Sorted(maps.Keys(revoked)), life)
}

// AfterOther returns a signed list that follows [Coordinator.OtherCRL] of n.
func (c *Coordinator) AfterOther(n uint64) *chancery.CRL {
	other := c.OtherCRL(n, time.Hour)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nextCRL(other, []uint64{0}, time.Hour)
}

// Fork publishes the next list, and shows another one of its number to those
// who hold it, until it is told to behave otherwise.
func (c *Coordinator) Fork() (held, other *chancery.CRL) {
	last := c.CRL(0).Head().Number
	other = c.OtherCRL(last, time.Hour)
	var shown atomic.Pointer[chancery.CRL]
	c.Misbehave(Faults{CRL: func(after uint64) []byte {
		if after > last {
			return other.Marshal()
		}
		if held := shown.Load(); held != nil {
			return held.Marshal()
		}
		return nil
	}})
	held = c.Heartbeat()
	shown.Store(held)
	return held, other
}

// CRL returns list number n as it was published, 0 for the newest.
func (c *Coordinator) CRL(n uint64) *chancery.CRL {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 {
		n = uint64(len(c.crls))
	}
	return c.crls[n-1]
}

func (c *Coordinator) serveCRL(r *http.Request) (any, error) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		return nil, refuse(400, "malformed", "after: %v", err)
	}
	wait, err := strconv.Atoi(r.URL.Query().Get("wait"))
	if err != nil {
		return nil, refuse(400, "malformed", "wait: %v", err)
	}
	if f := c.misbehaviour().CRL; f != nil {
		if b := f(after); b != nil {
			return b, nil
		}
		return nil, nil
	}
	timer := time.NewTimer(time.Duration(wait) * time.Second)
	defer timer.Stop()
	for {
		c.mu.Lock()
		newest, changed := uint64(len(c.crls)), c.changed
		c.mu.Unlock()
		switch {
		case after > 0 && after < newest:
			return c.CRL(0).Delta(c.CRL(after))
		case after == 0:
			return c.CRL(0).Marshal(), nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, nil
		case <-r.Context().Done():
			return nil, nil
		}
	}
}
