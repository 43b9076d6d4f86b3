package tlog

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery/merkle"
)

// newCosigner returns a cosigner that is not the CA's.
func newCosigner(t testing.TB, id string) Signer {
	t.Helper()
	cosigner, err := merkle.ParseTrustAnchorID(id)
	must(t, err)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	key, err := NewCosignerKey(cosigner, &private.PublicKey)
	must(t, err)
	s, err := NewECDSASigner(key, private)
	must(t, err)
	return s
}

// newIssuanceWitness returns a witness of the CA's first log with a key of each
// type.
func newIssuanceWitness(t testing.TB, ca Signer) *Witness {
	t.Helper()
	w, err := NewWitness(WitnessConfig{
		Signers: []Signer{signerFor(t, "witness.example", CosignatureV1), newCosigner(t, "32473.9")},
		Logs:    []*Policy{policy(t, logOrigin(t), ca), policy(t, "own/log", newNamedSigner(t, "own/log", elliptic.P256()))},
		Records: NewMemoryRecords(),
		Now:     testNow,
	})
	must(t, err)
	return w
}

// cosigned has the witness cosign the first checkpoint of its, and returns it
// with the cosignatures.
func cosigned(t testing.TB, w *Witness, checkpoint []byte) []byte {
	t.Helper()
	signatures, err := w.Add(t.Context(), &AddRequest{Checkpoint: checkpoint})
	must(t, err)
	n, err := ParseNote(checkpoint)
	must(t, err)
	n.Signatures = append(n.Signatures, signatures...)
	b, err := n.Marshal()
	must(t, err)
	return b
}

func (w *world) subtree(t testing.TB, s merkle.Subtree, size uint64, checkpoint []byte) *SubtreeRequest {
	t.Helper()
	hash, err := w.tree.Subtree(s)
	must(t, err)
	proof, err := w.tree.Consistency(s, size)
	must(t, err)
	return &SubtreeRequest{Subtree: s, Hash: hash, Proof: proof, Checkpoint: checkpoint}
}

// A request as tlog-witness has it ("sign-subtree"), but for the cosignature,
// which is abbreviated there. Its hashes are those of no tree.
func TestSubtreeRequestOfSpecification(t *testing.T) {
	const body = "subtree 8 13\n" +
		"mbsQCg+dEIMGlpqeGgk94JutQwKKS2Lo5IuDhKmDjiU=\n" +
		"CD82D2LDm0phY0+xKbHyZfq3Hw21lVkuV7Zis5EFg0k=\n" +
		"h/ghL5nyaXTIBAklqDnisM+SFdbA3izoGZ5oRYMZzc0=\n" +
		"8qtnAAU9sTKQx/zt3E4v8Jt2a9IMQUf0QUawvePF9y0=\n" +
		"KuO5BNOmginG34Lm5G3e2GuiWliGo3K0ebzGpvI0fEg=\n" +
		"\n" +
		"example.com/behind-the-sofa\n14\n/CcKVZM9n65aH7jLaIZuUB4/MSlEFQ4+ldwUC21rDHM=\n"
	r, err := ParseSubtreeRequest([]byte(body))
	must(t, err)
	if r.Subtree != (merkle.Subtree{Start: 8, End: 13}) || len(r.Proof) != 4 || string(r.Marshal()) != body {
		t.Errorf("%+v", r)
	}
}

