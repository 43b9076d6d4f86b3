package tlog

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery/merkle"
)

// The verifier key and the note that signed-note has as its example.
const (
	exampleKey  = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
	exampleNote = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)

func TestExampleOfSpecification(t *testing.T) {
	k, err := ParseKey(exampleKey)
	must(t, err)
	n, err := ParseNote([]byte(exampleNote))
	must(t, err)
	if s := n.Signatures[0]; !k.made(s) || !ed25519.Verify(k.ed25519, []byte(n.Text), s.Bytes) {
		t.Errorf("%s does not verify %+v", k.Name(), s)
	}
	if b, err := n.Marshal(); err != nil || string(b) != exampleNote {
		t.Errorf("the note marshals to %q, %v", b, err)
	}
}

// A checkpoint that other programs signed: golang.org/x/mod/sumdb/note v0.31.0
// for the log, filippo.io/torchwood v0.9.0 for the witness.
func TestForeignCheckpoint(t *testing.T) {
	const signed = "log.example\n42\nAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n" +
		"— log.example s0NMM0Hsd9JPe2GTOTuv3hzfkpR4v4U2hXhdzK68Fwo/Pr5ZV8b5K+9OVSmi4OShbiuONUIaGblhXZgs3qVg29yTlgE=\n" +
		"— witness.example yCDUHgAAAABrCvKQUUrJEiRJtKFWxebZGJQCJZgnle78OO4IBTw4s3qmxBa0s2egXdb5/hjq2dF/MBxvtAbvVL/M/MBIG6Y19z11BQ==\n"
	log, err := ParseKey("log.example+b3434c33+AfB0kX+2W0zkUpBm//c2fmQvT4iplCyC+Cl4QES8qiEo")
	must(t, err)
	witness, err := ParseKey("witness.example+c820d41e+BCYw1KdYelE1vXBqGVd9njw3teRS0QPhQe3M098nwzDq")
	must(t, err)
	p, err := NewPolicy("log.example", []*Key{log}, []*Key{witness}, 1)
	must(t, err)
	s, err := p.Open([]byte(signed))
	if err != nil || s.Size != 42 || s.Root != (merkle.Hash{1}) || s.Latest != 0x6b0af290 {
		t.Errorf("%+v, %v", s, err)
	}
}

