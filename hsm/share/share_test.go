package share

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery"
)

// newSet splits the secret, which is "secret of" and the purpose.
func newSet(t testing.TB, purpose string, k, n int) []Share {
	t.Helper()
	shares, err := Split([]byte("secret of "+purpose), purpose, k, n)
	if err != nil {
		t.Fatal(err)
	}
	return shares
}

// with returns a copy of the share that somebody changed. Whoever does that
// makes the checksum fit as well.
func with(s Share, change func(p *parts)) Share {
	p := *s.parts()
	p.commitments, p.sealed, p.value = bytes.Clone(p.commitments), bytes.Clone(p.sealed), bytes.Clone(p.value)
	change(&p)
	return newShare(p)
}

// withAll changes each share in the same way.
func withAll(shares []Share, change func(p *parts)) []Share {
	var changed []Share
	for _, s := range shares {
		changed = append(changed, with(s, change))
	}
	return changed
}

// refused expects a typed error, and an operator who can do something with it.
func refused(t *testing.T, name string, err, want error) {
	t.Helper()
	if err == nil || reflect.TypeOf(err) != reflect.TypeOf(want) {
		t.Errorf("%s: %T %v, want %T", name, err, err, want)
		return
	}
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || hinted.Hint() == "" {
		t.Errorf("%s: no hint with %v", name, err)
	}
	if len(err.Error()) > 400 || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: no line for a terminal: %q", name, err)
	}
}

func TestSplitRefuses(t *testing.T) {
	secret, purpose := []byte("1234"), "user PIN of token chancery"
	for _, c := range []struct {
		name    string
		secret  []byte
		purpose string
		k, n    int
		want    error
		says    string
	}{
		{"any one", secret, purpose, 1, 5, &ThresholdError{}, "any 1 of 5 shares: want 2 <= k <= n <= 32; any 1 would give the whole secret to each custodian"},
		{"none", secret, purpose, 0, 5, &ThresholdError{}, "any 0 of 5 shares: want 2 <= k <= n <= 32"},
		{"negative", secret, purpose, -2, -1, &ThresholdError{}, "any -2 of -1 shares"},
		{"more than there are", secret, purpose, 4, 3, &ThresholdError{}, "any 4 of 3 shares"},
		{"too many custodians", secret, purpose, 2, 33, &ThresholdError{}, "any 2 of 33 shares"},
		{"no secret", nil, purpose, 2, 3, &SecretError{}, "secret of 0 bytes, want 1 to 256"},
		{"long secret", make([]byte, 257), purpose, 2, 3, &SecretError{}, "secret of 257 bytes, want 1 to 256"},
		{"no purpose", secret, "", 2, 3, &PurposeError{}, "purpose of 0 bytes, want 1 to 64"},
		{"long purpose", secret, strings.Repeat("a", 65), 2, 3, &PurposeError{}, "purpose of 65 bytes, want 1 to 64"},
		{"two lines", secret, "a\nb", 2, 3, &PurposeError{}, `purpose "a\nb": want printable`},
		{"terminal control", secret, "a\x1b[2Jb", 2, 3, &PurposeError{}, `"a\x1b[2Jb"`},
		{"written backwards", secret, "a\u202eb", 2, 3, &PurposeError{}, `"a\u202eb"`},
		{"not UTF-8", secret, "a\xff", 2, 3, &PurposeError{}, `"a\xff"`},
		{"space before", secret, " a", 2, 3, &PurposeError{}, `" a"`},
		{"space behind", secret, "a ", 2, 3, &PurposeError{}, `"a "`},
	} {
		shares, err := Split(c.secret, c.purpose, c.k, c.n)
		refused(t, c.name, err, c.want)
		if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q does not say %q", c.name, err, c.says)
		}
		if shares != nil {
			t.Errorf("%s: shares beside the error", c.name)
		}
	}
}

