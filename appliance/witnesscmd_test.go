package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

// A twoFaced CA signs two histories of one log, which part after some entries.
type twoFaced struct {
	t         *testing.T
	key       *ecdsa.PrivateKey
	signer    tlog.Signer
	origin    string
	histories [2]merkle.Tree
}

const commonEntries = 20

func newTwoFaced(t *testing.T) *twoFaced {
	t.Helper()
	f := &twoFaced{t: t, key: newP256(t)}
	id, err := merkle.ParseTrustAnchorID("32473.1.1")
	if err != nil {
		t.Fatal(err)
	}
	public, err := tlog.NewCosignerKey(id, &f.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if f.signer, err = tlog.NewECDSASigner(public, f.key); err != nil {
		t.Fatal(err)
	}
	f.origin = merkle.LogID(id, 1).Origin()
	for h := range f.histories {
		for i := range 2000 {
			face := 0
			if i >= commonEntries {
				face = h
			}
			f.histories[h].Append(merkle.HashLeaf(fmt.Appendf(nil, "%d of %d", i, face)))
		}
	}
	return f
}

func newP256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// PublicKey and Sign make it a chancery.Signer.
func (f *twoFaced) PublicKey() chancery.PublicKey { return publicKey(f.t, f.key) }

func publicKey(t *testing.T, key *ecdsa.PrivateKey) chancery.PublicKey {
	t.Helper()
	k, err := chancery.NewPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (f *twoFaced) Sign(_ context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	h := chancery.P256.Hash().New()
	h.Write(chancery.Message(fleet, chancery.P256, s))
	b, err := ecdsa.SignASN1(rand.Reader, f.key, h.Sum(nil))
	if err != nil {
		return nil, err
	}
	return chancery.NewSignatureASN1(chancery.P256, b)
}

// pointer is the fleet's pointer record.
func (f *twoFaced) pointer() *chancery.Pointer {
	f.t.Helper()
	now := time.Now().Truncate(time.Second).UTC()
	p := &chancery.Pointer{
		Genesis:     chancery.Genesis{CA: f.PublicKey(), NextCA: publicKey(f.t, newP256(f.t)).Fingerprint(), Created: now},
		Seq:         1,
		Issued:      now,
		Expires:     now.AddDate(0, 1, 0),
		TrustDomain: "fleet.example",
		MinSuite:    chancery.P256,
		MaxLife:     time.Hour,
		Approval:    publicKey(f.t, newP256(f.t)),
		Endpoints:   []chancery.Endpoint{{URL: "https://coordinator.example:8443", Pins: [][32]byte{{1}}}},
	}
	p.Keys = []chancery.CAKey{{Key: f.PublicKey(), State: chancery.CAKeyCurrent, Created: now, ID: f.signer.Key().CosignerID(), Logs: []uint16{1}}}
	var err error
	if p.Keys[0].CAS, err = f.Sign(f.t.Context(), p.FleetID(), chancery.CASelf{Key: f.PublicKey(), Created: now}); err != nil {
		f.t.Fatal(err)
	}
	if p.Signature, err = f.Sign(f.t.Context(), p.FleetID(), p); err != nil {
		f.t.Fatal(err)
	}
	return p
}

// checkpoint is one history's at a size.
func (f *twoFaced) checkpoint(history int, size uint64) (*tlog.Checkpoint, []byte, error) {
	root, err := f.histories[history].Subtree(merkle.Subtree{End: size})
	if err != nil {
		return nil, nil, err
	}
	c := &tlog.Checkpoint{Origin: f.origin, Size: size, Root: root}
	line, err := tlog.Sign(context.Background(), f.signer, c, uint64(time.Now().Unix()))
	if err != nil {
		return nil, nil, err
	}
	text, err := c.Text()
	if err != nil {
		return nil, nil, err
	}
	b, err := (&tlog.Note{Text: text, Signatures: []tlog.Signature{line}}).Marshal()
	return c, b, err
}

// A witness that is killed at any moment, between its cosignature and its answer
// too, and asked by a CA with two histories all the time, cosigns one of them.
func TestWitnessKilled(t *testing.T) {
	f := newTwoFaced(t)
	dir := filepath.Join(t.TempDir(), "w")
	p := f.pointer()
	file := filepath.Join(t.TempDir(), "pointer")
	if err := os.WriteFile(file, p.Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	chancery := func(args ...string) (w witnessInfo) {
		t.Helper()
		cmd := exec.Command("chancery", append([]string{"witness", "--dir", dir, "-o", "json"}, args...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err == nil {
			err = json.Unmarshal(out, &w)
		}
		if err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
		return w
	}
	w := chancery("init", "--name", "witness.example", "--id", "32473.9")
	chancery("add", "--pin", p.FleetID().Pin(), file)
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	var keys []*tlog.Key
	for _, vkey := range w.Keys {
		k, err := tlog.ParseKey(vkey)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}

	ctx, end := context.WithCancel(t.Context())
	var mu sync.Mutex
	var greatest [2]uint64 // cosigned sizes, by history
	cosignatures := 0
	var asking sync.WaitGroup
	for g := range 6 {
		history := g % 2
		asking.Go(func() {
			client, err := tlog.NewWitnessClient("http://"+address, keys, &http.Client{Timeout: time.Second})
			if err != nil {
				t.Error(err)
				return
			}
			prove := func(size uint64) func(context.Context, uint64) ([]merkle.Hash, error) {
				return func(_ context.Context, old uint64) ([]merkle.Hash, error) {
					return f.histories[history].Consistency(merkle.Subtree{End: old}, size)
				}
			}
			for size := uint64(1); ctx.Err() == nil; {
				_, note, err := f.checkpoint(history, size)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = client.Cosign(ctx, note, prove(size))
				switch conflict, ahead := errors.AsType[*tlog.ConflictError](err); {
				case err == nil:
					mu.Lock()
					greatest[history] = max(greatest[history], size)
					cosignatures++
					mu.Unlock()
					size++
				case ahead:
					size = conflict.Size + 1
				case errors.Is(err, syscall.ECONNREFUSED):
					time.Sleep(time.Millisecond) // it is dead
				}
			}
		})
	}
	reached := func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return max(greatest[0], greatest[1])
	}
	for round := range 12 {
		before := reached()
		cmd := exec.Command("chancery", "witness", "serve", "--dir", dir, "--listen", address, "--rate", "0")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			c, err := net.Dial("tcp", address)
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(until) {
				t.Fatal(err)
			}
		}
		// It gets some work done, and the end comes at any moment after that.
		for until := time.Now().Add(time.Minute); reached() == before && time.Now().Before(until); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(7*round) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		cmd.Wait()
		// What was answered is in the records, whenever the end came.
		shown := chancery("show").Logs[0]
		answered := reached()
		if shown.Origin != f.origin || shown.Size < answered {
			t.Fatalf("after the kill %d the witness knows of %d entries, and has cosigned %d", round, shown.Size, answered)
		}
	}
	end()
	asking.Wait()
	if min(greatest[0], greatest[1]) > commonEntries {
		t.Errorf("two histories were cosigned, one up to %d entries and the other up to %d", greatest[0], greatest[1])
	}
	if max(greatest[0], greatest[1]) <= commonEntries {
		t.Errorf("only %d entries were cosigned: the histories have not parted", max(greatest[0], greatest[1]))
	}
	t.Logf("%d cosignatures, up to %d entries of one history and %d of the other", cosignatures, greatest[0], greatest[1])
}

// Which logs a witness cosigns follows from the pointer records.
func TestCosignedLogs(t *testing.T) {
	f := newTwoFaced(t)
	p := f.pointer()
	origins := func(pointers ...*chancery.Pointer) (names []string) {
		policies, err := cosignedLogs(pointers)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range policies {
			names = append(names, p.Origin())
		}
		return names
	}
	id := p.Keys[0].ID
	log := func(n uint16) string { return merkle.LogID(id, n).Origin() }
	audit := chancery.AuditOrigin(p.FleetID(), id)
	for _, test := range []struct {
		numbers []uint16
		want    []string
	}{
		{[]uint16{1}, []string{log(1), log(2), log(3), log(4), audit}},
		{[]uint16{1, 5}, []string{log(1), log(5), log(6), log(7), log(8), audit}},
		{[]uint16{math.MaxUint16 - 1}, []string{log(math.MaxUint16 - 1), log(math.MaxUint16), audit}},
		{[]uint16{math.MaxUint16}, []string{log(math.MaxUint16), audit}},
	} {
		p.Keys[0].Logs = test.numbers
		if got := origins(p); fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("logs %v: %v, want %v", test.numbers, got, test.want)
		}
	}
	p.Keys[0].State = chancery.CAKeyRevoked
	if got := origins(p); len(got) != 0 {
		t.Errorf("of a revoked CA key: %v", got)
	}
	// Two fleets with one CA id have one name for two logs.
	p.Keys[0].State = chancery.CAKeyCurrent
	if _, err := cosignedLogs([]*chancery.Pointer{p, newTwoFaced(t).pointer()}); err != nil {
		t.Error(err) // numbers apart: the greatest, and from 1
	}
	p.Keys[0].Logs = []uint16{1}
	if _, err := cosignedLogs([]*chancery.Pointer{p, newTwoFaced(t).pointer()}); err == nil {
		t.Error("two fleets have one log")
	}
}

// One address does not take the witness for itself, and what it sends is
// bounded. Whoever is slow takes no room.
func TestWitnessLimits(t *testing.T) {
	working, free := make(chan struct{}, 2*maxWitnessRequests), make(chan struct{})
	h := limited(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			working <- struct{}{}
			<-free
		}
	}), 1)
	ask := func(address, path string, body io.Reader) int {
		r := httptest.NewRequest("POST", path, body)
		r.RemoteAddr = address + ":1"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	counts := map[int]int{}
	for range 30 {
		counts[ask("192.0.2.1", "/", nil)]++
	}
	if counts[200] < 10 || counts[200] > 12 || counts[429] != 30-counts[200] {
		t.Errorf("answers to one address: %v", counts)
	}
	if code := ask("192.0.2.2", "/", nil); code != 200 {
		t.Errorf("another address: %d", code)
	}
	if code := ask("192.0.2.3", "/", bytes.NewReader(make([]byte, maxWitnessBody+1))); code != 413 {
		t.Errorf("too large: %d", code)
	}
	var all sync.WaitGroup
	for i := range maxWitnessRequests {
		all.Go(func() { ask(fmt.Sprintf("198.51.100.%d", i), "/wait", nil) })
	}
	for range maxWitnessRequests {
		<-working
	}
	if code := ask("192.0.2.4", "/", nil); code != 503 {
		t.Errorf("busy: %d", code)
	}
	close(free)
	all.Wait()
	slow, writer := io.Pipe()
	all.Go(func() { ask("192.0.2.5", "/", slow) })
	if code := ask("192.0.2.6", "/", nil); code != 200 {
		t.Errorf("beside one who is slow: %d", code)
	}
	writer.Close()
	all.Wait()
}
