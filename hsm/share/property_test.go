package share

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery"
)

// anySet draws a secret and splits it.
func anySet(t *rapid.T, name string, maxN int) ([]byte, []Share) {
	secret := rapid.SliceOfN(rapid.Byte(), 1, MaxSecret).Draw(t, name+" secret")
	purpose := rapid.StringMatching(`[!-~]([ -~]{0,62}[!-~])?`).Draw(t, name+" purpose")
	n := rapid.IntRange(2, maxN).Draw(t, name+" n")
	k := rapid.IntRange(2, n).Draw(t, name+" k")
	shares, err := Split(secret, purpose, k, n)
	if err != nil {
		t.Fatal(err)
	}
	return secret, shares
}

// anyOf draws that many of the shares, in any order.
func anyOf(t *rapid.T, shares []Share, count int) []Share {
	return rapid.Permutation(shares).Draw(t, "custodians")[:count]
}

// Any k shares or more bring the secret back, through their texts; fewer are
// refused.
func TestAnyK(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret, shares := anySet(t, "the", 8)
		k, n := shares[0].Info().K, len(shares)

		enough := anyOf(t, shares, rapid.IntRange(k, n).Draw(t, "present"))
		for i := range enough {
			text := enough[i].Reveal()
			again, err := Parse(text)
			if err != nil || !bytes.Equal(again.Reveal(), text) || again.Info() != enough[i].Info() {
				t.Fatalf("%s: %v, %v", text, again, err)
			}
			enough[i] = again
		}
		if got, err := Combine(enough); err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("%x, %v", got, err)
		}

		few := anyOf(t, shares, rapid.IntRange(1, k-1).Draw(t, "present but too few"))
		got, err := Combine(few)
		if e, ok := errors.AsType[*TooFewError](err); !ok || e.Have != len(few) || e.Share.K != k || got != nil {
			t.Fatalf("%x, %v", got, err)
		}
	})
}

// One bit of a text that is another is found before anything else, and the
// same bit by whoever makes the checksum fit: in one share, and in all.
func TestAnyBit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, shares := anySet(t, "the", 5)
		shares = anyOf(t, shares, shares[0].Info().K)

		text := shares[0].Reveal()
		bit := rapid.IntRange(0, 8*len(text)-1).Draw(t, "bit of the text")
		text[bit/8] ^= 1 << (bit % 8)
		if _, err := Parse(text); !errors.Is(err, chancery.ErrMalformed) {
			// A line end that became another thing, or another thing a space.
			flat := func(b []byte) string { return strings.Join(strings.Fields(string(b)), "") }
			if err != nil || flat(text) != flat(shares[0].Reveal()) {
				t.Fatalf("%s\n%v", text, err)
			}
		}

		raw := shares[0].Marshal()
		bit = rapid.IntRange(0, 8*(len(raw)-checksumSize)-1).Draw(t, "bit of the share")
		flip := func(s Share) (Share, error) {
			raw := s.Marshal()
			raw[bit/8] ^= 1 << (bit % 8)
			return Unmarshal(reseal(raw[:len(raw)-checksumSize]))
		}
		one := append([]Share(nil), shares...)
		all := append([]Share(nil), shares...)
		var err error
		if one[0], err = flip(shares[0]); err != nil {
			return // it may be no share in the first place
		}
		if got, err := Combine(one); err == nil {
			t.Fatalf("flipped in one: %x", got)
		}
		for i := range all {
			if all[i], err = flip(shares[i]); err != nil {
				return
			}
		}
		if got, err := Combine(all); err == nil {
			t.Fatalf("flipped in all: %x", got)
		}
	})
}

// Parts of one set do not go into shares of another, be it in one share or in
// all of them.
func TestAnySwap(t *testing.T) {
	swaps := map[string]func(to, from *parts){
		"set":         func(to, from *parts) { to.info.Set = from.info.Set },
		"purpose":     func(to, from *parts) { to.info.Purpose = from.info.Purpose },
		"k":           func(to, from *parts) { to.info.K = from.info.K },
		"n":           func(to, from *parts) { to.info.N = from.info.N },
		"index":       func(to, from *parts) { to.info.Index = from.info.Index },
		"commitments": func(to, from *parts) { to.commitments = from.commitments },
		"sealed":      func(to, from *parts) { to.sealed = from.sealed },
		"value":       func(to, from *parts) { to.value = from.value },
		"key": func(to, from *parts) {
			to.value, to.commitments, to.info.K, to.info.Index = from.value, from.commitments, from.info.K, from.info.Index
		},
		"secret": func(to, from *parts) { to.sealed, to.info.Set = from.sealed, from.info.Set },
	}
	var names []string
	for name := range swaps {
		names = append(names, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		_, a := anySet(t, "one", 4)
		_, b := anySet(t, "other", 4)
		part := rapid.SampledFrom(names).Draw(t, "part")
		if rapid.Bool().Draw(t, "in all") {
			if part == "index" {
				return // that is an order of the shares, or a duplicate
			}
			var changed []Share
			for i := range min(len(a), len(b)) {
				changed = append(changed, with(a[i], func(p *parts) { swaps[part](p, b[i].parts()) }))
			}
			if bytes.Equal(changed[0].Marshal(), a[0].Marshal()) || len(changed) < a[0].Info().K {
				return // k and n may be the same in both
			}
			refusedAll(t, changed)
			return
		}
		present := anyOf(t, a, a[0].Info().K)
		from := rapid.SampledFrom(b).Draw(t, "from")
		changed := append([]Share(nil), present...)
		changed[0] = with(changed[0], func(p *parts) { swaps[part](p, from.parts()) })
		if bytes.Equal(changed[0].Marshal(), present[0].Marshal()) {
			return
		}
		refusedAll(t, changed)
	})
}

// refusedAll expects that the shares are refused, if not in reading then in
// combining.
func refusedAll(t *rapid.T, shares []Share) {
	for _, s := range shares {
		if _, err := Unmarshal(s.Marshal()); err != nil {
			return
		}
	}
	if got, err := Combine(shares); err == nil {
		t.Fatalf("%v give %x", shares, got)
	}
}
