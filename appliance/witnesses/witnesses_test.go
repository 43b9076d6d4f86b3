package witnesses

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

// A world is an issuance log whose checkpoints its CA signs.
type world struct {
	t      *testing.T
	tree   merkle.Tree
	ca     tlog.Signer
	origin string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, ca: cosigner(t, "32473.1")}
	w.origin = merkle.LogID(w.ca.Key().CosignerID(), 1).Origin()
	w.grow(100)
	return w
}

func (w *world) grow(n int) {
	for i := range n {
		w.tree.Append(merkle.HashLeaf([]byte{byte(i)}))
	}
}

func (w *world) note() []byte {
	w.t.Helper()
	c := &tlog.Checkpoint{Origin: w.origin, Size: w.tree.Size(), Root: w.tree.Root()}
	line := must(tlog.Sign(w.t.Context(), w.ca, c, 1_900_000_000))(w.t)
	text := must(c.Text())(w.t)
	return must((&tlog.Note{Text: text, Signatures: []tlog.Signature{line}}).Marshal())(w.t)
}

func (w *world) prove(_ context.Context, old uint64) ([]merkle.Hash, error) {
	return w.tree.Consistency(merkle.Subtree{End: old}, w.tree.Size())
}

func (w *world) subtree(start, end uint64) Subtree {
	w.t.Helper()
	s := merkle.Subtree{Start: start, End: end}
	return Subtree{s, must(w.tree.Subtree(s))(w.t), must(w.tree.Consistency(s, w.tree.Size()))(w.t)}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func cosigner(t *testing.T, id string) tlog.Signer {
	t.Helper()
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	key := must(tlog.NewCosignerKey(must(merkle.ParseTrustAnchorID(id))(t), &private.PublicKey))(t)
	return must(tlog.NewECDSASigner(key, private))(t)
}

func plain(t *testing.T, name string) tlog.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return must(tlog.NewEd25519Signer(name, tlog.CosignatureV1, must(private, err)(t)))(t)
}

// serve runs a witness of the log with the keys.
func (w *world) serve(signers ...tlog.Signer) Config {
	w.t.Helper()
	policy := must(tlog.NewPolicy(w.origin, []*tlog.Key{w.ca.Key()}, nil, 0))(w.t)
	witness := must(tlog.NewWitness(tlog.WitnessConfig{Signers: signers, Logs: []*tlog.Policy{policy}, Records: tlog.NewMemoryRecords(), Now: time.Now}))(w.t)
	return w.serveHandler(witness.Handler(), signers...)
}

func (w *world) serveHandler(h http.Handler, signers ...tlog.Signer) Config {
	server := httptest.NewServer(h)
	w.t.Cleanup(server.Close)
	c := Config{URL: server.URL}
	for _, s := range signers {
		c.Keys = append(c.Keys, s.Key().String())
	}
	return c
}

// holds tells whether the signature is that of a cosigner over the subtree, as a
// verifier of certificates sees it.
func (w *world) holds(k *tlog.Key, s Subtree, signature merkle.SubtreeSignature) bool {
	m := merkle.CosignedMessage{Cosigner: signature.Cosigner, Log: merkle.LogID(w.ca.Key().CosignerID(), 1), Subtree: s.Subtree, Hash: s.Hash}
	digest := sha256.Sum256(m.Marshal())
	return signature.Cosigner == k.CosignerID() && ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], signature.Signature)
}

// hang takes a request and says nothing.
func hang(_ http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body) // until then nobody notices that the client has gone
	<-r.Context().Done()
}

// Of witnesses that answer, are away, are silent, lie, and know only Ed25519,
// what is good is there in time, and nothing else.
func TestGather(t *testing.T) {
	w := newWorld(t)
	first, second, old := cosigner(t, "32473.10"), cosigner(t, "32473.9"), plain(t, "old.example")
	liar := cosigner(t, "32473.7")
	away := w.serve(cosigner(t, "32473.6"))
	away.URL = "http://127.0.0.1:1"
	silent := w.serveHandler(http.HandlerFunc(hang), cosigner(t, "32473.5"))
	lying := w.serve(liar)
	lying.Keys = []string{cosigner(t, "32473.7").Key().String()} // it has another key than it said
	set := must(New([]Config{w.serve(plain(t, "first.example"), first), away, w.serve(second), silent, w.serve(old), lying}, time.Second, nil))(t)
	if set.Len() != 6 || len(set.Keys()) != 7 {
		t.Errorf("%d witnesses, %d keys", set.Len(), len(set.Keys()))
	}
	policy := must(tlog.NewPolicy(w.origin, []*tlog.Key{w.ca.Key()}, set.Keys(), 4))(t) // two of first, second, old
	for round := range 3 {
		subtrees := []Subtree{w.subtree(64, 96), w.subtree(0, w.tree.Size())}
		a := must(set.Gather(t.Context(), Request{Checkpoint: w.note(), Prove: w.prove, Subtrees: subtrees}))(t)
		signed := must(policy.Open(a.Checkpoint))(t)
		if len(signed.Witnesses) != 4 || signed.Size != w.tree.Size() {
			t.Errorf("round %d: %d cosignatures", round, len(signed.Witnesses))
		}
		var urls []string
		for _, e := range a.Away {
			urls = append(urls, e.URL)
		}
		if want := []string{away.URL, silent.URL, lying.URL}; !slices.Equal(urls, want) {
			t.Errorf("round %d: away are %v", round, a.Away)
		}
		for i, list := range a.Subtrees {
			// In order of their IDs: shorter ones first.
			if len(list) != 2 || !w.holds(second.Key(), subtrees[i], list[0]) || !w.holds(first.Key(), subtrees[i], list[1]) {
				t.Errorf("round %d: subtree %v: %+v", round, subtrees[i].Subtree, list)
			}
		}
		// What is cosigned is not cosigned again, and its subtrees can be signed later.
		later := must(set.Gather(t.Context(), Request{Checkpoint: a.Checkpoint, Prove: w.prove, Subtrees: subtrees[:1]}))(t)
		if string(later.Checkpoint) != string(a.Checkpoint) || len(later.Subtrees[0]) != 2 {
			t.Errorf("round %d: again: %s, %v", round, later.Checkpoint, later.Away)
		}
		w.grow(30)
	}
}

