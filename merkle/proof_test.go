package merkle

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestProofRefused(t *testing.T) {
	const (
		none     = "\x00\x00"
		interval = "\x00\x00\x00\x00\x00\x04" + "\x00\x00\x00\x00\x00\x08"
		one      = "\x01\x05" + "\x00\x01x" // cosigner 5 signs "x"
		two      = "\x01\x06" + "\x00\x00"
	)
	hash := strings.Repeat("h", len(Hash{}))
	hashes := func(n int) string { return string([]byte{byte(n >> 3), byte(n << 5)}) + strings.Repeat(hash, n) }

	for name, in := range map[string]string{
		"nothing in it":     none + interval + none + none,
		"a hash":            none + interval + hashes(1) + none,
		"48 hashes":         none + interval + hashes(48) + none,
		"two signatures":    none + interval + none + "\x00\x09" + one + two,
		"extensions 1 to 3": "\x00\x0d\x00\x01\x00\x01x\x00\x02\x00\x00\x00\x03\x00\x00" + interval + none + none,
	} {
		p, err := ParseProof([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if out, err := p.Marshal(); err != nil || string(out) != in {
			t.Errorf("%s: %x comes back as %x, %v", name, in, out, err)
		}
	}
	for name, in := range map[string]string{
		"empty":                    "",
		"cut short":                none + interval + none,
		"trailing byte":            none + interval + none + none + "\x00",
		"half a hash":              none + interval + "\x00\x10" + hash[:16] + none,
		"49 hashes":                none + interval + hashes(49) + none,
		"cosigner twice":           none + interval + none + "\x00\x0a" + one + one,
		"cosigners out of order":   none + interval + none + "\x00\x09" + two + one,
		"longer cosigner first":    none + interval + none + "\x00\x0a" + "\x02\x01\x01\x00\x00" + one,
		"cosigner without a name":  none + interval + none + "\x00\x03" + "\x00\x00\x00",
		"cosigner 5 not minimal":   none + interval + none + "\x00\x05" + "\x02\x80\x05\x00\x00",
		"signature cut short":      none + interval + none + "\x00\x04" + one[:4],
		"extension twice":          "\x00\x08\x00\x01\x00\x00\x00\x01\x00\x00" + interval + none + none,
		"extensions out of order":  "\x00\x08\x00\x02\x00\x00\x00\x01\x00\x00" + interval + none + none,
		"extension cut short":      "\x00\x04\x00\x01\x00\x01" + interval + none + none,
		"larger than certificates": none + interval + none + "\x40\x00\x01\x05\x3f\xfc" + strings.Repeat("x", 0x3ffc),
	} {
		if p, err := ParseProof([]byte(in)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v, want ErrMalformed", name, p, err)
		}
	}
}

func TestProofMarshalRefuses(t *testing.T) {
	one, two := mustID(t, "5"), mustID(t, "6")
	for name, p := range map[string]Proof{
		"end beyond 48 bits":     {Subtree: Subtree{0, 1 << 48}},
		"49 hashes":              {Inclusion: make([]Hash, 49)},
		"extension cut short":    {LogExtensions: []byte{0}},
		"cosigner twice":         {Signatures: []SubtreeSignature{{one, nil}, {one, nil}}},
		"cosigners out of order": {Signatures: []SubtreeSignature{{two, nil}, {one, nil}}},
		"no cosigner":            {Signatures: []SubtreeSignature{{TrustAnchorID{}, nil}}},
		"cosigner of 256 bytes":  {Signatures: []SubtreeSignature{{one.Append(make([]uint32, 255)...), nil}}},
		"signature of 64 KiB":    {Signatures: []SubtreeSignature{{one, make([]byte, 1<<16)}}},
		"signature of 16 KiB":    {Signatures: []SubtreeSignature{{one, make([]byte, 1<<14)}}},
	} {
		if b, err := p.Marshal(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %d bytes, %v, want ErrMalformed", name, len(b), err)
		}
	}
}

func TestProofSignature(t *testing.T) {
	one, two := mustID(t, "5"), mustID(t, "6")
	p := Proof{Signatures: []SubtreeSignature{{one, []byte("signature")}}}
	if sig, ok := p.Signature(one); !ok || !slices.Equal(sig, []byte("signature")) {
		t.Errorf("Signature(%v) = %q, %v", one, sig, ok)
	}
	if sig, ok := p.Signature(two); ok {
		t.Errorf("Signature(%v) = %q", two, sig)
	}
}