// The corners of what is accepted.
func TestSplitLimits(t *testing.T) {
	for _, c := range []struct {
		secret  []byte
		purpose string
		k, n    int
	}{
		{[]byte{0}, "a", 2, 2},
		{bytes.Repeat([]byte{0xff}, MaxSecret), strings.Repeat("ü", MaxPurpose/2), MaxShares, MaxShares},
	} {
		shares, err := Split(c.secret, c.purpose, c.k, c.n)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Combine(shares); err != nil || !bytes.Equal(got, c.secret) {
			t.Errorf("%v, %v", got, err)
		}
		for i, s := range shares {
			info := s.Info()
			if want := (Info{Purpose: c.purpose, Set: info.Set, Index: i + 1, K: c.k, N: c.n}); info != want || info.Set != shares[0].Info().Set {
				t.Errorf("%v, want %v", info, want)
			}
		}
	}
	largest := len(newSetOf(t, make([]byte, MaxSecret), strings.Repeat("a", MaxPurpose))[0].Marshal())
	if largest != maxBinary {
		t.Errorf("the largest share has %d bytes, the limit is %d", largest, maxBinary)
	}
}

func newSetOf(t *testing.T, secret []byte, purpose string) []Share {
	shares, err := Split(secret, purpose, MaxShares, MaxShares)
	if err != nil {
		t.Fatal(err)
	}
	return shares
}

