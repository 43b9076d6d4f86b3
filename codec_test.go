package chancery

import (
	"bytes"
	"errors"
	"testing"

	"github.com/chancery-pki/chancery/merkle"
)

// A parser reads one kind of bytes that come from elsewhere, without
// verifying them, and writes what it read.
type parser struct {
	name   string
	max    int
	again  func(b []byte) ([]byte, error)
	sample []byte // a good one
}

// parsers are all of them, with samples out of one world.
func parsers(t testing.TB) []parser {
	w := newWorld(t)
	w.rollOver()
	n := w.enroll("edge-1", func(s *Subject) { s.DNSNames = []string{"edge-1.example"} })
	w.enroll("edge-2")
	w.revoke(n.nc)
	w.publish()
	w.publish()
	delta, err := w.crl().Delta(w.crls[0])
	if err != nil {
		t.Fatal(err)
	}
	answers := []*CANS{
		{NodeKey: n.nc.NodeKey, AKName: []byte("name"), Issued: epoch, Expires: epoch.Add(MaxCANSLife), Signature: make(Signature, 64)},
		{NodeKey: newKey384("node").PublicKey(), Issued: epoch, Expires: epoch.Add(MaxCANSLife), Signature: make(Signature, 96)},
	}
	if _, err := BatchCANS(answers); err != nil {
		t.Fatal(err)
	}
	bare := w.draft()
	bare.X509Issuer, bare.Endpoints = PublicKey{}, nil
	w.seal(bare)
	return []parser{
		{"pointer record without X.509 issuer", maxPointer, reencodePointer, bare.Marshal()},
		{"pointer record", maxPointer, reencodePointer, w.pointer().Marshal()},
		{"CA:N:S", maxCANS, reencodeCANS, answers[0].Marshal()},
		{"CA:N:S for a P-384 key", maxCANS, reencodeCANS, answers[1].Marshal()},
		{"N:S", maxNS, reencodeNS, n.nc.ns(w.fleet()).Marshal()},
		{"N:C", merkle.MaxCertificateSize, reencodeCertificate, n.nc.Raw()},
		{"CRL", maxCRL, reencodeCRL, w.crl().Marshal()},
		{"CRL before it is signed", maxCRL, reencodeCRL, unsigned(w, w.crl()).Marshal()},
		{"CRL delta", maxCRL, reencodeDelta, delta},
		{"CRL head", 2 * maxCRLHead, reencodeHead, w.crl().Head().Marshal()},
		{"anchor", maxAnchor, reencodeAnchor, (&Anchor{Counter: 3, Pointer: 2, CRL: 1, At: epoch, Signature: make(Signature, 64)}).Marshal()},
	}
}

func reencodeHead(b []byte) ([]byte, error) {
	h, err := ParseCRLHead(b)
	if err != nil {
		return nil, err
	}
	if Identify(b) != "crl-head" { // lists and deltas have parsers of their own
		return nil, ErrMalformed
	}
	return h.Marshal(), nil
}

func reencodeAnchor(b []byte) ([]byte, error) {
	a, err := ParseAnchor(b)
	if err != nil {
		return nil, err
	}
	return a.Marshal(), nil
}

func reencodePointer(b []byte) ([]byte, error) {
	p, err := ParsePointer(b)
	if err != nil {
		return nil, err
	}
	return p.Marshal(), nil
}

func reencodeCANS(b []byte) ([]byte, error) {
	c, err := ParseCANS(b)
	if err != nil {
		return nil, err
	}
	return c.Marshal(), nil
}

func reencodeNS(b []byte) ([]byte, error) {
	n, err := ParseNS(b)
	if err != nil {
		return nil, err
	}
	return n.Marshal(), nil
}

func reencodeCertificate(b []byte) ([]byte, error) {
	c, err := ParseCertificate(b)
	if err != nil {
		return nil, err
	}
	f, err := c.Fields(c.CA)
	if err != nil {
		return nil, err
	}
	return merkle.MarshalCertificate(f, c.Serial, c.mtc.Proof)
}