// What a witness says about subtrees stands in certificates as what the CA says.
func TestSignSubtree(t *testing.T) {
	log, ca := newWorld("a", 100), newCASigner(t, elliptic.P256())
	w := newIssuanceWitness(t, ca)
	b := cosigned(t, w, note(t, log.checkpoint(t, logOrigin(t), 100), ca))
	key := w.Keys()[1]
	if n, err := ParseNote(b); err != nil || len(n.Signatures) != 3 {
		t.Fatalf("%+v, %v", n, err)
	}
	p, err := NewPolicy(logOrigin(t), []*Key{ca.key}, w.Keys(), 2)
	must(t, err)
	_, err = p.Open(b)
	must(t, err)

	rapid.Check(t, func(rt *rapid.T) {
		start := rapid.Uint64Range(0, 99).Draw(rt, "start")
		s := merkle.Smallest(start, rapid.Uint64Range(start+1, 100).Draw(rt, "end"))
		s.End = min(s.End, 100)
		r := log.subtree(t, s, 100, b)
		signatures, err := w.SignSubtree(t.Context(), r)
		if err != nil || len(signatures) != 1 {
			rt.Fatalf("%v: %v, %v", s, signatures, err)
		}
		if time := binary.BigEndian.Uint64(signatures[0].Bytes); time != 0 {
			rt.Errorf("%v has the time %d", s, time)
		}
		got, err := key.VerifySubtree(logOrigin(t), s, r.Hash, signatures[0])
		must(t, err)
		// Package merkle verifies it as it would a CA's of this ID and key, but
		// for the name of the log.
		m := merkle.CosignedMessage{Cosigner: got.Cosigner, Log: merkle.LogID(caID(t), 1), Subtree: s, Hash: r.Hash}
		if got.Cosigner.String() != "32473.9" || !ecdsa.VerifyASN1(key.ecdsa, key.digest(m.Marshal()), got.Signature) {
			rt.Errorf("%v: %+v", s, got)
		}

		other := r.Hash
		other[0] ^= 1
		for what, err := range map[string]error{
			"another hash":    errorOf(key.VerifySubtree(logOrigin(t), s, other, signatures[0])),
			"another end":     errorOf(key.VerifySubtree(logOrigin(t), merkle.Subtree{Start: s.Start, End: s.End + 1}, r.Hash, signatures[0])),
			"another log":     errorOf(key.VerifySubtree(merkle.LogID(caID(t), 2).Origin(), s, r.Hash, signatures[0])),
			"the other key":   errorOf(w.Keys()[0].VerifySubtree(logOrigin(t), s, r.Hash, signatures[0])),
			"as a checkpoint": errorOf(key.Verify(&Checkpoint{Origin: logOrigin(t), Size: s.End, Root: r.Hash}, signatures[0])),
		} {
			if !errors.Is(err, ErrSignature) {
				rt.Errorf("%v verifies with %s: %v", s, what, err)
			}
		}
	})
	// A cosignature of the whole tree has a time and is none of a subtree.
	n, err := ParseNote(b)
	must(t, err)
	i := slices.IndexFunc(n.Signatures, key.made)
	if _, err := key.VerifySubtree(logOrigin(t), merkle.Subtree{End: 100}, log.tree.Root(), n.Signatures[i]); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
}

func errorOf[T any](_ T, err error) error { return err }