// What each type of key signs, byte by byte.
func TestMessages(t *testing.T) {
	c := &Checkpoint{Origin: logOrigin(t), Size: 42, Root: merkle.Hash{1, 2, 3}}
	text := logOrigin(t) + "\n42\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
	cosigned := "subtree/v1\n\x00" +
		"\x17oid/1.3.6.1.4.1.32473.1" + "\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x1boid/1.3.6.1.4.1.32473.1.0.1" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x2a" +
		string(c.Root[:])
	for _, test := range []struct {
		signer  Signer
		time    uint64
		message string
		prefix  string // of the signature in the note
	}{
		{signerFor(t, "log", Ed25519), 0, text, ""},
		{signerFor(t, "witness", CosignatureV1), 7, "cosignature/v1\ntime 7\n" + text, "\x00\x00\x00\x00\x00\x00\x00\x07"},
		{newCASigner(t, elliptic.P256()), 7, cosigned, "\x00\x00\x00\x00\x00\x00\x00\x07"},
		{newCASigner(t, elliptic.P384()), 7, cosigned, "\x00\x00\x00\x00\x00\x00\x00\x07"},
	} {
		k := test.signer.Key()
		s, err := NewStatement(k, c, test.time)
		must(t, err)
		if got := string(s.Message()); got != test.message {
			t.Errorf("%s signs %q, want %q", k, got, test.message)
		}
		if s.Key() != k || s.Time() != test.time || s.Checkpoint().Size != 42 {
			t.Errorf("statement %+v", s)
		}
		if _, ok := s.Cosigned(); ok != (k.Kind() == Cosigner) {
			t.Errorf("%s signs a CosignedMessage: %t", k, ok)
		}
		line, err := Sign(t.Context(), test.signer, c, test.time)
		must(t, err)
		if !strings.HasPrefix(string(line.Bytes), test.prefix) || line.Name != k.Name() || line.ID != k.ID() {
			t.Errorf("%s makes %+v", k, line)
		}
		if time, err := k.Verify(c, line); err != nil || time != test.time {
			t.Errorf("%s does not verify its own: %d, %v", k, time, err)
		}
		again, err := s.Seal(line.Bytes[len(test.prefix):])
		if err != nil || !slices.Equal(again.Bytes, line.Bytes) {
			t.Errorf("a stored signature of %s makes another line: %v", k, err)
		}
		if _, err := s.Seal([]byte("x")); !errors.Is(err, ErrSignature) {
			t.Errorf("%s seals what it did not sign: %v", k, err)
		}

		refuse := func(what string, c Checkpoint, s Signature) {
			t.Helper()
			if _, err := k.Verify(&c, s); !errors.Is(err, ErrSignature) {
				t.Errorf("%s with %s: %v", k, what, err)
			}
		}
		other := *c
		other.Size++
		refuse("another size", other, line)
		other = *c
		other.Root[31] ^= 1
		refuse("another root", other, line)
		other = *c
		other.Origin = merkle.LogID(caID(t), 2).Origin()
		refuse("another log", other, line)
		other = *c
		other.Extensions = []string{"more"}
		refuse("an extension", other, line)
		bad := line
		bad.Name += "x"
		refuse("another name", *c, bad)
		bad = line
		bad.ID++
		refuse("another ID", *c, bad)
		bad.ID = line.ID
		bad.Bytes = nil
		refuse("nothing", *c, bad)
		if k.Kind() != Ed25519 {
			bad.Bytes = slices.Clone(line.Bytes)
			bad.Bytes[7]++
			refuse("another time", *c, bad)
		}
		flips(line.Bytes, func(_ int, b []byte) {
			bad.Bytes = b
			refuse("a byte changed", *c, bad)
		})
	}
}

func TestStatementRefuses(t *testing.T) {
	log, witness, ca := signerFor(t, "log", Ed25519), signerFor(t, "witness", CosignatureV1), newCASigner(t, elliptic.P256())
	long := caID(t).Append(slices.Repeat([]uint32{99}, 100)...).Origin()
	for what, test := range map[string]struct {
		signer Signer
		c      Checkpoint
		time   uint64
	}{
		"a time where there is none":   {log, Checkpoint{Origin: "log"}, 1},
		"no time":                      {witness, Checkpoint{Origin: "log"}, 0},
		"no time of the CA":            {ca, Checkpoint{Origin: logOrigin(t)}, 0},
		"a time above 63 bits":         {witness, Checkpoint{Origin: "log"}, 1 << 63},
		"an origin that is no log ID":  {ca, Checkpoint{Origin: "log"}, 1},
		"an origin that is too long":   {ca, Checkpoint{Origin: long}, 1},
		"extensions":                   {ca, Checkpoint{Origin: logOrigin(t), Extensions: []string{"x"}}, 1},
		"no origin":                    {log, Checkpoint{}, 0},
		"two lines in an origin":       {log, Checkpoint{Origin: "a\nb"}, 0},
		"a control character":          {log, Checkpoint{Origin: "a\tb"}, 0},
		"an empty extension":           {log, Checkpoint{Origin: "a", Extensions: []string{""}}, 0},
		"two lines in an extension":    {log, Checkpoint{Origin: "a", Extensions: []string{"a\nb"}}, 0},
		"a size above the greatest":    {log, Checkpoint{Origin: "a", Size: MaxSize + 1}, 0},
		"an origin that is not UTF-8":  {log, Checkpoint{Origin: "a\xff"}, 0},
		"an arc that is no identifier": {ca, Checkpoint{Origin: originPrefix + "01"}, 1},
	} {
		if s, err := Sign(t.Context(), test.signer, &test.c, test.time); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", what, s, err)
		}
	}
	// A signer that fails or signs something else.
	c := &Checkpoint{Origin: "log"}
	if _, err := Sign(t.Context(), &caSigner{key: log.Key()}, c, 0); err == nil || errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	if _, err := Sign(t.Context(), impostor{log.Key(), signerFor(t, "other", Ed25519)}, c, 0); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
}

