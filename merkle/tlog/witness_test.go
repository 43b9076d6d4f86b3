package tlog

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery/merkle"
)

// errBroken is what a store says that broke down at an unlucky moment.
var errBroken = errors.New("the disk is gone")

// A brokenRecords fails before or after it stores.
type brokenRecords struct {
	Records
	before, after, load bool
}

func (b *brokenRecords) Load(ctx context.Context, origin string) (Record, error) {
	if b.load {
		return Record{}, errBroken
	}
	return b.Records.Load(ctx, origin)
}

func (b *brokenRecords) Swap(ctx context.Context, origin string, old, new Record) error {
	if b.before {
		return errBroken
	}
	if err := b.Records.Swap(ctx, origin, old, new); err != nil {
		return err
	}
	if b.after {
		return errBroken
	}
	return nil
}

func testNow() time.Time { return time.Unix(testTime, 0) }

func newWitness(t testing.TB, records Records, signers ...Signer) *Witness {
	t.Helper()
	if len(signers) == 0 {
		signers = []Signer{signerFor(t, "witness.example", CosignatureV1)}
	}
	w, err := NewWitness(WitnessConfig{
		Signers: signers,
		Logs:    []*Policy{policy(t, followed, signerFor(t, followed, Ed25519))},
		Records: records,
		Now:     testNow,
	})
	must(t, err)
	return w
}

func (w *world) request(t testing.TB, old, size uint64) *AddRequest {
	t.Helper()
	r := &AddRequest{Old: old, Checkpoint: w.signed(t, size)}
	if old > 0 && old <= size {
		var err error
		r.Proof, err = w.tree.Consistency(merkle.Subtree{End: old}, size)
		must(t, err)
	}
	return r
}

// Whatever requests come, from a log that forks, over stores that break down
// and witnesses that begin anew: what was handed out is one history, and its
// sizes never fall.
func TestWitnessModel(t *testing.T) {
	honest, forked := newWorld("a", 300), newWorld("a", 60)
	forked.grow("b", 240)
	rapid.Check(t, func(rt *rapid.T) {
		records := &brokenRecords{Records: NewMemoryRecords()}
		w := newWitness(t, records)
		type out struct {
			log  *world
			size uint64
		}
		var handed []out
		for range rapid.IntRange(1, 30).Draw(rt, "requests") {
			log := rapid.SampledFrom([]*world{honest, honest, forked}).Draw(rt, "log")
			stored, err := records.Records.Load(t.Context(), followed)
			must(t, err)
			old := rapid.OneOf(rapid.Just(stored.Size), rapid.Uint64Range(0, 300)).Draw(rt, "old")
			size := rapid.OneOf(rapid.Just(stored.Size), rapid.Uint64Range(min(old, 290), min(old+10, 300)), rapid.Uint64Range(0, 300)).Draw(rt, "size")
			r := log.request(t, old, size)
			if rapid.IntRange(0, 9).Draw(rt, "spoil") == 0 {
				r.Proof = append(r.Proof, merkle.Hash{})
			}
			fault := rapid.IntRange(0, 9).Draw(rt, "fault")
			records.before, records.after, records.load = fault == 0, fault == 1, fault == 2
			cosignature, err := w.Add(t.Context(), r)
			records.before, records.after, records.load = false, false, false
			if err != nil {
				if cosignature != nil {
					rt.Fatalf("a cosignature beside the error %v", err)
				}
				if conflict, ok := errors.AsType[*ConflictError](err); ok && conflict.Size != stored.Size {
					rt.Fatalf("the witness has %d and says %v", stored.Size, err)
				}
			} else {
				if time, err := w.Keys()[0].Verify(log.checkpoint(t, followed, size), cosignature[0]); err != nil || time != testTime {
					rt.Fatalf("cosignature at %d: %v", time, err)
				}
				if old != stored.Size {
					rt.Fatalf("cosigned from %d, the record is of %d", old, stored.Size)
				}
				handed = append(handed, out{log, size})
			}
			if rapid.IntRange(0, 4).Draw(rt, "restart") == 0 {
				w = newWitness(t, records)
			}
		}
		for i := 1; i < len(handed); i++ {
			before, now := handed[i-1], handed[i]
			if now.size < before.size || now.log.root(t, before.size) != before.log.root(t, before.size) {
				rt.Fatalf("cosigned %d and then %d of another history", before.size, now.size)
			}
		}
	})
}

