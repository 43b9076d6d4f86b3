package merkle

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
)

func mustID(t testing.TB, s string) TrustAnchorID {
	t.Helper()
	id, err := ParseTrustAnchorID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestTrustAnchorID(t *testing.T) {
	for _, c := range []struct{ ascii, binary string }{
		{"32473.1", "81fd5901"},
		{"0", "00"},
		{"127.128", "7f8100"},
		{"32473.1.0.65535", "81fd59010083ff7f"},
		{"4294967295", "8fffffff7f"},
		{"18446744073709551616", "8280808080808080" + "8000"}, // 2^64
	} {
		id := mustID(t, c.ascii)
		if got := hex.EncodeToString(id.Bytes()); got != c.binary {
			t.Errorf("%s is %s, want %s", c.ascii, got, c.binary)
		}
		back, err := TrustAnchorIDFromBytes(id.Bytes())
		if err != nil || back != id || back.String() != c.ascii {
			t.Errorf("%s comes back as %v, %v", c.ascii, back, err)
		}
	}
}

func TestTrustAnchorIDRefused(t *testing.T) {
	for _, s := range []string{
		"", ".", "1.", ".1", "1..2", "-1", "+1", "01", "1.00", "1 ", "1.x", "0x1", "1\x00",
		strings.Repeat("1.", 255) + "1", strings.Repeat("9", 2000),
	} {
		if id, err := ParseTrustAnchorID(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("ParseTrustAnchorID(%.20q) = %v, %v, want ErrMalformed", s, id, err)
		}
	}
	for _, b := range [][]byte{nil, {0x80}, {0x81}, {0x80, 0x01}, {1, 0x80, 0x01}, {1, 0x81}, make([]byte, 256)} {
		if id, err := TrustAnchorIDFromBytes(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("TrustAnchorIDFromBytes(%x) = %v, %v, want ErrMalformed", b, id, err)
		}
	}
}

func TestTrustAnchorIDOrder(t *testing.T) {
	// 32473 takes three bytes and 2^32-1 five.
	want := []string{"9", "127", "1.1", "128", "32473.1", "32473.2", "32473.1.1", "4294967295", "32473.128.1"}
	ids := make([]TrustAnchorID, len(want))
	for i := range want {
		ids[len(ids)-1-i] = mustID(t, want[i])
	}
	slices.SortFunc(ids, TrustAnchorID.Compare)
	var got []string
	for _, id := range ids {
		got = append(got, id.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("order is %v, want %v", got, want)
	}
}

func TestAppendComponents(t *testing.T) {
	id := mustID(t, "32473")
	longer := id.Append(0, 1, 127, 128, 1<<21, 1<<28-1, 1<<28, 1<<32-1)
	want := "32473.0.1.127.128.2097152.268435455.268435456.4294967295"
	if longer.String() != want || longer != mustID(t, want) {
		t.Errorf("Append gives %v, want %s", longer, want)
	}
	if got := LogID(mustID(t, "32473.1"), 65535).String(); got != "32473.1.0.65535" {
		t.Errorf("LogID = %s", got)
	}
	if (TrustAnchorID{}).String() != "" || !(TrustAnchorID{}).IsZero() || id.IsZero() {
		t.Error("the zero identifier is not told from others")
	}
}

// The draft shows the name of CA 32473.1 ("Certification Authority
// Identifiers").
func TestName(t *testing.T) {
	id := mustID(t, "32473.1")
	der := Name(id)
	value, _ := hex.DecodeString("0c0733323437332e31")
	if !bytes.HasSuffix(der, value) {
		t.Errorf("name is %x, want it to end in %x", der, value)
	}
	if got, err := ParseName(der); got != id || err != nil {
		t.Errorf("ParseName(Name(%v)) = %v, %v", id, got, err)
	}
	for i := range len(der) * 8 {
		bad := slices.Clone(der)
		bad[i/8] ^= 1 << (i % 8)
		if got, err := ParseName(bad); err == nil && (got == id || !bytes.Equal(Name(got), bad)) {
			t.Errorf("bit %d: %x is taken for the name of %v", i, bad, got)
		}
	}
	for _, bad := range [][]byte{nil, der[:len(der)-1], append(slices.Clone(der), 0), unsignedIssuer()} {
		if got, err := ParseName(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("ParseName(%x) = %v, %v, want ErrMalformed", bad, got, err)
		}
	}
}

func TestSerial(t *testing.T) {
	s, err := NewSerial(1, 42)
	if err != nil || uint64(s) != 1<<48+42 || s.Log() != 1 || s.Index() != 42 || s.String() != "1:42" {
		t.Errorf("NewSerial(1, 42) = %d (%v), %v", uint64(s), s, err)
	}
	for text, want := range map[string]Serial{
		"1:42":                  1<<48 + 42,
		"281474976710698":       1<<48 + 42,
		"65535:281474976710655": 1<<64 - 1,
		"18446744073709551615":  1<<64 - 1,
	} {
		if got, err := ParseSerial(text); got != want || err != nil {
			t.Errorf("ParseSerial(%q) = %d, %v, want %d", text, uint64(got), err, uint64(want))
		}
	}
	for _, text := range []string{
		"", ":", "1:", ":1", "0:1", "42", "1:281474976710656", "65536:1", "-1:1", "1:-1", "+1:1", "1:2:3",
		"0x1:1", "18446744073709551616", "1 :1",
	} {
		if got, err := ParseSerial(text); !errors.Is(err, ErrSerial) {
			t.Errorf("ParseSerial(%q) = %v, %v, want ErrSerial", text, got, err)
		}
	}
	if _, err := NewSerial(0, 1); !errors.Is(err, ErrSerial) {
		t.Errorf("NewSerial(0, 1): %v, want ErrSerial", err)
	}
	if _, err := NewSerial(1, 1<<48); !errors.Is(err, ErrSerial) {
		t.Errorf("NewSerial(1, 2^48): %v, want ErrSerial", err)
	}
}