// An impostor has another key than it says.
type impostor struct {
	key *Key
	Signer
}

func (i impostor) Key() *Key { return i.key }

func TestKeyRefuses(t *testing.T) {
	public := make(ed25519.PublicKey, ed25519.PublicKeySize)
	for _, name := range []string{"", "a b", "a+b", "a\u00a0b", "a\nb", "a\xff", "a\u2003b", strings.Repeat("a", 256)} {
		if k, err := NewLogKey(name, public); !errors.Is(err, ErrMalformed) || k != nil {
			t.Errorf("key %q: %v", name, err)
		}
	}
	if _, err := NewWitnessKey("a", public[1:]); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	ca := newCASigner(t, elliptic.P256())
	if _, err := NewCosignerKey(merkle.TrustAnchorID{}, &ca.private.PublicKey); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, err := NewCosignerKey(caID(t), nil); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, err := NewEd25519Signer("a", Cosigner, nil); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, err := NewEd25519Signer("a", Ed25519, nil); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	for _, k := range []*Key{signerFor(t, "log", Ed25519).Key(), signerFor(t, "witness", CosignatureV1).Key(), ca.key, newCASigner(t, elliptic.P384()).key} {
		vkey := k.String()
		same, err := ParseKey(vkey)
		if err != nil || same.String() != vkey || same.ID() != k.ID() {
			t.Errorf("%s: %v", vkey, err)
		}
		flips([]byte(vkey), func(i int, b []byte) {
			if k, err := ParseKey(string(b)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s with byte %d changed: %v, %v", vkey, i, k, err)
			}
		})
	}
	for _, vkey := range []string{
		"", "a", "a+b", "a+00000000+", "a+00000000+AQ==", "a+00000000+Ag==", "a+00000000+/w==",
		strings.ToUpper(exampleKey), exampleKey + "\n", " " + exampleKey, strings.Repeat("a", 2000) + exampleKey,
	} {
		if k, err := ParseKey(vkey); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v, %v", vkey, k, err)
		}
	}
}

// The same public key has another ID in each type, so that what it signed in
// one is never looked at in another.
func TestKeyIDs(t *testing.T) {
	log, witness := signerFor(t, "same", Ed25519).Key(), signerFor(t, "same", CosignatureV1).Key()
	if log.ID() == witness.ID() {
		t.Errorf("both types have ID %08x", log.ID())
	}
}