// reencodeCRL is OpenCRL without the signature and the hashes, so that what
// lies behind them is reached.
func reencodeCRL(b []byte) ([]byte, error) {
	d := open(b, kindCRL, maxCRL)
	c := &CRL{head: d.crlHead()}
	if d.bad {
		return nil, ErrMalformed
	}
	for _, l := range c.head.Logs {
		m, err := decodeIndexMap(l.First, l.Size, d.vec32())
		if err != nil {
			return nil, err
		}
		c.logs = append(c.logs, m)
	}
	if err := d.done("CRL"); err != nil {
		return nil, err
	}
	return c.Marshal(), nil
}

// reencodeDelta is the same for a delta.
func reencodeDelta(b []byte) ([]byte, error) {
	d := open(b, kindDelta, maxCRL)
	base := d.u64()
	head := d.crlHead()
	change := d.vec32()
	if err := d.done("CRL delta"); err != nil {
		return nil, err
	}
	var sets []byte
	for _, l := range head.Logs {
		set, rest, err := readIndexSet(change, l.Size-l.First, min(l.Revoked, maxDeltaSet), nil)
		if err != nil {
			return nil, err
		}
		sets, change = appendIndexSet(sets, l.Size-l.First, set), rest
	}
	if len(change) != 0 {
		return nil, ErrMalformed
	}
	e := artefact(kindDelta)
	e.AddUint64(base)
	head.encode(e)
	e.vec32(sets)
	return e.BytesOrPanic(), nil
}

// malformed tells the errors that parsers have for bytes that are no value.
func malformed(err error) bool {
	for _, e := range []error{ErrMalformed, ErrName, ErrNotNC, ErrPublicKey, errIndexSet, merkle.ErrMalformed, merkle.ErrNotMTC, merkle.ErrSerial} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func TestParsers(t *testing.T) {
	all := parsers(t)
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			again, err := p.again(p.sample)
			if err != nil || !bytes.Equal(again, p.sample) {
				t.Fatalf("does not come back as it was: %v", err)
			}
			for i := range p.sample {
				if _, err := p.again(p.sample[:i]); !malformed(err) {
					t.Errorf("truncated to %d of %d bytes: %v", i, len(p.sample), err)
				}
			}
			for _, tail := range []string{"\x00", "\xff", string(p.sample)} {
				if _, err := p.again(append(bytes.Clone(p.sample), tail...)); !malformed(err) {
					t.Errorf("with %d trailing bytes: %v", len(tail), err)
				}
			}
			long := make([]byte, p.max+1)
			copy(long, p.sample)
			if _, err := p.again(long); !malformed(err) {
				t.Errorf("longer than %d bytes: %v", p.max, err)
			}
			for _, other := range all {
				if other.name == p.name || bytes.HasPrefix(other.sample, p.sample[:min(5, len(p.sample))]) {
					continue
				}
				if _, err := p.again(other.sample); !malformed(err) {
					t.Errorf("%s: %v", other.name, err)
				}
			}
		})
	}
}

// One bit of difference is another value or none. It is never read as the
// same one.
func TestParsersSeeEveryBit(t *testing.T) {
	for _, p := range parsers(t) {
		for i := range p.sample {
			for bit := range 8 {
				b := bytes.Clone(p.sample)
				b[i] ^= 1 << bit
				again, err := p.again(b)
				if err != nil && !malformed(err) {
					t.Errorf("%s, bit %d of byte %d: %v", p.name, bit, i, err)
				}
				if err == nil && !bytes.Equal(again, b) {
					t.Errorf("%s, bit %d of byte %d: parses, and is written otherwise", p.name, bit, i)
				}
			}
		}
	}
}

// A length that promises more than there is takes no memory.
func TestLengthThatPromisesTooMuch(t *testing.T) {
	for name, b := range map[string][]byte{
		"pointer record": append([]byte(magic), byte(kindPointer), 0xff, 0xff, 0xff, 0xff, 0),
		"CRL":            append([]byte(magic), byte(kindCRL), 0xff, 0xff, 0xff, 0xff, 0),
		"CRL delta":      append([]byte(magic), byte(kindDelta), 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0),
		"CA:N:S":         append([]byte(magic), byte(kindCANS), 0xff, 0xff, 0),
		"N:S":            append([]byte(magic), byte(kindNS), 0xff, 0xff, 0),
	} {
		for _, p := range parsers(t) {
			if p.name != name {
				continue
			}
			if n := testing.AllocsPerRun(10, func() { p.again(b) }); n > 20 {
				t.Errorf("%s: %v allocations", name, n)
			}
			if _, err := p.again(b); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