// The answers of tlog-witness, "sign-subtree".
func TestSubtreeHandler(t *testing.T) {
	log, fork, ca := newWorld("a", 100), newWorld("b", 100), newCASigner(t, elliptic.P256())
	w := newIssuanceWitness(t, ca)
	url := httptestServer(t, w)
	b := cosigned(t, w, note(t, log.checkpoint(t, logOrigin(t), 100), ca))
	s := merkle.Subtree{Start: 64, End: 96}
	with := func(change func(r *SubtreeRequest)) []byte {
		r := log.subtree(t, s, 100, b)
		change(r)
		return r.Marshal()
	}
	signed := func(c *Checkpoint, signers ...Signer) func(*SubtreeRequest) {
		return func(r *SubtreeRequest) { r.Checkpoint = note(t, c, signers...) }
	}
	own := log.checkpoint(t, logOrigin(t), 100)
	stranger := signerFor(t, "stranger.example", CosignatureV1)
	good := string(with(func(*SubtreeRequest) {}))
	for _, test := range []struct {
		what   string
		body   []byte
		status int
	}{
		{"good", []byte(good), 200},
		{"cosigned with the Ed25519 key alone", with(signed(own, w.Signers[0])), 200},
		{"cosigned with the other key alone", with(signed(own, w.Signers[1])), 200},
		{"signatures of others besides", with(signed(own, stranger, w.Signers[1], ca)), 200},
		{"the whole tree", log.subtree(t, merkle.Subtree{End: 100}, 100, b).Marshal(), 200},

		{"nothing", nil, 400},
		{"no hash", []byte("subtree 64 96\n\n" + string(b)), 400},
		{"no checkpoint", []byte(good[:strings.Index(good, "\n\n")+2]), 400},
		{"one bound", []byte(strings.Replace(good, "64 96", "64", 1)), 400},
		{"three bounds", []byte(strings.Replace(good, "64 96", "64 96 1", 1)), 400},
		{"a bound with zeros", []byte(strings.Replace(good, "64 96", "064 96", 1)), 400},
		{"two spaces", []byte(strings.Replace(good, "64 96", "64  96", 1)), 400},
		{"an empty subtree", with(func(r *SubtreeRequest) { r.Subtree.End = 64 }), 400},
		{"no subtree", with(func(r *SubtreeRequest) { r.Subtree.Start = 63 }), 400},
		{"backwards", with(func(r *SubtreeRequest) { r.Subtree.Start = 128 }), 400},
		{"beyond the tree", with(func(r *SubtreeRequest) { r.Subtree.End = 101 }), 400},
		{"64 hashes", with(func(r *SubtreeRequest) { r.Proof = make([]merkle.Hash, 64) }), 400},
		{"too large", make([]byte, maxRequestSize+1), 413},
		{"an unknown log", with(signed(log.checkpoint(t, merkle.LogID(caID(t), 2).Origin(), 100), w.Signers[1])), 404},
		{"no cosignature", with(signed(own, ca)), 403},
		{"a stranger's cosignature", with(signed(own, ca, stranger)), 403},
		{"a cosignature of something else", []byte(strings.Replace(good, "\n100\n", "\n101\n", 1)), 403},
		{"another hash", with(func(r *SubtreeRequest) { r.Hash[0] ^= 1 }), 422},
		{"another subtree's hash and proof", with(func(r *SubtreeRequest) { r.Subtree = merkle.Subtree{Start: 32, End: 64} }), 422},
		{"no proof", with(func(r *SubtreeRequest) { r.Proof = nil }), 422},
		{"a hash too many", with(func(r *SubtreeRequest) { r.Proof = append(r.Proof, merkle.Hash{}) }), 422},
		{"a fork's subtree", fork.subtree(t, s, 100, b).Marshal(), 422},
	} {
		resp, err := http.Post(url+signSubtreePath, "", bytes.NewReader(test.body))
		must(t, err)
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		must(t, err)
		if resp.StatusCode != test.status {
			t.Errorf("%s: %d %q, want %d", test.what, resp.StatusCode, answer, test.status)
		}
		if lines, err := ParseSignatures(answer); (err == nil) != (test.status == 200) || err == nil && (len(lines) != 1 || !w.Keys()[1].made(lines[0])) {
			t.Errorf("%s: %q", test.what, answer)
		}
	}
	// A log whose name is no log ID has no certificates.
	signer := newNamedSigner(t, "own/log", elliptic.P256())
	w.logs["own/log"] = policy(t, "own/log", signer)
	c := cosigned(t, w, note(t, log.checkpoint(t, "own/log", 100), signer))
	if n, err := ParseNote(c); err != nil || len(n.Signatures) != 2 { // without the Cosigner's
		t.Errorf("%+v, %v", n, err)
	}
	if s, err := w.SignSubtree(t.Context(), log.subtree(t, s, 100, c)); status(err) != 400 || s != nil {
		t.Errorf("%+v, %v", s, err)
	}
	// A witness without a key for it.
	resp, err := http.Post(httptestServer(t, newWitness(t, NewMemoryRecords()))+signSubtreePath, "", strings.NewReader(good))
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("a witness without a cosigner's key: %s", resp.Status)
	}
	// What is wrong with its key is the witness's own affair.
	w.Signers[1] = impostor{w.Keys()[1], newCosigner(t, "32473.9")}
	if s, err := w.SignSubtree(t.Context(), log.subtree(t, merkle.Subtree{End: 64}, 100, b)); err == nil || status(err) != 500 || s != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestClientSignSubtree(t *testing.T) {
	log, ca := newWorld("a", 100), newCASigner(t, elliptic.P256())
	w := newIssuanceWitness(t, ca)
	var sent []byte
	var answer http.HandlerFunc = w.Handler().ServeHTTP
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(b))
		sent = b
		answer(rw, r)
	}))
	defer server.Close()
	client, err := NewWitnessClient(server.URL, w.Keys(), nil)
	must(t, err)
	signed := note(t, log.checkpoint(t, logOrigin(t), 100), ca)
	none := func(context.Context, uint64) ([]merkle.Hash, error) { return nil, errors.New("not to be called") }
	lines, err := client.Cosign(t.Context(), signed, none)
	if err != nil || len(lines) != 2 {
		t.Fatalf("%+v, %v", lines, err)
	}
	n, err := ParseNote(signed)
	must(t, err)
	n.Signatures = append(n.Signatures, lines...)
	whole, err := n.Marshal()
	must(t, err)
	r := log.subtree(t, merkle.Subtree{Start: 64, End: 96}, 100, whole)
	got, err := client.SignSubtree(t.Context(), r)
	if err != nil || len(got) != 1 || got[0].Cosigner.String() != "32473.9" {
		t.Fatalf("%+v, %v", got, err)
	}
	if strings.Contains(string(sent), ca.key.Name()+" ") || !bytes.Equal(r.Checkpoint, whole) {
		t.Errorf("sent %s", sent)
	}

	bare := *r
	bare.Checkpoint = signed
	if _, err := client.SignSubtree(t.Context(), &bare); !errors.Is(err, ErrNotCosigned) {
		t.Error(err)
	}
	bare.Checkpoint = nil
	if _, err := client.SignSubtree(t.Context(), &bare); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	say := func(s string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, s) }
	}
	other, err := w.SignSubtree(t.Context(), log.subtree(t, merkle.Subtree{End: 64}, 100, whole))
	must(t, err)
	for what, h := range map[string]http.HandlerFunc{
		"another subtree's":   say(other[0].Line()),
		"the checkpoint's":    say(lines[1].Line()),
		"the other key's":     say(lines[0].Line()),
		"nothing":             say(""),
		"a refusal":           func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(422) },
		"an unknown cosigner": say(strings.Replace(other[0].Line(), "32473.9", "32473.8", 1)),
	} {
		answer = h
		if s, err := client.SignSubtree(t.Context(), r); err == nil || s != nil {
			t.Errorf("%s: %+v, %v", what, s, err)
		}
	}
	for what, keys := range map[string][]*Key{"no key": nil, "a key twice": {w.Keys()[0], w.Keys()[0]}} {
		if _, err := NewWitnessClient(server.URL, keys, nil); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSubtreeStatementRefuses(t *testing.T) {
	ca := newCASigner(t, elliptic.P256())
	for what, err := range map[string]error{
		"a witness's Ed25519 key": errorOf(NewSubtreeStatement(signerFor(t, "w", CosignatureV1).Key(), logOrigin(t), merkle.Subtree{End: 1}, merkle.Hash{})),
		"a key of its own type":   errorOf(NewSubtreeStatement(newNamedSigner(t, "own/log", elliptic.P256()).key, logOrigin(t), merkle.Subtree{End: 1}, merkle.Hash{})),
		"nothing":                 errorOf(NewSubtreeStatement(ca.key, logOrigin(t), merkle.Subtree{}, merkle.Hash{})),
		"no subtree":              errorOf(NewSubtreeStatement(ca.key, logOrigin(t), merkle.Subtree{Start: 1, End: 3}, merkle.Hash{})),
		"above the greatest size": errorOf(NewSubtreeStatement(ca.key, logOrigin(t), merkle.Subtree{End: 1 << 63}, merkle.Hash{})),
		"no log ID":               errorOf(NewSubtreeStatement(ca.key, "log", merkle.Subtree{End: 1}, merkle.Hash{})),
		"another's private key":   errorOf(NewECDSASigner(ca.key, newCASigner(t, elliptic.P256()).private)),
		"no private key":          errorOf(NewECDSASigner(ca.key, nil)),
		"no ECDSA key":            errorOf(NewECDSASigner(signerFor(t, "w", CosignatureV1).Key(), ca.private)),
	} {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