func TestNoteRefuses(t *testing.T) {
	const line = "— a AAAAAAA=\n"
	accept := func(what, b string) {
		t.Helper()
		if n, err := ParseNote([]byte(b)); err != nil {
			t.Errorf("%s: %v", what, err)
		} else if again, err := n.Marshal(); err != nil || string(again) != b {
			t.Errorf("%s comes back as %q, %v", what, again, err)
		}
	}
	accept("empty lines in the text", "a\n\n\n\nb\n\n"+line)
	accept("32 signatures", "a\n\n"+strings.Repeat(line, maxSignatures))
	accept("16 signatures of 5000 bytes", "a\n\n"+strings.Repeat("— "+strings.Repeat("n", 200)+" "+b64.EncodeToString(make([]byte, 5004))+"\n", 16))
	accept("an empty text", "\n\n"+line)
	for what, b := range map[string]string{
		"empty":                  "",
		"text only":              "a\n",
		"no signatures":          "a\n\n",
		"no empty line":          "a\n" + line,
		"a carriage return":      "a\r\n\n" + line,
		"a control character":    "a\x00\n\n" + line,
		"not UTF-8":              "a\xff\n\n" + line,
		"no newline at the end":  "a\n\n" + line[:len(line)-1],
		"something after":        "a\n\n" + line + "b\n",
		"a hyphen":               "a\n\n- a AAAAAAA=\n",
		"no name":                "a\n\n—  AAAAAAA=\n",
		"two spaces":             "a\n\n— a  AAAAAAA=\n",
		"a name with a plus":     "a\n\n— a+b AAAAAAA=\n",
		"no base64":              "a\n\n— a ????\n",
		"no padding":             "a\n\n— a AAAAAAA\n",
		"bits in the padding":    "a\n\n— a AAAAAAB=\n",
		"an ID only":             "a\n\n— a AAAAAA==\n",
		"nothing after the name": "a\n\n— a\n",
		"33 signatures":          "a\n\n" + strings.Repeat(line, maxSignatures+1),
		"too large":              strings.Repeat("a", MaxNoteSize) + "\n\n" + line,
	} {
		if n, err := ParseNote([]byte(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", what, n, err)
		}
	}
	for what, n := range map[string]*Note{
		"no signatures":   {Text: "a\n"},
		"no newline":      {Text: "a", Signatures: []Signature{{"a", 0, []byte{0}}}},
		"no text":         {Signatures: []Signature{{"a", 0, []byte{0}}}},
		"no signature":    {Text: "a\n", Signatures: []Signature{{"a", 0, nil}}},
		"a name's spaces": {Text: "a\n", Signatures: []Signature{{"a b", 0, []byte{0}}}},
		"a forged line":   {Text: "a\n", Signatures: []Signature{{"a AAAAAAA=\n— a", 0, []byte{0}}}},
	} {
		if b, err := n.Marshal(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s marshals to %q, %v", what, b, err)
		}
	}
}

func TestCheckpointRefuses(t *testing.T) {
	const hash = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	c, err := ParseCheckpoint("example.com/log\n0\n" + hash + "\nmore\nand more\n")
	if err != nil || c.Origin != "example.com/log" || c.Size != 0 || c.Root != emptyRoot || !slices.Equal(c.Extensions, []string{"more", "and more"}) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, text := range []string{
		"", "\n", "a\n0\n", "a\n0\n" + hash, "\n0\n" + hash + "\n", "a\n\n" + hash + "\n", "a\n0\n\n",
		"a\n00\n" + hash + "\n", "a\n01\n" + hash + "\n", "a\n+1\n" + hash + "\n", "a\n-1\n" + hash + "\n", "a\n1 \n" + hash + "\n", "a\n0x1\n" + hash + "\n", "a\n1_0\n" + hash + "\n", "a\n9223372036854775808\n" + hash + "\n",
		"a\n0\n" + hash[1:] + "\n", "a\n0\n" + hash[:43] + "\n", "a\n0\n" + hash + "AAAA\n", "a\n0\n" + strings.Replace(hash, "U=", "V=", 1) + "\n", "a\n0\n" + strings.ReplaceAll(hash, "+", "-") + "\n",
		"a\n0\n" + hash + "\n\n", "a\n0\n" + hash + "\n\nmore\n", "a\n0\n" + hash + "\r\n", "a\xff\n0\n" + hash + "\n",
	} {
		if c, err := ParseCheckpoint(text); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
}

func TestPolicy(t *testing.T) {
	const origin = "log.example"
	w := newWorld("a", 10)
	c := w.checkpoint(t, origin, 10)
	log, other := signerFor(t, origin, Ed25519), signerFor(t, "other", Ed25519)
	w1, w2, w3 := signerFor(t, "w1", CosignatureV1), signerFor(t, "w2", CosignatureV1), signerFor(t, "w3", CosignatureV1)
	p, err := NewPolicy(origin, []*Key{log.Key()}, []*Key{w1.Key(), w2.Key()}, 1)
	must(t, err)
	if p.Origin() != origin {
		t.Error(p.Origin())
	}
	spoilt := func(b []byte, name string) []byte {
		n, err := ParseNote(b)
		must(t, err)
		for i, s := range n.Signatures {
			if s.Name == name {
				n.Signatures[i].Bytes[len(s.Bytes)-1] ^= 1
			}
		}
		b, err = n.Marshal()
		must(t, err)
		return b
	}
	twice := func(b []byte) []byte {
		n, err := ParseNote(b)
		must(t, err)
		n.Signatures = append(n.Signatures, n.Signatures...)
		b, err = n.Marshal()
		must(t, err)
		return b
	}
	all := note(t, c, other, w3, w2, w1, log)
	two, err := NewPolicy(origin, []*Key{log.Key()}, []*Key{w1.Key(), w2.Key()}, 2)
	must(t, err)
	for _, test := range []struct {
		what   string
		policy *Policy
		note   []byte
		want   error
	}{
		{"everybody", p, all, nil},
		{"one witness", p, note(t, c, log, w2), nil},
		{"an unknown key's signature spoilt", p, spoilt(spoilt(all, "w3"), "other"), nil},
		{"everything twice", two, twice(all), nil},
		{"one witness twice", two, twice(note(t, c, log, w1)), ErrQuorum},
		{"no witness", p, note(t, c, log), ErrQuorum},
		{"an unknown witness", p, note(t, c, log, w3), ErrQuorum},
		{"no log", p, note(t, c, w1, w2), ErrNoSignature},
		{"another log's key", p, note(t, c, w1, other), ErrNoSignature},
		{"the log's signature spoilt", p, spoilt(all, origin), ErrSignature},
		{"a witness's signature spoilt", p, spoilt(all, "w2"), ErrSignature},
		{"another origin", p, note(t, w.checkpoint(t, "log2.example", 10), log, w1), ErrOrigin},
		{"no checkpoint", p, []byte(exampleNote), ErrMalformed},
		{"no note", p, nil, ErrMalformed},
	} {
		s, err := test.policy.Open(test.note)
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", test.what, err, test.want)
		}
		if err == nil && (s.Size != 10 || s.Latest != testTime || len(s.Log) == 0 || len(s.Witnesses) == 0) {
			t.Errorf("%s: %+v", test.what, s)
		}
	}
	same, err := NewWitnessKey("w4", w1.Key().ed25519)
	must(t, err)
	for what, err := range map[string]error{
		"no origin":          policyError(NewPolicy("", []*Key{log.Key()}, nil, 0)),
		"no key":             policyError(NewPolicy(origin, nil, nil, 0)),
		"a quorum of 1 of 0": policyError(NewPolicy(origin, []*Key{log.Key()}, nil, 1)),
		"a quorum below 0":   policyError(NewPolicy(origin, []*Key{log.Key()}, nil, -1)),
		"a key twice":        policyError(NewPolicy(origin, []*Key{log.Key()}, []*Key{w1.Key(), same}, 1)),
		"a log as a witness": policyError(NewPolicy(origin, []*Key{log.Key()}, []*Key{other.Key()}, 1)),
	} {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func policyError(_ *Policy, err error) error { return err }

// An issuance log as it is: signed by CA:SK over the draft's message, and with
// an Ed25519 key for witnesses that know only that.
func TestIssuanceLog(t *testing.T) {
	w := newWorld("a", 300)
	ca, log := newCASigner(t, elliptic.P256()), signerFor(t, logOrigin(t), Ed25519)
	b := note(t, w.checkpoint(t, logOrigin(t), 300), log, ca)
	for _, p := range []*Policy{policy(t, logOrigin(t), log, ca), policy(t, logOrigin(t), ca), policy(t, logOrigin(t), log)} {
		if s, err := p.Open(b); err != nil || s.Root != w.tree.Root() {
			t.Error(err)
		}
	}
	// A signature out of a certificate, with timestamp 0, is no checkpoint's.
	n, err := ParseNote(b)
	must(t, err)
	binary.BigEndian.PutUint64(n.Signatures[1].Bytes, 0)
	b, err = n.Marshal()
	must(t, err)
	if _, err := policy(t, logOrigin(t), ca).Open(b); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
}