func TestMemoryRecords(t *testing.T) {
	ctx, m := t.Context(), NewMemoryRecords()
	first, second := Record{Root: emptyRoot, Checkpoint: []byte("a")}, Record{Size: 1, Checkpoint: []byte("b")}
	must(t, m.Swap(ctx, "x", Record{}, first))
	for _, old := range []Record{{}, second, {Size: 1, Root: emptyRoot}} {
		if err := m.Swap(ctx, "x", old, second); !errors.Is(err, ErrStale) {
			t.Errorf("%+v was taken for the record: %v", old, err)
		}
	}
	if got, err := m.Load(ctx, "x"); err != nil || string(got.Checkpoint) != "a" {
		t.Errorf("%+v, %v", got, err)
	}
	must(t, m.Swap(ctx, "x", Record{Root: emptyRoot}, second))
	if got, err := m.Load(ctx, "y"); err != nil || got.Checkpoint != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// A witness that breaks down between its decision and the record, or between
// the record and the answer, has handed out nothing, and goes on.
func TestWitnessCrash(t *testing.T) {
	log := newWorld("a", 100)
	records := &brokenRecords{Records: NewMemoryRecords()}
	_, err := newWitness(t, records).Add(t.Context(), log.request(t, 0, 10))
	must(t, err)

	records.before = true
	if s, err := newWitness(t, records).Add(t.Context(), log.request(t, 10, 20)); !errors.Is(err, errBroken) || s != nil {
		t.Errorf("before the record: %+v, %v", s, err)
	}
	records.before = false
	// Nothing was kept, so another checkpoint may come instead.
	if _, err := newWitness(t, records).Add(t.Context(), log.request(t, 10, 15)); err != nil {
		t.Errorf("after a crash before the record: %v", err)
	}

	records.after = true
	if s, err := newWitness(t, records).Add(t.Context(), log.request(t, 15, 30)); !errors.Is(err, errBroken) || s != nil {
		t.Errorf("after the record: %+v, %v", s, err)
	}
	records.after = false
	w := newWitness(t, records)
	_, err = w.Add(t.Context(), log.request(t, 15, 30))
	if e, ok := errors.AsType[*ConflictError](err); !ok || e.Size != 30 || e.Hint() == "" || e.Error() == "" {
		t.Errorf("the same request again: %v", err)
	}
	if _, err := w.Add(t.Context(), log.request(t, 30, 30)); err != nil {
		t.Errorf("the same checkpoint again: %v", err)
	}
}

// Of requests that run at once and start from one size, those that are
// answered make one growing sequence.
func TestWitnessConcurrent(t *testing.T) {
	log := newWorld("a", 500)
	records := NewMemoryRecords()
	var mu sync.Mutex
	answered := map[uint64]int{}
	var all sync.WaitGroup
	for g := range uint64(8) {
		w := newWitness(t, records) // as several processes have it
		all.Go(func() {
			var old uint64
			for i := range uint64(50) {
				size := min(old+1+(i*7+g)%5, 500)
				_, err := w.Add(t.Context(), log.request(t, old, size))
				if conflict, ok := errors.AsType[*ConflictError](err); ok {
					old = conflict.Size
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if size > old {
					answered[old]++
				}
				mu.Unlock()
				old = size
			}
		})
	}
	all.Wait()
	if len(answered) < 8 {
		t.Errorf("only %d steps", len(answered))
	}
	for old, n := range answered {
		if n != 1 {
			t.Errorf("%d checkpoints were cosigned that continue %d", n, old)
		}
	}
}

// A staleRecords lets another request come between Load and Swap.
type staleRecords struct {
	Records
	between func()
}

func (s *staleRecords) Swap(ctx context.Context, origin string, old, new Record) error {
	if s.between != nil {
		f := s.between
		s.between = nil
		f()
	}
	return s.Records.Swap(ctx, origin, old, new)
}

// The race of tlog-witness: the larger tree is cosigned first.
func TestWitnessRace(t *testing.T) {
	log := newWorld("a", 100)
	records := &staleRecords{Records: NewMemoryRecords()}
	w := newWitness(t, records)
	_, err := w.Add(t.Context(), log.request(t, 0, 10))
	must(t, err)
	records.between = func() {
		_, err := w.Add(t.Context(), log.request(t, 10, 50))
		must(t, err)
	}
	s, err := w.Add(t.Context(), log.request(t, 10, 20))
	if e, ok := errors.AsType[*ConflictError](err); !ok || e.Size != 50 || s != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

// The answers of tlog-witness, "add-checkpoint", in its order.
func TestHandler(t *testing.T) {
	log, fork := newWorld("a", 100), newWorld("b", 100)
	key := signerFor(t, followed, Ed25519)
	var logged bytes.Buffer
	records := &brokenRecords{Records: NewMemoryRecords()}
	w := newWitness(t, records)
	w.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	server := httptest.NewServer(w.Handler())
	defer server.Close()
	post := func(body []byte) (int, string, string) {
		t.Helper()
		resp, err := http.Post(server.URL+"/add-checkpoint", "", bytes.NewReader(body))
		must(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, resp.Header.Get("Content-Type"), string(b)
	}
	body := func(r *AddRequest, change ...func(*AddRequest)) []byte {
		for _, f := range change {
			f(r)
		}
		return r.Marshal()
	}
	with := func(proof ...merkle.Hash) func(*AddRequest) { return func(r *AddRequest) { r.Proof = proof } }
	signedBy := func(c *Checkpoint, signers ...Signer) func(*AddRequest) {
		return func(r *AddRequest) { r.Checkpoint = note(t, c, signers...) }
	}
	empty := &Checkpoint{Origin: followed, Root: merkle.Hash{1}}

	for _, test := range []struct {
		what   string
		body   []byte
		status int
	}{
		{"nothing", nil, 400},
		{"no checkpoint", []byte("old 0\n\n"), 400},
		{"no note", []byte("old 0\n\na\n"), 400},
		{"a note that is no checkpoint", append([]byte("old 0\n\n"), exampleNote...), 400},
		{"a size with zeros", bytes.Replace(body(log.request(t, 0, 10)), []byte("old 0"), []byte("old 00"), 1), 400},
		{"too large", make([]byte, maxRequestSize+1), 413},
		{"an unknown origin", body(log.request(t, 0, 10), signedBy(log.checkpoint(t, "other.example", 10), key)), 404},
		{"an unknown key", body(log.request(t, 0, 10), signedBy(log.checkpoint(t, followed, 10), signerFor(t, "other.example", Ed25519))), 403},
		{"a known key's name and ID", body(log.request(t, 0, 10), func(r *AddRequest) { r.Checkpoint = bytes.Replace(r.Checkpoint, []byte("\n10\n"), []byte("\n11\n"), 1) }), 403},
		{"an old size above the checkpoint's", body(log.request(t, 11, 10)), 400},
		{"an old size that is not cosigned", body(log.request(t, 5, 10)), 409},
		{"no entries and a root", body(log.request(t, 0, 10), signedBy(empty, key)), 422},
		{"a proof from nothing", body(log.request(t, 0, 10), with(merkle.Hash{})), 422},
		{"no entries", body(log.request(t, 0, 0)), 200},
		{"no entries again", body(log.request(t, 0, 0)), 200},
		{"the first", body(log.request(t, 0, 10)), 200},
		{"the same", body(log.request(t, 10, 10)), 200},
		{"the same with a proof", body(log.request(t, 10, 10), with(merkle.Hash{})), 422},
		{"the same again from nothing", body(log.request(t, 0, 10)), 409},
		{"smaller", body(log.request(t, 5, 5)), 409},
		{"a fork at the same size", body(fork.request(t, 10, 10)), 422},
		{"a fork", body(fork.request(t, 10, 20)), 422},
		{"no proof", body(log.request(t, 10, 20), with()), 422},
		{"64 hashes", body(log.request(t, 10, 20), with(make([]merkle.Hash, 64)...)), 400},
		{"63 hashes", body(log.request(t, 10, 20), with(make([]merkle.Hash, 63)...)), 422},
		{"extensions", body(log.request(t, 10, 20), signedBy(&Checkpoint{followed, 20, log.root(t, 20), []string{"x"}}, key)), 200},
		{"the next, and keys of others", body(log.request(t, 20, 100), signedBy(log.checkpoint(t, followed, 100), signerFor(t, "other.example", Ed25519), key)), 200},
	} {
		status, kind, answer := post(test.body)
		if status != test.status {
			t.Errorf("%s: %d %q, want %d", test.what, status, answer, test.status)
			continue
		}
		switch status {
		case 200:
			if lines, err := ParseSignatures([]byte(answer)); err != nil || len(lines) != 1 || !w.Keys()[0].made(lines[0]) {
				t.Errorf("%s: %q, %v", test.what, answer, err)
			}
		case 409:
			stored, err := records.Load(t.Context(), followed)
			must(t, err)
			if kind != "text/x.tlog.size" || answer != fmt.Sprintf("%d\n", stored.Size) {
				t.Errorf("%s: %s %q, want the size %d", test.what, kind, answer, stored.Size)
			}
		}
	}
	if n := strings.Count(logged.String(), "msg=fork"); n != 1 || !strings.Contains(logged.String(), followed) {
		t.Errorf("%d forks in the log: %s", n, logged.String())
	}

	records.load = true
	if status, _, answer := post(log.request(t, 100, 100).Marshal()); status != 500 || strings.Contains(answer, errBroken.Error()) {
		t.Errorf("broken records: %d %q", status, answer)
	}
	if status, _ := get(t, server.URL+"/"+OriginHash(followed)+"/checkpoint"); status != 500 {
		t.Errorf("broken records: %d", status)
	}
	records.load = false
	status, newest := get(t, server.URL+"/"+OriginHash(followed)+"/checkpoint")
	p, err := NewPolicy(followed, []*Key{key.Key()}, []*Key{w.Keys()[0]}, 1)
	must(t, err)
	if s, err := p.Open([]byte(newest)); status != 200 || err != nil || s.Size != 100 || strings.Contains(newest, "other.example") {
		t.Errorf("the newest checkpoint: %d %q, %v", status, newest, err)
	}
	for _, path := range []string{"/" + OriginHash("other.example") + "/checkpoint", "/x/checkpoint", "/add-checkpoint/x"} {
		if status, _ := get(t, server.URL+path); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, _ := get(t, server.URL+"/add-checkpoint"); status != 405 {
		t.Errorf("GET: %d", status)
	}
	if status, _ := get(t, httptestServer(t, newWitness(t, NewMemoryRecords()))+"/"+OriginHash(followed)+"/checkpoint"); status != 404 {
		t.Errorf("before the first checkpoint: %d", status)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(b)
}

func httptestServer(t *testing.T, w *Witness) string {
	t.Helper()
	server := httptest.NewServer(w.Handler())
	t.Cleanup(server.Close)
	return server.URL
}

// What is wrong with the witness is not said to be wrong with the checkpoint.
func TestWitnessSigner(t *testing.T) {
	log := newWorld("a", 10)
	key := signerFor(t, "witness.example", CosignatureV1).Key()
	for what, signer := range map[string]Signer{
		"a signer that fails":    &caSigner{key: key},
		"a signer with no right": impostor{key, signerFor(t, "x", CosignatureV1)},
	} {
		records := NewMemoryRecords()
		_, err := newWitness(t, records, signer).Add(t.Context(), log.request(t, 0, 10))
		if err == nil || status(err) != http.StatusInternalServerError {
			t.Errorf("%s: %d, %v", what, status(err), err)
		}
		if r, _ := records.Load(t.Context(), followed); r.Checkpoint != nil {
			t.Errorf("%s: the record is %+v", what, r)
		}
	}
	// A cosigner of the draft may be a witness for issuance logs.
	w, err := NewWitness(WitnessConfig{
		Signers: []Signer{newCASigner(t, elliptic.P256())}, Records: NewMemoryRecords(), Now: time.Now,
		Logs: []*Policy{policy(t, logOrigin(t), signerFor(t, "log", Ed25519))},
	})
	must(t, err)
	c := log.checkpoint(t, logOrigin(t), 10)
	s, err := w.Add(t.Context(), &AddRequest{Checkpoint: note(t, c, signerFor(t, "log", Ed25519))})
	must(t, err)
	_, err = w.Keys()[0].Verify(c, s[0])
	must(t, err)
}

func TestNewWitnessRefuses(t *testing.T) {
	p := policy(t, followed, signerFor(t, followed, Ed25519))
	good := WitnessConfig{Signers: []Signer{signerFor(t, "w", CosignatureV1)}, Logs: []*Policy{p}, Records: NewMemoryRecords(), Now: time.Now}
	for what, change := range map[string]func(*WitnessConfig){
		"no signer":     func(c *WitnessConfig) { c.Signers = nil },
		"no records":    func(c *WitnessConfig) { c.Records = nil },
		"no clock":      func(c *WitnessConfig) { c.Now = nil },
		"a log's key":   func(c *WitnessConfig) { c.Signers = []Signer{signerFor(t, "w", Ed25519)} },
		"one key twice": func(c *WitnessConfig) { c.Signers = append(c.Signers, signerFor(t, "w", CosignatureV1)) },
		"one log twice": func(c *WitnessConfig) { c.Logs = []*Policy{p, p} },
	} {
		c := good
		change(&c)
		if _, err := NewWitness(c); err == nil {
			t.Errorf("a witness with %s", what)
		}
	}
}

func TestWitnessClient(t *testing.T) {
	log := newWorld("a", 1000)
	w := newWitness(t, NewMemoryRecords())
	url := httptestServer(t, w)
	client, err := NewWitnessClient(url+"/", w.Keys(), nil)
	must(t, err)
	var proofs []uint64
	prove := func(size uint64) func(context.Context, uint64) ([]merkle.Hash, error) {
		return func(ctx context.Context, old uint64) ([]merkle.Hash, error) {
			proofs = append(proofs, old)
			return log.open(t, size, nil).Consistency(ctx, merkle.Subtree{End: old}, size)
		}
	}
	cosign := func(c *WitnessClient, size uint64) error {
		t.Helper()
		s, err := c.Cosign(t.Context(), log.signed(t, size), prove(size))
		if err == nil {
			_, err := w.Keys()[0].Verify(log.checkpoint(t, followed, size), s[0])
			must(t, err)
		}
		return err
	}
	for _, size := range []uint64{10, 10, 300} {
		must(t, cosign(client, size))
	}
	// Another process has cosigned more, and a new client knows nothing.
	other, err := NewWitnessClient(url, w.Keys(), http.DefaultClient)
	must(t, err)
	must(t, cosign(other, 600))
	must(t, cosign(client, 1000))
	if want := []uint64{10, 10, 300, 300, 600}; !slices.Equal(proofs, want) {
		t.Errorf("proofs from %v, want %v", proofs, want)
	}
	// The witness is ahead.
	for _, c := range []*WitnessClient{client, other} {
		if e, ok := errors.AsType[*ConflictError](cosign(c, 500)); !ok || e.Size != 1000 {
			t.Errorf("a smaller checkpoint: %v", e)
		}
	}
	no := errors.New("no proof")
	if _, err := client.Cosign(t.Context(), log.signed(t, 1000), func(context.Context, uint64) ([]merkle.Hash, error) { return nil, no }); !errors.Is(err, no) {
		t.Error(err)
	}
	for _, f := range []func([]byte) error{
		func(b []byte) error { _, err := client.Cosign(t.Context(), b, nil); return err },
		func(b []byte) error { _, err := client.Add(t.Context(), &AddRequest{Checkpoint: b}); return err },
	} {
		if err := f(nil); !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
	}
	if _, err := NewWitnessClient("x", w.Keys(), nil); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, err := NewWitnessClient(url, []*Key{signerFor(t, "log", Ed25519).Key()}, nil); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// Witnesses that answer nonsense.
func TestWitnessClientRefuses(t *testing.T) {
	log := newWorld("a", 10)
	key := signerFor(t, "witness.example", CosignatureV1)
	line := func(s Signer, size uint64) string {
		l, err := Sign(t.Context(), s, log.checkpoint(t, followed, size), testTime)
		must(t, err)
		return l.Line()
	}
	var answer atomic.Value // http.HandlerFunc
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { answer.Load().(http.HandlerFunc)(rw, r) }))
	defer server.Close()
	client, err := NewWitnessClient(server.URL, []*Key{key.Key()}, nil)
	must(t, err)
	say := func(status int, kind, body string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", kind)
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, body)
		}
	}
	add := func() error {
		_, err := client.Add(t.Context(), log.request(t, 0, 10))
		return err
	}
	answer.Store(say(200, textType, line(signerFor(t, "other", CosignatureV1), 10)+line(key, 10)))
	must(t, add())
	for what, h := range map[string]http.HandlerFunc{
		"nothing":                   say(200, textType, ""),
		"no line":                   say(200, textType, "yes\n"),
		"others only":               say(200, textType, line(signerFor(t, "other", CosignatureV1), 10)),
		"another checkpoint's":      say(200, textType, line(key, 9)),
		"another success":           say(204, textType, ""),
		"a conflict without a type": say(409, textType, "5\n"),
		"a conflict without a size": say(409, sizeType, "many\n"),
		"too much":                  say(200, textType, strings.Repeat("x", MaxNoteSize+1)),
		"nobody there":              func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		answer.Store(h)
		if add() == nil {
			t.Error(what)
		}
	}
	// A witness that never stays where it says it is, is asked twice.
	var asked atomic.Int64
	answer.Store(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		say(409, sizeType, fmt.Sprintf("%d\n", asked.Add(1)))(rw, r)
	}))
	prove := func(_ context.Context, old uint64) ([]merkle.Hash, error) {
		return log.tree.Consistency(merkle.Subtree{End: old}, 10)
	}
	_, err = client.Cosign(t.Context(), log.signed(t, 10), prove)
	if _, ok := errors.AsType[*ConflictError](err); !ok || asked.Load() != 2 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}

	hints := map[string]bool{}
	for _, status := range []int{400, 403, 404, 422, 500} {
		answer.Store(say(status, textType, "because\n"))
		e, ok := errors.AsType[*RefusalError](add())
		if !ok || e.Status != status || e.Reason != "because" || e.Error() == "" {
			t.Errorf("%d: %+v", status, e)
			continue
		}
		hints[e.Hint()] = true
	}
	if len(hints) != 4 {
		t.Errorf("hints %v", slices.Collect(maps.Keys(hints)))
	}
}
