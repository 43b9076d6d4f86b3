package chancery

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// revocations is a world with three certificates of which the first is
// revoked, and three lists: empty, with three entries, with the revocation.
func revocations(t *testing.T) *world {
	w := newWorld(t)
	nc := w.issue(w.subject("edge-1"), w.subject("edge-2"), w.subject("edge-3"))
	w.publish()
	w.revoke(nc[0])
	w.publish()
	w.check()
	return w
}

// Which list may replace which (docs/protocol.md section 6).
func TestCRLSequence(t *testing.T) {
	w := revocations(t)
	p, first, second, third := w.pointer(), w.crls[0], w.crls[1], w.crls[2]
	floor := *p
	floor.MinCRL = 4
	for _, test := range []struct {
		name    string
		pointer *Pointer
		held    *CRL
		got     *CRL
		want    error
	}{
		{"first list", p, nil, third, nil},
		{"next", p, second, third, nil},
		{"one was missed", p, first, third, nil},
		{"the same again", p, third, third, nil},
		{"the same, signed anew", p, third, w.resign(third, func(*CRLHead) {}), nil},
		{"rollback", p, third, second, ErrCRLRollback},
		{"rollback to the first", p, third, first, ErrCRLRollback},
		{"fork at the same number", p, third, w.resign(third, func(h *CRLHead) { h.NextUpdate = h.NextUpdate.Add(time.Second) }), ErrCRLFork},
		{"fork before", p, second, w.resign(third, func(h *CRLHead) { h.Previous[0] ^= 1 }), ErrCRLFork},
		{"higher number, earlier time", p, second, w.resign(third, func(h *CRLHead) {
			h.Number, h.ThisUpdate = h.Number+1, h.ThisUpdate.Add(-time.Second)
		}), ErrCRLRollback},
		{"from the future", p, nil, w.resign(third, func(h *CRLHead) {
			h.ThisUpdate = w.now.Add(maxSkew + time.Second)
			h.NextUpdate = h.ThisUpdate.Add(time.Hour)
		}), ErrCRLFuture},
		{"as far ahead as clocks may be", p, nil, w.resign(third, func(h *CRLHead) {
			h.ThisUpdate = w.now.Add(maxSkew)
			h.NextUpdate = h.ThisUpdate.Add(time.Hour)
		}), nil},
		{"below the floor", &floor, nil, third, ErrCRLFloor},
		{"body of another list", p, nil, w.resign(third, func(h *CRLHead) { h.Logs[0].Body[0] ^= 1 }), ErrCRLBody},
		{"count is a lie", p, nil, w.resign(third, func(h *CRLHead) { h.Logs[0].Revoked = 2 }), ErrCRLBody},
		{"a revocation is missing from the body", p, nil, &CRL{third.head, second.logs}, ErrCRLBody},
	} {
		c, err := OpenCRL(test.pointer, test.held, test.got.Marshal(), w.now)
		if !errors.Is(err, test.want) || (c == nil) != (test.want != nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

func TestCRLSignature(t *testing.T) {
	w := revocations(t)
	c := w.crl()
	other := newNamedWorld(t, "other ")
	retired := newWorld(t)
	retired.rollOver()
	for name, test := range map[string]struct {
		pointer *Pointer
		sig     Signature
		want    error
	}{
		"current key":           {w.pointer(), w.ca().must(w.fleet(), c.head), nil},
		"stranger":              {w.pointer(), newKey("stranger").must(w.fleet(), c.head), ErrSignature},
		"X.509 issuer":          {w.pointer(), newKey("x509").must(w.fleet(), c.head), ErrSignature},
		"retired key":           {retired.pointer(), w.ca().must(w.fleet(), c.head), ErrSignature},
		"key of another fleet":  {w.pointer(), other.ca().must(w.fleet(), c.head), ErrSignature},
		"in another fleet":      {w.pointer(), w.ca().must(other.fleet(), c.head), ErrSignature},
		"of the list before":    {w.pointer(), w.crls[1].head.Signature, ErrSignature},
		"of the pointer record": {w.pointer(), w.pointer().Signature, ErrSignature},
		"high s":                {w.pointer(), twin(P256, w.ca().must(w.fleet(), c.head)), ErrHighS},
	} {
		signed := &CRL{head: w.resign(c, func(*CRLHead) {}).head, logs: c.logs}
		signed.Sign(test.sig)
		if _, err := OpenCRL(test.pointer, nil, signed.Marshal(), w.now); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	for name, b := range map[string][]byte{"full list": unsigned(w, c).Marshal(), "delta": must(t)(unsigned(w, c).Delta(w.crls[1]))} {
		if _, err := UpdateCRL(w.pointer(), w.crls[1], b, w.now); !errors.Is(err, ErrSigLength) {
			t.Errorf("unsigned %s: %v", name, err)
		}
	}
}

// unsigned is a list as it is before it is signed.
func unsigned(w *world, c *CRL) *CRL {
	c = w.resign(c, func(*CRLHead) {})
	c.Sign(nil)
	return c
}

func must(t *testing.T) func(b []byte, err error) []byte {
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// A coordinator stores a list before it is signed, and after a crash signs
// the same one.
func TestRestoreCRL(t *testing.T) {
	w := revocations(t)
	kept := unsigned(w, w.crl()).Marshal()
	c, err := RestoreCRL(kept)
	if err != nil || !bytes.Equal(c.Marshal(), kept) {
		t.Fatalf("does not come back as it was: %v", err)
	}
	c.Sign(w.ca().must(w.fleet(), c.Head()))
	if _, err := OpenCRL(w.pointer(), w.crls[1], c.Marshal(), w.now); err != nil {
		t.Errorf("signed after it was restored: %v", err)
	}
	lie := unsigned(w, w.crl())
	lie.head.Logs[0].Revoked = 2
	for name, b := range map[string][]byte{
		"body of another list": (&CRL{c.head, w.crls[1].logs}).Marshal(),
		"count is a lie":       lie.Marshal(),
	} {
		if _, err := RestoreCRL(b); !errors.Is(err, ErrCRLBody) {
			t.Errorf("%s: %v, want ErrCRLBody", name, err)
		}
	}
	if _, err := RestoreCRL(kept[:len(kept)-1]); !errors.Is(err, ErrMalformed) {
		t.Errorf("truncated: %v", err)
	}
}

// Heads that no coordinator writes do not parse, signed or not.
func TestCRLHeadBounds(t *testing.T) {
	w := revocations(t)
	log := w.crl().head.Logs[0]
	for name, change := range map[string]func(h *CRLHead){
		"number 0":                         func(h *CRLHead) { h.Number = 0 },
		"number 1 with a previous list":    func(h *CRLHead) { h.Number = 1 },
		"later without a previous list":    func(h *CRLHead) { h.Previous = [32]byte{} },
		"nextUpdate at thisUpdate":         func(h *CRLHead) { h.NextUpdate = h.ThisUpdate },
		"first above size":                 func(h *CRLHead) { h.Logs[0].First = h.Logs[0].Size + 1 },
		"size beyond 48 bits":              func(h *CRLHead) { h.Logs[0].First, h.Logs[0].Size, h.Logs[0].Revoked = maxLogSize, maxLogSize+1, 0 },
		"span above the limit":             func(h *CRLHead) { h.Logs[0].Size = maxCRLSpan + 1 },
		"more revoked than there are":      func(h *CRLHead) { h.Logs[0].Revoked = h.Logs[0].Size + 1 },
		"log 0":                            func(h *CRLHead) { h.Logs[0].Log = 0 },
		"log twice":                        func(h *CRLHead) { h.Logs = []CRLLog{log, log} },
		"logs out of order":                func(h *CRLHead) { later := log; later.Log++; h.Logs = []CRLLog{later, log} },
		"CA ids out of order":              func(h *CRLHead) { later := log; later.CA = caID("32473.2"); h.Logs = []CRLLog{log, later} },
		"time that no certificate can say": func(h *CRLHead) { h.NextUpdate = time.Unix(maxTime+1, 0) },
	} {
		b := w.resign(w.crl(), change)
		b.logs = nil
		for range b.head.Logs {
			b.logs = append(b.logs, newIndexMap(0, 0))
		}
		if _, err := OpenCRL(w.pointer(), nil, b.Marshal(), w.now); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

// The answer of a lookup, by the place of the index.
func TestCRLLookup(t *testing.T) {
	w := newWorld(t)
	l := w.currentLog()
	l.tree.Append(make([]merkle.Hash, 100)...)
	l.first, l.revoked = 10, []uint64{10, 50, 99}
	c := w.publish()
	ca, fresh := l.ca, w.now
	stale := c.head.NextUpdate.Add(time.Second)
	for _, test := range []struct {
		name      string
		serial    merkle.Serial
		notBefore time.Time
		now       time.Time
		want      error
	}{
		{"good", serial(1, 11), epoch, fresh, nil},
		{"good, last one", serial(1, 98), epoch, fresh, nil},
		{"revoked, first one", serial(1, 10), epoch, fresh, ErrRevoked},
		{"revoked", serial(1, 50), epoch, fresh, ErrRevoked},
		{"revoked, last one", serial(1, 99), epoch, fresh, ErrRevoked},
		{"revoked, on a stale list", serial(1, 50), epoch, stale, ErrRevoked},
		{"good, on a stale list", serial(1, 51), epoch, stale, nil},
		{"below first", serial(1, 9), epoch, fresh, ErrBelowFirst},
		{"index 0", serial(1, 0), epoch, fresh, ErrBelowFirst},
		{"at size, appended since", serial(1, 100), c.head.ThisUpdate, fresh, nil},
		{"beyond size, appended since", serial(1, 1<<47), c.head.ThisUpdate.Add(time.Hour), fresh, nil},
		{"at size, by a clock 5 minutes behind", serial(1, 100), c.head.ThisUpdate.Add(-5 * time.Minute), fresh, nil},
		{"at size, older than the list", serial(1, 100), c.head.ThisUpdate.Add(-5*time.Minute - time.Second), fresh, ErrNewerThanCRL},
		{"at size, on a stale list", serial(1, 100), c.head.ThisUpdate, stale, ErrNewerThanCRL},
		{"unknown log", serial(2, 50), epoch, fresh, ErrUnknownLog},
	} {
		if err := c.Check(ca, test.serial, test.notBefore, test.now); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if err := c.Check(caID("32473.1.9"), serial(1, 11), epoch, fresh); !errors.Is(err, ErrUnknownLog) {
		t.Errorf("unknown CA: %v", err)
	}
	if err := c.Fresh(c.head.NextUpdate); err != nil {
		t.Errorf("at nextUpdate: %v", err)
	}
	if err := c.Fresh(stale); !errors.Is(err, ErrCRLStale) {
		t.Errorf("past nextUpdate: %v", err)
	}
	if c.Revoked() != 3 {
		t.Errorf("%d revoked", c.Revoked())
	}
}

// A certificate above the end of the list is accepted while the list is
// fresh, and only if it was made after the list.
func TestNewerThanCRL(t *testing.T) {
	w := newWorld(t)
	w.publish()
	after := w.enroll("edge-1")
	if err := w.judge(after.certs()); err != nil {
		t.Errorf("issued since the list: %v", err)
	}
	backdated := w.issue(w.subject("edge-2", func(s *Subject) {
		s.NotBefore, s.NotAfter = w.now.Add(-newerTolerance-time.Second), w.now.Add(time.Hour)
	}))[0]
	refused(t, w.judge([][]byte{backdated.Raw()}), CheckCRL, ErrNewerThanCRL)
	w.publish()
	if err := w.judge([][]byte{backdated.Raw()}); err != nil {
		t.Errorf("once the list has it: %v", err)
	}
	w.currentLog().first = 1
	w.publish()
	refused(t, w.judge(after.certs()), CheckCRL, ErrBelowFirst)
	w.check()
}

func TestCRLDelta(t *testing.T) {
	w := revocations(t)
	p, first, second, third := w.pointer(), w.crls[0], w.crls[1], w.crls[2]
	delta := func(to, from *CRL) []byte {
		b, err := to.Delta(from)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// encode writes a delta with parts of the test's choice.
	encode := func(base uint64, head *CRLHead, change []byte) []byte {
		e := artefact(kindDelta)
		e.AddUint64(base)
		head.encode(e)
		e.vec32(change)
		return e.BytesOrPanic()
	}
	change := appendIndexSet(nil, 3, []run{{0, 1}})
	if !bytes.Equal(delta(third, second), encode(2, third.head, change)) {
		t.Fatal("the test does not write a delta as the package does")
	}
	named := func(change []byte, more func(h *CRLHead)) *CRLHead {
		return w.resign(third, func(h *CRLHead) {
			h.Change = sha256.Sum256(change)
			if more != nil {
				more(h)
			}
		}).head
	}
	wrong := appendIndexSet(nil, 3, []run{{1, 1}})
	for _, test := range []struct {
		name string
		held *CRL
		b    []byte
		want error
	}{
		{"one step", second, delta(third, second), nil},
		{"two steps", first, delta(third, first), nil},
		{"no step", third, delta(third, third), nil},
		{"gap", first, delta(third, second), ErrCRLGap},
		{"base is newer than what is held", second, encode(3, third.head, change), ErrCRLGap},
		{"rollback", third, encode(3, second.head, nil), ErrCRLRollback},
		{"fork", second, encode(2, w.resign(third, func(h *CRLHead) { h.Previous[0] ^= 1 }).head, change), ErrCRLFork},
		{"from the future", second, encode(2, named(change, func(h *CRLHead) {
			h.ThisUpdate = w.now.Add(maxSkew + time.Hour)
			h.NextUpdate = h.ThisUpdate.Add(time.Hour)
		}), change), ErrCRLFuture},
		{"signed by a stranger", second, encode(2, func() *CRLHead {
			h := *third.head
			h.Signature = newKey("stranger").must(w.fleet(), &h)
			return &h
		}(), change), ErrSignature},
		{"one step with another change", second, encode(2, third.head, wrong), ErrCRLBody},
		{"two steps with another change", first, encode(1, third.head, wrong), ErrCRLBody},
		{"count is a lie", second, encode(2, named(change, func(h *CRLHead) { h.Logs[0].Revoked = 2 }), change), ErrCRLBody},
		{"change leaves an index out", first, encode(1, third.head, appendIndexSet(nil, 3, nil)), ErrCRLBody},
		{"change has an index too many", first, encode(1, third.head, appendIndexSet(nil, 3, []run{{0, 2}})), errIndexSet},
		{"log shrank", second, encode(2, named(appendIndexSet(nil, 2, []run{{0, 1}}), func(h *CRLHead) { h.Logs[0].Size = 2 }), appendIndexSet(nil, 2, []run{{0, 1}})), ErrCRLBody},
		{"change with a trailing byte", second, encode(2, named(append(slices.Clone(change), 0), nil), append(slices.Clone(change), 0)), ErrMalformed},
		{"change is not canonical", second, encode(2, named([]byte{setRuns << 5, 0, 1, 0xc0}, nil), []byte{setRuns << 5, 0, 1, 0xc0}), errIndexSet},
		{"change is missing", second, encode(2, named(nil, nil), nil), errIndexSet},
		{"trailing byte", second, append(delta(third, second), 0), ErrMalformed},
		{"a full list", second, third.Marshal(), ErrMalformed},
	} {
		c, err := test.held.Apply(p, test.b, w.now)
		if !errors.Is(err, test.want) || (c == nil) != (test.want != nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
			continue
		}
		if c != nil && !bytes.Equal(c.Marshal(), third.Marshal()) {
			t.Errorf("%s: leads to another list", test.name)
		}
	}
	// A list never changes, also not by what was applied to it.
	if second.Revoked() != 0 || len(slices.Collect(second.logs[0].all())) != 0 {
		t.Error("Apply changed the list that it started from")
	}
	floor := *p
	floor.MinCRL = 9
	if _, err := second.Apply(&floor, delta(third, second), w.now); !errors.Is(err, ErrCRLFloor) {
		t.Errorf("below the floor: %v", err)
	}
}

// UpdateCRL tells the two forms apart, CRLNumber reads either.
func TestUpdateCRL(t *testing.T) {
	w := revocations(t)
	delta, err := w.crls[2].Delta(w.crls[1])
	if err != nil {
		t.Fatal(err)
	}
	full := w.crls[2].Marshal()
	for name, b := range map[string][]byte{"full": full, "delta": delta} {
		c, err := UpdateCRL(w.pointer(), w.crls[1], b, w.now)
		if err != nil || !bytes.Equal(c.Marshal(), full) {
			t.Errorf("%s: %v", name, err)
		}
		if n, err := CRLNumber(b); n != 3 || err != nil {
			t.Errorf("%s: number %d, %v", name, n, err)
		}
	}
	if _, err := UpdateCRL(w.pointer(), nil, delta, w.now); !errors.Is(err, ErrCRLGap) {
		t.Errorf("delta without a list: %v", err)
	}
	for name, b := range map[string][]byte{"nothing": nil, "a pointer record": w.pointer().Marshal(), "magic only": []byte(magic)} {
		if _, err := UpdateCRL(w.pointer(), w.crls[1], b, w.now); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := CRLNumber(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The coordinator's side refuses to prepare what no node would take.
func TestNextCRL(t *testing.T) {
	w := revocations(t)
	l := w.logs[0]
	set := func(first, size uint64, indexes ...uint64) RevokedSet {
		return RevokedSet{l.ca, l.log, first, size, indexes}
	}
	hour := w.now.Add(time.Hour)
	for _, test := range []struct {
		name     string
		sets     []RevokedSet
		from, to time.Time
		ok       bool
	}{
		{"same", []RevokedSet{set(0, 3, 0)}, w.now, hour, true},
		{"one more", []RevokedSet{set(0, 3, 0, 2)}, w.now, hour, true},
		{"the revoked one expired", []RevokedSet{set(1, 3)}, w.now, hour, true},
		{"the log expired", nil, w.now, hour, true},
		{"a revocation is undone", []RevokedSet{set(0, 3)}, w.now, hour, false},
		{"a revocation is undone, another came", []RevokedSet{set(0, 3, 1)}, w.now, hour, false},
		{"log shrank", []RevokedSet{set(0, 2, 0)}, w.now, hour, false},
		{"index at size", []RevokedSet{set(0, 3, 0, 3)}, w.now, hour, false},
		{"index below first", []RevokedSet{set(1, 3, 0)}, w.now, hour, false},
		{"indexes out of order", []RevokedSet{set(0, 3, 1, 0)}, w.now, hour, false},
		{"index twice", []RevokedSet{set(0, 3, 0, 0)}, w.now, hour, false},
		{"first above size", []RevokedSet{set(5, 3)}, w.now, hour, false},
		{"log twice", []RevokedSet{set(0, 3, 0), set(0, 3, 0)}, w.now, hour, false},
		{"log 0", []RevokedSet{{l.ca, 0, 0, 3, nil}}, w.now, hour, false},
		{"no life", []RevokedSet{set(0, 3, 0)}, w.now, w.now, false},
		{"earlier than the list before", []RevokedSet{set(0, 3, 0)}, w.now.Add(-time.Second), hour, false},
	} {
		c, err := NextCRL(w.crl(), test.sets, test.from, test.to)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if c == nil {
			continue
		}
		c.Sign(w.ca().must(w.fleet(), c.Head()))
		if h := c.Head(); h.Number != 4 || h.Previous != w.crl().head.Hash() {
			t.Errorf("%s: number %d", test.name, h.Number)
		}
		if _, err := OpenCRL(w.pointer(), w.crl(), c.Marshal(), w.now); err != nil {
			t.Errorf("%s: a node says %v", test.name, err)
		}
		b, err := c.Delta(w.crl())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := w.crl().Apply(w.pointer(), b, w.now); err != nil || !bytes.Equal(got.Marshal(), c.Marshal()) {
			t.Errorf("%s: a node with the list before says %v", test.name, err)
		}
	}
}

// A look-up of a good certificate takes no memory, however many follow.
func TestCheckAllocatesNothing(t *testing.T) {
	w := revocations(t)
	c, ca := w.crl(), w.currentLog().ca
	if n := testing.AllocsPerRun(100, func() {
		if err := c.Check(ca, serial(1, 2), w.now, w.now); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
