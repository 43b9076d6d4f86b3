package chancery

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// roundTrip fuzzes a parser from good samples: whatever it takes is written
// as the same bytes, so that no value has two encodings (section 2).
func roundTrip(f *testing.F, again func([]byte) ([]byte, error), names ...string) {
	for _, p := range parsers(f) {
		if slices.Contains(names, p.name) {
			f.Add(p.sample)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := bytes.Clone(b)
		got, err := again(b)
		if !bytes.Equal(b, kept) {
			t.Fatal("the parser writes to its input")
		}
		if err != nil {
			if !malformed(err) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if !bytes.Equal(got, b) {
			t.Fatalf("%x\nis written as\n%x", b, got)
		}
	})
}

func FuzzParsePointer(f *testing.F) {
	roundTrip(f, reencodePointer, "pointer record", "pointer record without X.509 issuer")
}
func FuzzParseCANS(f *testing.F)        { roundTrip(f, reencodeCANS, "CA:N:S", "CA:N:S for a P-384 key") }
func FuzzParseNS(f *testing.F)          { roundTrip(f, reencodeNS, "N:S") }
func FuzzParseCertificate(f *testing.F) { roundTrip(f, reencodeCertificate, "N:C") }
func FuzzReadCRL(f *testing.F)          { roundTrip(f, reencodeCRL, "CRL", "CRL before it is signed") }
func FuzzReadDelta(f *testing.F)        { roundTrip(f, reencodeDelta, "CRL delta") }
func FuzzParseCRLHead(f *testing.F)     { roundTrip(f, reencodeHead, "CRL head", "CRL", "CRL delta") }
func FuzzParseAnchor(f *testing.F)      { roundTrip(f, reencodeAnchor, "anchor") }

func FuzzParsePin(f *testing.F) {
	f.Add(FleetID{1, 2, 3}.Pin())
	f.Add(FleetID{}.Pin())
	f.Fuzz(func(t *testing.T, s string) {
		if fleet, err := ParsePin(s); err == nil && fleet.Pin() != s {
			t.Fatalf("%q is written as %q", s, fleet.Pin())
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add(Token{Fleet: FleetID{1}, ID: TokenID{2}, secret: [32]byte{3}}.Reveal())
	f.Add(Token{}.Reveal())
	f.Fuzz(func(t *testing.T, s string) {
		if token, err := ParseToken(s); err == nil && token.Reveal() != s {
			t.Fatalf("%q is written as %q", s, token.Reveal())
		}
	})
}

func FuzzReadIndexSet(f *testing.F) {
	for _, s := range sets() {
		if s.span <= blockSpan {
			f.Add(appendIndexSet(nil, s.span, runsOf(s.set...)), uint32(s.span))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, span uint32) {
		span %= blockSpan + 1
		set, rest, err := readIndexSet(b, uint64(span), uint64(span), nil)
		if err != nil {
			return
		}
		if used := b[:len(b)-len(rest)]; !bytes.Equal(appendIndexSet(nil, uint64(span), set), used) {
			t.Fatalf("%x is not the encoding of what it reads as", used)
		}
		for i, r := range set {
			if r.n == 0 || r.end() > uint64(span) || i > 0 && r.at <= set[i-1].end() {
				t.Fatalf("run %d+%d out of order or beyond %d", r.at, r.n, span)
			}
		}
	})
}

// FuzzSecondImplementation has two implementations read the same bytes.
func FuzzSecondImplementation(f *testing.F) {
	for _, s := range sets() {
		if s.span <= 2000 {
			f.Add(appendIndexSet(nil, s.span, runsOf(s.set...)), uint16(s.span))
		}
	}
	f.Add(appendRuns(nil, setForm{setRuns, 6, 9}, []run{{100, 800}}), uint16(1000))
	f.Add(appendIndexSet(nil, 2000, runsOf(5, 9, 300, 301, 1999)), uint16(2000))
	f.Fuzz(func(t *testing.T, b []byte, span uint16) { sameVerdict(t, b, uint64(span%4096)) })
}

// FuzzIndexSet goes the other way: from a set, through the bytes, and back.
func FuzzIndexSet(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 255, 255}, uint16(0))
	f.Add(bytes.Repeat([]byte{0, 1}, 300), uint16(9))
	f.Fuzz(func(t *testing.T, gaps []byte, more uint16) {
		var set []uint64
		next := uint64(0)
		for ; len(gaps) >= 2; gaps = gaps[2:] {
			v := next + uint64(binary.BigEndian.Uint16(gaps))
			set, next = append(set, v), v+1
		}
		span := next + uint64(more)
		b := appendIndexSet(nil, span, runsOf(set...))
		got, rest, err := readIndexSet(b, span, span, nil)
		if err != nil || len(rest) != 0 || !slices.Equal(positions(got), set) {
			t.Fatalf("%v comes back as %v, %v", set, got, err)
		}
		for form, other := range encodings(span, runsOf(set...)) {
			if other != nil && len(other) < len(b) {
				t.Fatalf("form %d is smaller: %d bytes, not %d", form, len(other), len(b))
			}
		}
	})
}

func FuzzDecodeIndexMap(f *testing.F) {
	m := newIndexMap(70000, 200000)
	for v := uint64(80000); v < 90000; v++ {
		m.fill(run{v * 2, 1})
		m.fill(run{v, 1})
	}
	f.Add(uint32(70000), uint32(200000), m.body())
	f.Add(uint32(0), uint32(0), []byte{})
	f.Add(uint32(3), uint32(5), newIndexMap(3, 5).body())
	f.Fuzz(func(t *testing.T, first, size uint32, body []byte) {
		first %= 1 << 20
		size %= 1 << 20
		if first > size {
			return // no head parses
		}
		m, err := decodeIndexMap(uint64(first), uint64(size), body)
		if err == nil && !bytes.Equal(m.body(), body) {
			t.Fatalf("%x is written as %x", body, m.body())
		}
	})
}

// Nobody without N:SK makes a session certificate: what the verifier takes is
// one that N:SK signed, to the bit.
func FuzzSession(f *testing.F) {
	w := newWorld(f)
	n := w.enroll("edge-1")
	f.Add(n.certificate)
	f.Add(n.nc.Raw())
	f.Fuzz(func(t *testing.T, der []byte) {
		if _, err := verifySession(der, n.nc, w.now); (err == nil) != bytes.Equal(der, n.certificate) {
			t.Fatalf("%x: %v", der, err)
		}
	})
}

// The same for lists: only the ones that CA:SK signed open.
func FuzzUpdateCRL(f *testing.F) {
	w := newWorld(f)
	w.revoke(w.enroll("edge-1").nc)
	w.publish()
	full := w.crl().Marshal()
	delta, err := w.crl().Delta(w.crls[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add(delta)
	f.Add(w.crls[0].Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := UpdateCRL(w.pointer(), w.crls[0], b, w.now)
		if err != nil {
			return
		}
		if got := c.Marshal(); !bytes.Equal(got, full) && !bytes.Equal(got, w.crls[0].Marshal()) {
			t.Fatalf("a list that nobody signed: %x", b)
		}
	})
}

// And for peers: a certificate message that passes speaks of the node that
// was enrolled and of nobody else.
func FuzzVerify(f *testing.F) {
	w := newWorld(f)
	n, other := w.enroll("edge-1"), w.enroll("edge-2")
	w.revoke(other.nc)
	w.publish()
	v := NewVerifier(w.trust())
	f.Add(n.certificate, n.nc.Raw())
	f.Add(other.certificate, other.nc.Raw())
	f.Add([]byte{}, n.nc.Raw())
	f.Fuzz(func(t *testing.T, session, nc []byte) {
		p, err := v.Verify([][]byte{session, nc}, "", NodeID{}, Policy{}, w.now)
		if err == nil && (p.NodeID != n.nc.NodeID(w.fleet()) || p.Certificate.Serial != n.nc.Serial || !bytes.Equal(session, n.certificate)) {
			t.Fatalf("%s passes with %x", p.Name, nc)
		}
	})
}