func TestCombineRefuses(t *testing.T) {
	a, b := newSet(t, "a", 3, 5), newSet(t, "b", 3, 5)
	again := newSet(t, "a", 3, 5) // the same secret and purpose, split anew
	flipValue := func(p *parts) { p.value[31] ^= 1 }
	flipSealed := func(p *parts) { p.sealed[20] ^= 1 }
	flipPurpose := func(p *parts) { p.info.Purpose = "c" }
	wiped := with(a[0], func(*parts) {})
	wiped.Wipe()

	for _, c := range []struct {
		name   string
		shares []Share
		want   error
		says   string
	}{
		{"none", nil, &TooFewError{}, "no shares"},
		{"one", a[:1], &TooFewError{}, "1 of the 3 shares that set " + a[0].Info().Set.String() + " needs (a)"},
		{"one less", a[:2], &TooFewError{}, "2 of the 3 shares"},
		{"the zero share", []Share{a[0], {}, a[2]}, &FormatError{}, "share: it was wiped, or never read"},
		{"wiped", []Share{wiped, a[1], a[2]}, &FormatError{}, "share: it was wiped, or never read"},

		{"of another secret", []Share{a[0], b[1], a[2]}, &MixedError{}, "shares of 2 sets: shares 1, 3 of set " + a[0].Info().Set.String() + " (a), share 2 of set " + b[0].Info().Set.String() + " (b)"},
		{"of another split", []Share{a[0], a[1], again[2]}, &MixedError{}, "shares of 2 sets"},
		{"more than needed, one of another split", append(append([]Share(nil), a[:4]...), again[4]), &MixedError{}, "share 5 of set " + again[0].Info().Set.String()},
		{"of another split, renamed", []Share{a[0], a[1], with(again[2], func(p *parts) { p.info.Set = a[0].Info().Set })}, &AlteredError{}, "do not say the same: shares 1, 2 against share 3"},

		{"twice", []Share{a[0], a[1], a[0]}, &DuplicateError{}, "share 1 of set " + a[0].Info().Set.String() + " is there twice"},
		{"twice beyond what is needed", []Share{a[0], a[1], a[2], a[1]}, &DuplicateError{}, "share 2 of set"},
		{"twice, too few otherwise", []Share{a[0], a[0]}, &DuplicateError{}, "share 1 of set"},
		{"twice, one wrong", []Share{a[0], with(a[0], flipValue), a[1]}, &WrongShareError{}, "share 1 of set"},

		{"wrong value", []Share{a[0], with(a[1], flipValue), a[2]}, &WrongShareError{}, "share 2 of set " + a[0].Info().Set.String() + " is wrong"},
		{"wrong value beyond what is needed", []Share{a[0], a[1], a[2], with(a[4], flipValue)}, &WrongShareError{}, "share 5 of set"},
		{"several wrong values", []Share{with(a[3], flipValue), a[0], a[1], with(a[2], flipValue)}, &WrongShareError{}, "shares 4, 3 of set " + a[0].Info().Set.String() + " are wrong"},
		{"wrong value among too few", []Share{with(a[1], flipValue), a[2]}, &WrongShareError{}, "share 2 of set"},
		{"value of another share", []Share{a[0], with(a[1], func(p *parts) { p.value = a[3].parts().value }), a[2]}, &WrongShareError{}, "share 2 of set"},
		{"value of another set", []Share{a[0], with(a[1], func(p *parts) { p.value = again[1].parts().value }), a[2]}, &WrongShareError{}, "share 2 of set"},
		{"value of no scalar", []Share{a[0], with(a[1], func(p *parts) { p.value = bytes.Repeat([]byte{0xff}, 32) }), a[2]}, &WrongShareError{}, "share 2 of set"},
		{"another index", []Share{a[0], a[1], with(a[2], func(p *parts) { p.info.Index = 4 })}, &WrongShareError{}, "share 4 of set"},

		{"another purpose in one", []Share{a[0], with(a[1], flipPurpose), a[2]}, &AlteredError{}, "shares 1, 3 against share 2"},
		{"another k in one", []Share{a[0], a[1], with(a[2], func(p *parts) { p.info.K = 2 })}, &AlteredError{}, "shares 1, 2 against share 3"},
		{"another n in one", []Share{a[0], a[1], with(a[2], func(p *parts) { p.info.N = 4 })}, &AlteredError{}, "shares 1, 2 against share 3"},
		{"another sealed secret in one", []Share{a[0], with(a[1], flipSealed), a[2]}, &AlteredError{}, "shares 1, 3 against share 2"},
		{"commitments of another set in one", []Share{a[0], with(a[1], func(p *parts) { p.commitments = b[1].parts().commitments }), a[2]}, &AlteredError{}, "shares 1, 3 against share 2"},

		{"another purpose in all", withAll(a[:3], flipPurpose), &AlteredError{}, "shares 1, 2, 3 of set " + a[0].Info().Set.String() + ": the secret that is sealed in all of them was altered"},
		{"another n in all", withAll(a[:3], func(p *parts) { p.info.N = 6 }), &AlteredError{}, "sealed in all of them was altered"},
		{"another set in all", withAll(a[:3], func(p *parts) { p.info.Set[0] ^= 1 }), &AlteredError{}, "sealed in all of them was altered"},
		{"another sealed secret in all", withAll(a[:3], flipSealed), &AlteredError{}, "sealed in all of them was altered"},
		{"another set's sealed secret in all", withAll(a[:3], func(p *parts) { p.sealed = again[0].parts().sealed }), &AlteredError{}, "sealed in all of them was altered"},
		{"another set's commitments in all", withAll(a[:3], func(p *parts) { p.commitments = again[0].parts().commitments }), &WrongShareError{}, "shares 1, 2, 3 of set"},
		{"a commitment off the curve in all", withAll(a[:3], func(p *parts) { copy(p.commitments, bytes.Repeat([]byte{0xff}, pointSize)) }), &AlteredError{}, "altered"},
		{"a lower k in all", withAll(a[:2], func(p *parts) { p.info.K, p.commitments = 2, p.commitments[:2*pointSize] }), &WrongShareError{}, "shares 1, 2 of set"},
	} {
		secret, err := Combine(c.shares)
		refused(t, c.name, err, c.want)
		if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q does not say %q", c.name, err, c.says)
		}
		if secret != nil {
			t.Errorf("%s: a secret beside the error", c.name)
		}
	}

	// None of that harmed the shares.
	for _, shares := range [][]Share{a, a[:3], a[2:], {a[4], a[0], a[3]}} {
		if got, err := Combine(shares); err != nil || string(got) != "secret of a" {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// Split lets no share out that does not work.
func TestRehearse(t *testing.T) {
	a := newSet(t, "a", 2, 3)
	wrong := []Share{a[0], a[1], with(a[2], func(p *parts) { p.value[0] ^= 1 })}
	unreadable := []Share{a[0], a[1], with(a[2], func(p *parts) { p.info.Index = 0 })}
	if err := rehearse(a, []byte("secret of a")); err != nil {
		t.Error(err)
	}
	if err := rehearse(a, []byte("secret of b")); err == nil {
		t.Error("another secret passes")
	}
	refused(t, "a wrong share", rehearse(wrong, []byte("secret of a")), &WrongShareError{})
	refused(t, "an unreadable share", rehearse(unreadable, []byte("secret of a")), &FormatError{})
	if got, err := Combine(a); err != nil || string(got) != "secret of a" {
		t.Errorf("after a rehearsal: %q, %v", got, err)
	}
}

// Two splits have nothing in common, and no two shares of one a value.
func TestSplitIsRandom(t *testing.T) {
	a, b := newSet(t, "a", 2, 3), newSet(t, "a", 2, 3)
	if a[0].Info().Set == b[0].Info().Set || bytes.Equal(a[0].parts().commitments, b[0].parts().commitments) || bytes.Equal(a[0].parts().sealed, b[0].parts().sealed) {
		t.Error("two splits agree")
	}
	seen := make(map[string]bool)
	for _, s := range append(a, b...) {
		if seen[string(s.parts().value)] {
			t.Error("two shares with one value")
		}
		seen[string(s.parts().value)] = true
	}
}

// The value comes out of a share only by Reveal and Marshal.
func TestShareIsNotPrinted(t *testing.T) {
	s := newSet(t, "user PIN of token chancery", 2, 3)[1]
	held := struct{ s Share }{s} // where fmt finds no method
	encoded, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("read", "share", s, "held", held)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("read", "share", s, "held", held)
	printed := []string{string(encoded), log.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%t"} {
		printed = append(printed, fmt.Sprintf(verb, s), fmt.Sprintf(verb, &s), fmt.Sprintf(verb, held), fmt.Sprintf(verb, &held), fmt.Sprintf(verb, []Share{s}))
	}
	text := s.Reveal()
	hidden := []string{string(text[len(text)-40 : len(text)-10])}
	for _, form := range []string{"%x", "%X", "%d", "%o", "%b", "%s"} {
		hidden = append(hidden, strings.Trim(fmt.Sprintf(form, s.parts().value[:8]), "[]"))
	}
	for _, h := range hidden {
		for _, p := range printed {
			if strings.Contains(p, h) {
				t.Errorf("%q shows the value", p)
			}
		}
	}
	want := "share 2 of 3, any 2: user PIN of token chancery (set " + s.Info().Set.String() + ")"
	if got := fmt.Sprint(s); got != want {
		t.Errorf("prints as %q, want %q", got, want)
	}
	if got := fmt.Sprint(Share{}); got != "no share" {
		t.Errorf("the zero share prints as %q", got)
	}
}

func TestWipe(t *testing.T) {
	shares := newSet(t, "a", 2, 2)
	s, value, info := shares[0], shares[0].parts().value, shares[0].Info()
	s.Wipe()
	s.Wipe()
	if !bytes.Equal(value, make([]byte, scalarSize)) {
		t.Errorf("the value is still %x", value)
	}
	if shares[0].Marshal() != nil || shares[0].Reveal() != nil {
		t.Error("a copy of the share still has a form")
	}
	if s.Info() != info {
		t.Errorf("%v, want %v", s.Info(), info)
	}
	Share{}.Wipe()
	if (Share{}).Info() != (Info{}) || (Share{}).Marshal() != nil {
		t.Error("the zero share says something")
	}
	scalar := curve.NewScalar().SetUint64(7)
	if wipe(scalar); !scalar.IsZero() {
		t.Error("a scalar survives")
	}
}

var update = flag.Bool("update", false, "write testdata/v1 anew: never once shares are in safes")

// Shares lie in safes for years: those of version 1 are read for ever.
func TestVectors(t *testing.T) {
	const secret, purpose, k, n = "correct horse battery staple", "user PIN of token chancery", 3, 5
	name := func(i int) string { return filepath.Join("testdata", "v1", fmt.Sprintf("share-%d", i+1)) }
	if *update {
		shares, err := Split([]byte(secret), purpose, k, n)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range shares {
			if err := os.WriteFile(name(i), s.Reveal(), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	var shares []Share
	for i := range n {
		text, err := os.ReadFile(name(i))
		if err != nil {
			t.Fatal(err)
		}
		s, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Reveal(); !bytes.Equal(got, text) {
			t.Errorf("%s\nis written as\n%s", text, got)
		}
		if info := s.Info(); info.Purpose != purpose || info.Index != i+1 || info.K != k || info.N != n {
			t.Errorf("%v", info)
		}
		shares = append(shares, s)
	}
	for _, set := range [][]Share{shares, shares[:3], shares[2:], {shares[4], shares[1], shares[0]}} {
		if got, err := Combine(set); err != nil || string(got) != secret {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestErrorsAreMalformed(t *testing.T) {
	for _, err := range []error{&TypoError{}, &FormatError{}} {
		if !errors.Is(err, chancery.ErrMalformed) {
			t.Errorf("%T is not ErrMalformed", err)
		}
	}
}
