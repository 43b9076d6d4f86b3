package chancery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestPin(t *testing.T) {
	fleet := newWorld(t).fleet()
	pin := fleet.Pin()
	if got, err := ParsePin(pin); err != nil || got != fleet {
		t.Fatalf("%s: %v, %v", pin, got, err)
	}
	badText(t, pin, func(s string) error { _, err := ParsePin(s); return err })
}

func TestToken(t *testing.T) {
	fleet := newWorld(t).fleet()
	token := NewToken(fleet)
	text := token.Reveal()
	if got, err := ParseToken(text); err != nil || got != token || got.Fleet != fleet {
		t.Fatalf("%v, %v", got, err)
	}
	if NewToken(fleet).Key() == token.Key() {
		t.Error("two tokens with one key")
	}
	badText(t, text, func(s string) error {
		_, err := ParseToken(s)
		if err != nil && len(s) > 30 && strings.Contains(err.Error(), s[len(s)/2:len(s)/2+10]) {
			t.Errorf("the error repeats the secret: %v", err)
		}
		return err
	})
}

// badText spoils what people copy by hand in the ways that they do.
func badText(t *testing.T, good string, parse func(string) error) {
	t.Helper()
	for name, s := range map[string]string{
		"nothing":            "",
		"prefix only":        good[:7],
		"no prefix":          good[7:],
		"another prefix":     "chpin2-" + good[7:],
		"upper case":         strings.ToUpper(good),
		"upper case body":    good[:7] + strings.ToUpper(good[7:]),
		"leading space":      " " + good,
		"trailing newline":   good + "\n",
		"newline in between": good[:20] + "\n" + good[20:],
		"padding":            good + "=",
		"one more":           good + "a",
		"twice":              good + good,
		"swapped letters":    good[:10] + good[11:12] + good[10:11] + good[12:],
		"dotless i":          good[:len(good)-1] + "ı",
	} {
		if name == "swapped letters" && s == good {
			continue
		}
		if err := parse(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	for i := range good {
		if err := parse(good[:i]); !errors.Is(err, ErrMalformed) {
			t.Errorf("the first %d characters: %v", i, err)
		}
		for _, c := range []byte("a7b") {
			if b := []byte(good); b[i] != c {
				b[i] = c
				if err := parse(string(b)); !errors.Is(err, ErrMalformed) {
					t.Errorf("character %d is %q: %v", i, c, err)
				}
			}
		}
	}
}

// The secret comes out of a token only by Reveal.
func TestTokenIsNotPrinted(t *testing.T) {
	token := NewToken(FleetID{1})
	key := token.Key()
	encoded, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("made", "token", token, "key", key)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("made", "token", token)
	printed := []string{string(encoded), log.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%t"} {
		printed = append(printed, fmt.Sprintf(verb, token), fmt.Sprintf(verb, &token), fmt.Sprintf(verb, key))
	}
	for _, secret := range [][]byte{token.secret[:], key[:]} {
		for _, form := range []string{"%x", "%X", "%d", "%o", "%b", "%s"} {
			hidden := strings.Trim(fmt.Sprintf(form, secret[:8]), "[]")
			for _, s := range printed {
				if strings.Contains(s, hidden) {
					t.Errorf("%q shows a secret", s)
				}
			}
		}
	}
	if got := fmt.Sprint(token); got != "token "+token.ID.String() {
		t.Errorf("prints as %q", got)
	}
}

// The proof of a token holds for one connection and one request.
func TestTokenProof(t *testing.T) {
	fleet, token := FleetID{1}, NewToken(FleetID{1})
	pop := PoP{NodeKey: nodeKey("edge-1").PublicKey(), AKName: []byte("ak"), Exporter: [32]byte{1}}
	key := token.Key()
	proof := key.Proof(fleet, pop, "edge-1")
	if !key.Check(fleet, pop, "edge-1", proof) {
		t.Fatal("the good proof")
	}
	otherConnection, otherKey := pop, pop
	otherConnection.Exporter = [32]byte{2}
	otherKey.NodeKey = nodeKey("thief").PublicKey()
	for name, ok := range map[string]bool{
		"another connection": key.Check(fleet, otherConnection, "edge-1", proof),
		"another node key":   key.Check(fleet, otherKey, "edge-1", proof),
		"another name":       key.Check(fleet, pop, "edge-2", proof),
		"another fleet":      key.Check(FleetID{2}, pop, "edge-1", proof),
		"another token":      NewToken(fleet).Key().Check(fleet, pop, "edge-1", proof),
		"truncated":          key.Check(fleet, pop, "edge-1", proof[:31]),
		"longer":             key.Check(fleet, pop, "edge-1", append(bytes.Clone(proof), 0)),
		"none":               key.Check(fleet, pop, "edge-1", nil),
	} {
		if ok {
			t.Errorf("%s is accepted", name)
		}
	}
	// A name arrives unchecked. However long it is, it is only wrong.
	if key.Check(fleet, pop, strings.Repeat("a", 1<<16), proof) {
		t.Error("a long name is accepted")
	}
}

func TestActivationProof(t *testing.T) {
	a := ActivationProof([]byte("secret"), [32]byte{1})
	if len(a) != 32 || bytes.Equal(a, ActivationProof([]byte("secret"), [32]byte{2})) || bytes.Equal(a, ActivationProof([]byte("Secret"), [32]byte{1})) {
		t.Error("the proof does not depend on both its inputs")
	}
}

func TestValidateName(t *testing.T) {
	for _, name := range []string{"a", "0", "edge-1", "rack.12.edge", "a--b", strings.Repeat("a", 63)} {
		if err := ValidateName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "-a", "a-", ".a", "a.", "a..b", "A", "a_b", "a/b", "a b", "ä", "a\x00", "a\n", strings.Repeat("a", 64), strings.Repeat("a", 1<<20)} {
		if err := ValidateName(name); !errors.Is(err, ErrName) || len(err.Error()) > 300 {
			t.Errorf("%.20q: %v", name, err)
		}
	}
}
