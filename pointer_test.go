package chancery

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// What a record proves by itself, each way of breaking it re-signed by the
// current key, which a thief of CA:SK could do.
func TestPointerVerify(t *testing.T) {
	w := newWorld(t)
	w.rollOver()
	w.publish()
	w.check()
	fleet, stranger := w.fleet(), newKey("stranger")
	for _, test := range []struct {
		name   string
		change func(p *Pointer)
		want   error
	}{
		{"untouched", func(*Pointer) {}, nil},
		{"genesis of another day", func(p *Pointer) { p.Genesis.Created = p.Genesis.Created.Add(time.Second) }, ErrPin},
		{"genesis commits to another key", func(p *Pointer) { p.Genesis.NextCA[0] ^= 1 }, ErrPin},
		{"emergency key set put in", func(p *Pointer) { p.Genesis.Emergency[0] = 1 }, ErrPin},
		{"sequence number 0", func(p *Pointer) { p.Seq = 0 }, ErrMalformed},
		{"first record with a previous one", func(p *Pointer) { p.Seq = 1 }, ErrMalformed},
		{"later record without a previous one", func(p *Pointer) { p.Previous = [32]byte{} }, ErrMalformed},
		{"expires when issued", func(p *Pointer) { p.Expires = p.Issued }, ErrMalformed},
		{"no trust domain", func(p *Pointer) { p.TrustDomain = "" }, ErrMalformed},
		{"trust domain with a slash", func(p *Pointer) { p.TrustDomain = "a/b" }, ErrMalformed},
		{"certificates without a life", func(p *Pointer) { p.MaxLife = 0 }, ErrMalformed},
		{"unknown suite as floor", func(p *Pointer) { p.MinSuite = 0x7fff }, ErrMalformed},
		{"no floor", func(p *Pointer) { p.MinSuite = 0 }, ErrMalformed},
		{"no approval key", func(p *Pointer) { p.Approval = PublicKey{} }, ErrMalformed},
		{"log 0", func(p *Pointer) { p.Keys[0].Logs = []uint16{0, 1} }, ErrMalformed},
		{"no log", func(p *Pointer) { p.Keys[0].Logs = nil }, ErrMalformed},
		{"logs out of order", func(p *Pointer) { p.Keys[0].Logs = []uint16{2, 1} }, ErrMalformed},
		{"log twice", func(p *Pointer) { p.Keys[0].Logs = []uint16{1, 1} }, ErrMalformed},

		{"no keys", func(p *Pointer) { p.Keys = nil }, ErrPointerKeys},
		{"current key is not first", func(p *Pointer) { slices.Reverse(p.Keys) }, ErrPointerKeys},
		{"current key is listed as retired", func(p *Pointer) { p.Keys[0].State = CAKeyRetired }, ErrPointerKeys},
		{"current key is listed as revoked", func(p *Pointer) { p.Keys[0].State = CAKeyRevoked }, ErrPointerKeys},
		{"retired key is listed as current", func(p *Pointer) { p.Keys[1].State = CAKeyCurrent }, ErrPointerKeys},
		{"retired key is listed as next", func(p *Pointer) { p.Keys[1].State = CAKeyNext }, ErrPointerKeys},
		{"stranger is listed as retired", func(p *Pointer) {
			p.Keys = append(p.Keys, w.caKey(stranger, CAKeyRetired, "32473.1.9"))
		}, ErrPointerKeys},
		{"stranger is listed as next", func(p *Pointer) {
			p.Keys = append(p.Keys, w.caKey(stranger, CAKeyNext, "32473.1.9"))
		}, ErrPointerKeys},
		{"committed key is listed as next", func(p *Pointer) {
			p.Keys = append(p.Keys, w.caKey(w.keys[2], CAKeyNext, "32473.1.9"))
		}, nil},
		{"committed key is listed as retired", func(p *Pointer) {
			p.Keys = append(p.Keys, w.caKey(w.keys[2], CAKeyRetired, "32473.1.9"))
		}, ErrPointerKeys},
		{"current key is listed as retired too", func(p *Pointer) {
			p.Keys = append(p.Keys, w.caKey(w.keys[1], CAKeyRetired, "32473.1.9"))
		}, ErrPointerKeys},
		{"current key twice", func(p *Pointer) {
			p.Keys = append(p.Keys, w.caKey(w.keys[1], CAKeyCurrent, "32473.1.9"))
		}, ErrPointerKeys},
		{"CA id twice", func(p *Pointer) { p.Keys[1].ID = p.Keys[0].ID }, ErrPointerKeys},
		{"CA key approves policies", func(p *Pointer) { p.Approval = p.Keys[1].Key }, ErrPointerKeys},
		{"CA key signs X.509", func(p *Pointer) { p.X509Issuer = p.Keys[0].Key }, ErrPointerKeys},
		{"approval key signs X.509", func(p *Pointer) { p.X509Issuer = p.Approval }, ErrPointerKeys},
		{"no X.509 issuer", func(p *Pointer) { p.X509Issuer = PublicKey{} }, nil},

		{"CA:S over another time", func(p *Pointer) { p.Keys[0].Created = p.Keys[0].Created.Add(time.Second) }, ErrSignature},
		{"CA:S by another key", func(p *Pointer) {
			p.Keys[0].CAS = stranger.must(fleet, CASelf{p.Keys[0].Key, p.Keys[0].Created})
		}, ErrSignature},
		{"CA:S of a retired key is wrong", func(p *Pointer) { p.Keys[1].CAS = p.Keys[0].CAS }, ErrSignature},
		{"CA:S has high s", func(p *Pointer) { p.Keys[0].CAS = twin(P256, p.Keys[0].CAS) }, ErrHighS},
		{"CA:S of another fleet", func(p *Pointer) {
			p.Keys[0].CAS = w.ca().must(FleetID{1}, CASelf{p.Keys[0].Key, p.Keys[0].Created})
		}, ErrSignature},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := w.draft()
			test.change(p)
			w.seal(p)
			p.Signature = w.ca().must(fleet, p) // over the fleet that is pinned, whatever the record says
			if err := p.Verify(fleet); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func (w *world) caKey(k softKey, state CAKeyState, id string) CAKey {
	p := k.PublicKey()
	return CAKey{Key: p, State: state, Created: w.now, CAS: k.must(w.fleet(), CASelf{p, w.now}), ID: caID(id), Logs: []uint16{1}}
}

func TestPointerSignature(t *testing.T) {
	w := newWorld(t)
	before := w.pointer()
	w.rollOver()
	fleet, body := w.fleet(), w.draft()
	for name, test := range map[string]struct {
		sig  Signature
		want error
	}{
		"current key":                {w.keys[1].must(fleet, body), nil},
		"retired key":                {w.keys[0].must(fleet, body), ErrSignature},
		"committed key":              {w.keys[2].must(fleet, body), ErrSignature},
		"stranger":                   {newKey("stranger").must(fleet, body), ErrSignature},
		"over another record":        {before.Signature, ErrSignature},
		"in another fleet":           {w.keys[1].must(FleetID{1}, body), ErrSignature},
		"high s":                     {twin(P256, w.keys[1].must(fleet, body)), ErrHighS},
		"missing":                    {nil, ErrSigLength},
		"of the length of the other": {make([]byte, 96), ErrSigLength},
	} {
		p := w.draft()
		p.Signature = test.sig
		if err := p.Verify(fleet); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// A record of another fleet is perfect in itself. Only the pin tells.
func TestPointerOfAnotherFleet(t *testing.T) {
	ours, theirs := newWorld(t), newNamedWorld(t, "impostor ")
	if err := theirs.pointer().Verify(theirs.fleet()); err != nil {
		t.Fatal(err)
	}
	if err := AcceptPointer(ours.fleet(), nil, theirs.pointer(), epoch); !errors.Is(err, ErrPin) {
		t.Errorf("got %v, want ErrPin", err)
	}
}

// The suite belongs to the key: a record that asks for P-384 cannot be
// signed with P-256.
func TestPointerSuiteFloorHoldsForItsOwnKey(t *testing.T) {
	w := newWorld(t)
	p := w.draft()
	p.MinSuite = P384
	if err := w.seal(p).Verify(w.fleet()); !errors.Is(err, ErrSuiteFloor) {
		t.Errorf("got %v, want ErrSuiteFloor", err)
	}
}

func TestAcceptPointer(t *testing.T) {
	w := newWorld(t)
	w.point(func(p *Pointer) { p.MinCRL = 5 })
	w.rollOver()
	stored := w.point(func(p *Pointer) { p.Keys[1].State = CAKeyRevoked })
	w.publish()
	older := w.pointers[len(w.pointers)-2]
	for _, test := range []struct {
		name   string
		change func(p *Pointer)
		want   error
	}{
		{"next", func(*Pointer) {}, nil},
		{"a later one, others were missed", func(p *Pointer) { p.Seq += 7; p.Previous = [32]byte{1} }, nil},
		{"rollback", func(p *Pointer) { *p = *older }, ErrPointerRollback},
		{"rollback that has expired too", func(p *Pointer) { p.Seq = 2; p.Expires = p.Issued.Add(1) }, ErrPointerRollback},
		{"same record, signed anew", func(p *Pointer) { *p = *stored }, nil},
		{"fork", func(p *Pointer) { p.Seq--; p.Previous = stored.Previous; p.CRLURL = "https://fork.example" }, ErrPointerFork},
		{"previous hash is not the stored record's", func(p *Pointer) { p.Previous[0] ^= 1 }, ErrPointerFork},
		{"CRL floor falls", func(p *Pointer) { p.MinCRL = 4 }, ErrPointerFloor},
		{"CRL floor rises", func(p *Pointer) { p.MinCRL = 6 }, nil},
		{"other trust domain", func(p *Pointer) { p.TrustDomain = "other.example" }, ErrPointerFloor},
		{"revoked key is good again", func(p *Pointer) { p.Keys[1].State = CAKeyRetired }, ErrPointerFloor},
		{"revoked key is dropped", func(p *Pointer) { p.Keys = p.Keys[:1] }, nil},
		{"from the future", func(p *Pointer) { p.Issued = w.now.Add(maxSkew + time.Second) }, ErrPointerFuture},
		{"as far ahead as clocks may be", func(p *Pointer) { p.Issued = w.now.Add(maxSkew) }, nil},
		{"expired", func(p *Pointer) { p.Issued, p.Expires = w.now.Add(-time.Hour), w.now.Add(-time.Second) }, ErrPointerExpired},
		{"expires now", func(p *Pointer) { p.Issued, p.Expires = w.now.Add(-time.Hour), w.now }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := w.draft()
			test.change(p)
			if p.Seq != older.Seq { // that one is signed as it is
				w.seal(p)
			}
			if err := AcceptPointer(w.fleet(), stored, p, w.now); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// The suite floor may rise with a stronger key and never falls again.
func TestPointerSuiteFloorNeverFalls(t *testing.T) {
	ca, next := newKey384("ca"), newKey("next")
	p := newWorld(t).draft()
	p.Genesis = Genesis{CA: ca.PublicKey(), NextCA: next.PublicKey().Fingerprint(), Created: epoch}
	p.Keys = []CAKey{{Key: ca.PublicKey(), State: CAKeyCurrent, Created: epoch, CAS: ca.must(p.FleetID(), CASelf{ca.PublicKey(), epoch}), ID: caID("32473.1.1"), Logs: []uint16{1}}}
	p.Seq, p.Previous, p.MinSuite = 1, [32]byte{}, P384
	p.Signature = ca.must(p.FleetID(), p)
	if err := AcceptPointer(p.FleetID(), nil, p, epoch); err != nil {
		t.Fatal(err)
	}
	lower := *p
	lower.Seq, lower.Previous, lower.MinSuite = 2, p.Hash(), P256
	lower.Signature = ca.must(p.FleetID(), &lower)
	if err := AcceptPointer(p.FleetID(), p, &lower, epoch); !errors.Is(err, ErrPointerFloor) {
		t.Errorf("got %v, want ErrPointerFloor", err)
	}
}

// A node that slept through three rollovers follows them from the pin alone.
func TestRolloverChain(t *testing.T) {
	w := newWorld(t)
	first := w.pointer()
	w.enroll("of-the-first-key")
	for range 3 {
		w.rollOver()
		w.enroll("of-a-later-key")
		w.publish()
		w.check()
	}
	for _, stored := range []*Pointer{nil, first} {
		if err := AcceptPointer(w.fleet(), stored, w.pointer(), w.now); err != nil {
			t.Errorf("three rollovers later: %v", err)
		}
	}
	// The chain is part of what was accepted: a thief of a later key cannot
	// leave it out and return to an earlier one.
	p := w.draft()
	p.Rollovers, p.Keys = p.Rollovers[:2], p.Keys[1:]
	p.Keys[0].State = CAKeyCurrent
	p.Signature = w.keys[2].must(w.fleet(), p)
	if err := p.Verify(w.fleet()); err != nil {
		t.Fatal(err)
	}
	if err := AcceptPointer(w.fleet(), w.pointer(), p, w.now); !errors.Is(err, ErrPointerFork) {
		t.Errorf("chain cut short: %v, want ErrPointerFork", err)
	}
}

// A rollover needs the commitment and both signatures. Each of these is what
// a thief of one key could write.
func TestRolloverIsRefused(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(w *world, r *Rollover)
		want   error
	}{
		{"good", func(*world, *Rollover) {}, nil},
		{"to a key that was not committed to", func(w *world, r *Rollover) {
			*r = w.rollover(w.keys[0], newKey("thief"), [32]byte{1})
		}, ErrPointerKeys},
		{"from another key", func(w *world, r *Rollover) {
			*r = w.rollover(newKey("thief"), w.keys[1], [32]byte{1})
		}, ErrPointerKeys},
		{"only the old key signs", func(w *world, r *Rollover) { r.NewSigns = w.keys[0].must(w.fleet(), r) }, ErrSignature},
		{"only the new key signs", func(w *world, r *Rollover) { r.OldSigns = w.keys[1].must(w.fleet(), r) }, ErrSignature},
		{"signatures are swapped", func(w *world, r *Rollover) { r.OldSigns, r.NewSigns = r.NewSigns, r.OldSigns }, ErrSignature},
		{"old signature is missing", func(w *world, r *Rollover) { r.OldSigns = nil }, ErrSigLength},
		{"new signature is missing", func(w *world, r *Rollover) { r.NewSigns = nil }, ErrSigLength},
		{"commitment was changed", func(w *world, r *Rollover) { r.NextCA[0] ^= 1 }, ErrSignature},
		{"of another fleet", func(w *world, r *Rollover) {
			r.OldSigns, r.NewSigns = w.keys[0].must(FleetID{1}, r), w.keys[1].must(FleetID{1}, r)
		}, ErrSignature},
		{"high s", func(w *world, r *Rollover) { r.OldSigns = twin(P256, r.OldSigns) }, ErrHighS},
		// Attack: in the literal protocol CA:N:S, a signature over a public
		// key, is a rollover to it.
		{"CA:N:S for the new key as the old key's signature", func(w *world, r *Rollover) {
			a := &CANS{NodeKey: r.New, NodeID: NewNodeID(w.fleet(), r.New), Issued: epoch, Expires: epoch.Add(time.Minute)}
			tree, err := BatchCANS([]*CANS{a})
			if err != nil {
				w.t.Fatal(err)
			}
			r.OldSigns = w.keys[0].must(w.fleet(), tree)
		}, ErrSignature},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.rollOver()
			test.change(w, &p.Rollovers[0])
			w.seal(p)
			if err := p.Verify(w.fleet()); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// Rollovers without the keys, and keys without their rollovers.
func TestRolloverAndKeysGoTogether(t *testing.T) {
	w := newWorld(t)
	w.rollOver()
	for name, change := range map[string]func(p *Pointer){
		"rollover left out":   func(p *Pointer) { p.Rollovers = nil },
		"rollover twice":      func(p *Pointer) { p.Rollovers = append(p.Rollovers, p.Rollovers[0]) },
		"old key stays first": func(p *Pointer) { slices.Reverse(p.Keys); p.Keys[0].State, p.Keys[1].State = CAKeyCurrent, CAKeyNext },
	} {
		p := w.draft()
		change(p)
		if err := w.seal(p).Verify(w.fleet()); !errors.Is(err, ErrPointerKeys) {
			t.Errorf("%s: %v, want ErrPointerKeys", name, err)
		}
	}
}

func TestPointerCA(t *testing.T) {
	w := newWorld(t)
	p := w.pointer()
	if k := p.CA(caID("32473.1.1")); k != p.Current() || k.Log() != 1 {
		t.Errorf("CA id of the current key: %v", k)
	}
	if k := p.CA(caID("32473.1.2")); k != nil {
		t.Errorf("CA id of nobody: %v", k)
	}
	if k := p.CA(merkle.TrustAnchorID{}); k != nil {
		t.Errorf("no CA id: %v", k)
	}
}

// Lists have limits, so that a record cannot make a node allocate.
func TestPointerLimits(t *testing.T) {
	w := newWorld(t)
	p := w.draft()
	pin := p.Endpoints[0].Pins[0]
	for name, change := range map[string]func(p *Pointer){
		"CA keys": func(p *Pointer) { p.Keys = slices.Repeat(p.Keys, maxCAKeys+1) },
		"rollovers": func(p *Pointer) {
			p.Rollovers = slices.Repeat([]Rollover{w.rollover(w.keys[0], w.keys[1], [32]byte{})}, maxRollovers+1)
		},
		"endpoints":        func(p *Pointer) { p.Endpoints = slices.Repeat(p.Endpoints, maxEndpoints+1) },
		"pins":             func(p *Pointer) { p.Endpoints = []Endpoint{{"https://a", slices.Repeat([][32]byte{pin}, maxPins+1)}} },
		"logs":             func(p *Pointer) { p.Keys[0].Logs = make([]uint16, maxLogs+1) },
		"endpoint, no pin": func(p *Pointer) { p.Endpoints = []Endpoint{{URL: "https://a"}} },
		"state 0":          func(p *Pointer) { p.Keys[0].State = 0 },
		"state 5":          func(p *Pointer) { p.Keys[0].State = 5 },
		"no CA id":         func(p *Pointer) { p.Keys[0].ID = merkle.TrustAnchorID{} },
		"no CA:S":          func(p *Pointer) { p.Keys[0].CAS = nil },
		"no approval key":  func(p *Pointer) { p.Approval = PublicKey{} },
		"before 1970":      func(p *Pointer) { p.Issued = time.Unix(-1, 0) },
		"after 9999":       func(p *Pointer) { p.Expires = time.Unix(maxTime+1, 0) },
	} {
		p := w.draft()
		change(p)
		if _, err := ParsePointer(w.seal(p).Marshal()); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	if _, err := ParsePointer(make([]byte, maxPointer+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("over-long: %v", err)
	}
	for name, change := range map[string]func(p *Pointer){
		"as many lists as allowed": func(p *Pointer) {
			p.Endpoints = slices.Repeat([]Endpoint{{"https://a", slices.Repeat([][32]byte{pin}, maxPins)}}, maxEndpoints)
			p.Keys[0].Logs = make([]uint16, maxLogs)
		},
	} {
		p := w.draft()
		change(p)
		b := w.seal(p).Marshal()
		if got, err := ParsePointer(b); err != nil || !bytes.Equal(got.Marshal(), b) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEndpointPin(t *testing.T) {
	w := newWorld(t)
	ep := w.pointer().Endpoints[0]
	if err := ep.check(&x509.Certificate{RawSubjectPublicKeyInfo: newKey("tls").PublicKey().SPKI()}); err != nil {
		t.Error(err)
	}
	if err := ep.check(&x509.Certificate{RawSubjectPublicKeyInfo: newKey("other").PublicKey().SPKI()}); !errors.Is(err, ErrNotOurCoordinator) {
		t.Errorf("another TLS key: %v", err)
	}
}