// A request whose context ends returns what came.
func TestGatherEnds(t *testing.T) {
	w := newWorld(t)
	silent := w.serveHandler(http.HandlerFunc(hang), plain(t, "silent.example"))
	set := must(New([]Config{silent, w.serve(plain(t, "good.example"))}, time.Hour, nil))(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	a := must(set.Gather(ctx, Request{Checkpoint: w.note(), Prove: w.prove}))(t)
	if len(a.Away) != 1 || !errors.Is(a.Away[0], context.DeadlineExceeded) || strings.Count(string(a.Checkpoint), "good.example") != 1 {
		t.Errorf("%s, %v", a.Checkpoint, a.Away)
	}
	none := must(New(nil, 0, nil))(t)
	if a := must(none.Gather(t.Context(), Request{Checkpoint: w.note()}))(t); len(a.Away) != 0 {
		t.Errorf("%+v", a)
	}
	if _, err := none.Gather(t.Context(), Request{Checkpoint: []byte("x")}); !errors.Is(err, tlog.ErrMalformed) {
		t.Error(err)
	}
}

// A witness that refuses costs nothing but its signature: a fork, a subtree that
// is none of the tree's, a CA that would be its own witness.
func TestGatherRefusals(t *testing.T) {
	w := newWorld(t)
	set := must(New([]Config{w.serve(cosigner(t, "32473.9"))}, 0, nil))(t)
	bad := w.subtree(64, 96)
	bad.Hash[0] ^= 1
	a := must(set.Gather(t.Context(), Request{Checkpoint: w.note(), Prove: w.prove, Subtrees: []Subtree{bad}}))(t)
	if _, refused := errors.AsType[*tlog.RefusalError](a.Away[0]); !refused || len(a.Subtrees[0]) != 0 {
		t.Errorf("%+v", a)
	}
	fork := &world{t: t, ca: w.ca, origin: w.origin}
	fork.grow(50)
	fork.grow(60)
	a = must(set.Gather(t.Context(), Request{Checkpoint: fork.note(), Prove: fork.prove, Subtrees: []Subtree{fork.subtree(0, 64)}}))(t)
	if len(a.Away) != 1 || len(a.Subtrees[0]) != 0 || string(a.Checkpoint) != string(fork.note()) && strings.Contains(string(a.Checkpoint), "32473.9 ") {
		t.Errorf("%s %+v", a.Checkpoint, a.Away)
	}
	set = must(New([]Config{w.serve(cosigner(t, "32473.1"))}, 0, nil))(t)
	a = must(set.Gather(t.Context(), Request{Checkpoint: w.note(), Prove: w.prove}))(t)
	if len(a.Away) != 1 || !strings.Contains(a.Away[0].Error(), "it is the CA 32473.1 itself") {
		t.Errorf("%+v", a.Away)
	}
}

func TestNewRefuses(t *testing.T) {
	k, same := cosigner(t, "32473.9").Key(), cosigner(t, "32473.9").Key()
	twin := must(tlog.NewCosignerKey(must(merkle.ParseTrustAnchorID("32473.8"))(t), k.Public().(*ecdsa.PublicKey)))(t)
	var many []string
	for range maxKeys + 1 {
		many = append(many, plain(t, "w.example").Key().String())
	}
	for what, configs := range map[string][]Config{
		"no URL":           {{Keys: []string{k.String()}}},
		"no key":           {{URL: "https://w.example"}},
		"no verifier key":  {{URL: "https://w.example", Keys: []string{"x"}}},
		"a key twice":      {{URL: "https://w.example", Keys: []string{k.String()}}, {URL: "https://v.example", Keys: []string{k.String()}}},
		"a key in two IDs": {{URL: "https://w.example", Keys: []string{k.String(), twin.String()}}},
		"an ID twice":      {{URL: "https://w.example", Keys: []string{k.String()}}, {URL: "https://v.example", Keys: []string{same.String()}}},
		"too many":         {{URL: "https://w.example", Keys: many}},
	} {
		if _, err := New(configs, 0, nil); err == nil {
			t.Errorf("witnesses with %s", what)
		}
	}
}
