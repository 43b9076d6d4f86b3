package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	nodes "github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/internal/scripttest"
	"github.com/chancery-pki/chancery/simulator/swtpm"
)

// full tells whether there is time for more than a first look: make test-full.
func full() bool { return os.Getenv("CHANCERY_FULL") == "1" }

// A storm is a coordinator with machines that enrol and an operator that
// revokes, all at the same time, and a plug that is pulled.
type storm struct {
	t *testing.T
	*coordinator
	witness  *witness
	token    chancery.Token
	random   *rand.Rand // used by one goroutine
	machines []*machine
	made     int
	audited  uint64

	kills    int
	unsigned map[string]int
}

// Killing the coordinator at any moment loses no acknowledged certificate and
// no acknowledged revocation.
func TestKilled(t *testing.T) {
	s := newStorm(t)
	rounds, revokeNode := 60, 10
	if full() {
		rounds = 600
	}
	for round := range rounds {
		s.round(round%revokeNode == revokeNode-1)
	}
	if _, err := s.witness.audit(s.coordinator, 0); err != nil {
		t.Fatal(err)
	}
	s.kill()
	w := s.witness
	t.Logf("%d kills, which left messages unsigned: %v; %d certificates, %d certificates and %d nodes revoked, CRL number %d", s.kills, s.unsigned,
		len(w.certificates), len(w.acknowledged.indexes), len(w.acknowledged.nodes), w.current.Head().Number)
	if len(w.certificates) < rounds || len(w.acknowledged.indexes) < rounds/3 || len(w.acknowledged.nodes) == 0 {
		t.Error("the storm was too calm to say anything")
	}
	b, err := os.ReadFile(s.logFile())
	if err != nil || strings.Contains(string(b), "DATA RACE") || strings.Contains(string(b), "level=ERROR") {
		t.Errorf("the coordinator's log, %v:\n%s", err, s.lastWords())
	}
	t.Run("doctored", s.doctored)
}

func newStorm(t *testing.T) *storm {
	t.Helper()
	needSimulators(t)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("CHANCERY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("CHANCERY_SEED: %v", err)
		}
	}
	t.Logf("seed %d; CHANCERY_SEED=%d repeats the moments, if not what they hit", seed, seed)
	dir := t.TempDir()
	s := &storm{t: t, coordinator: &coordinator{dir: filepath.Join(dir, "data")}, random: rand.New(rand.NewPCG(seed, 0)), unsigned: map[string]int{}}
	t.Cleanup(s.kill)

	// The maker of the chips is known once there is a chip.
	first, err := swtpm.Manufacture(filepath.Join(dir, "chips"), "maker", filepath.Join(dir, "manufacturer"))
	if err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(first)
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.chancery("init", "--simulator", "--url", "https://"+address, "--listen", address, "--simulator-roots", strings.Join(swtpm.Roots(filepath.Join(dir, "manufacturer")), ","))
	err = errors.Join(err, s.configure("heartbeat", "'30ms'"), s.configure("enroll_rate", "0.0"))
	if err == nil {
		err = os.CopyFS(s.whole(), os.DirFS(filepath.Join(dataDir(s.dir).softhsm(), "tokens")))
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(dataDir(s.dir).pointer())
	if err != nil {
		t.Fatal(err)
	}
	pointer, err := chancery.ParsePointer(b)
	if err != nil {
		t.Fatal(err)
	}
	s.witness = newWitness(pointer)
	for range 3 {
		s.addMachine()
	}
	s.up()
	if err := s.witness.serves(s.coordinator); err != nil { // nobody takes a certificate without a list
		t.Fatal(err)
	}
	out, err := s.chancery("token", "create", "--name", "*", "--uses", "1000000", "--life", "100h", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var token api.TokenOutput
	if err := json.Unmarshal(out, &token); err != nil {
		t.Fatal(err)
	}
	if s.token, err = chancery.ParseToken(token.Token); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *storm) addMachine() {
	s.t.Helper()
	s.made++
	m, err := newMachine(filepath.Dir(s.dir), fmt.Sprintf("edge-%d", s.made), s.witness.pointer)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { m.off() })
	s.machines = append(s.machines, m)
}

// up starts the coordinator and waits for it.
func (s *storm) up() {
	s.t.Helper()
	err := s.start()
	if err == nil {
		err = s.ready()
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// A moment is when a life ends: so long after the n-th of an event, or after
// the start if there is no event.
type moment struct {
	event event
	n     int32
	after time.Duration
}

// moment chooses one. What is between an event and its answer takes
// milliseconds; a life, less than half a second.
func (s *storm) moment() moment {
	up := func(d time.Duration) time.Duration { return time.Duration(s.random.Int64N(int64(d))) }
	n := 1 + s.random.Int32N(8)
	switch s.random.IntN(6) {
	case 0:
		return moment{submitting, n, up(10 * time.Millisecond)}
	case 1:
		return moment{certified, n, 0}
	case 2:
		return moment{asking, n, up(5 * time.Millisecond)}
	case 3:
		return moment{acknowledged, n, 0}
	}
	return moment{after: up(400 * time.Millisecond)}
}

// round is one life of the coordinator, from which it is torn, and the audit
// after the next start.
func (s *storm) round(revokeNode bool) {
	s.t.Helper()
	s.kill()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
	// One in six does not get as far as to serve: what the last kill left
	// unsigned is being signed then.
	m := s.moment()
	if m.event == "" && s.random.IntN(2) == 0 {
		m.after /= 5
	} else if err := s.ready(); err != nil {
		s.t.Fatal(err)
	}
	victim := ""
	if revokeNode {
		victim = s.machines[0].name
	}
	reached := make(chan struct{})
	var left atomic.Int32
	left.Store(m.n)
	s.witness.saw = func(e event) {
		if e != m.event || left.Add(-1) != 0 {
			return
		}
		if m.after == 0 { // with no way through another goroutine
			s.kill()
		}
		close(reached)
	}
	var over atomic.Bool
	defer over.Store(true)
	var traffic sync.WaitGroup
	for _, m := range s.machines {
		traffic.Go(func() { s.enrol(m, &over) })
	}
	revoker := rand.New(rand.NewPCG(s.random.Uint64(), 1))
	traffic.Go(func() { s.revoke(revoker, victim, &over) })
	traffic.Go(func() { s.follow(&over) })
	traffic.Go(func() { s.verifyLog(&over) })
	if m.event != "" {
		select {
		case <-reached:
		case <-time.After(scripttest.Patience):
			s.t.Fatalf("%s: not %d times", m.event, m.n)
		}
	}
	time.Sleep(m.after)
	s.kill()
	over.Store(true)
	traffic.Wait()
	s.witness.saw = nil
	s.mendToken()
	s.kills++
	s.countUnsigned()

	s.up()
	size, err := s.witness.audit(s.coordinator, s.audited)
	if err != nil {
		s.t.Fatalf("kill %d, %s after %q number %d: %v\n%s", s.kills, m.after, m.event, m.n, err, s.lastWords())
	}
	s.audited = size
	if revokeNode {
		s.replace(victim)
	}
}

// mendToken puts the token back. SoftHSM lives in the process that is killed and
// rewrites its file at every login, so that a kill can leave an empty one. A
// token that is a device of its own does not lose its keys with a client.
func (s *storm) mendToken() {
	s.t.Helper()
	tokens := filepath.Join(dataDir(s.dir).softhsm(), "tokens")
	if err := errors.Join(os.RemoveAll(tokens), os.CopyFS(tokens, os.DirFS(s.whole()))); err != nil {
		s.t.Fatal(err)
	}
}

// whole is where a copy of the token is, as init has left it.
func (s *storm) whole() string { return s.dir + "-token" }

// replace takes a node out for good, and its chip, which is of no more use.
func (s *storm) replace(victim string) {
	s.t.Helper()
	// An operator whose answer was cut off asks again.
	err := s.witness.revoke(s.coordinator, "/v1/nodes/"+victim, func(p promises) { p.nodes[victim] = true })
	p, ok := errors.AsType[*chancery.Problem](err)
	switch {
	case ok && p.Code == "revoked":
		s.witness.acknowledged.nodes[victim] = true
	case ok && p.Code == "not-found": // it never enrolled
	case err != nil:
		s.t.Fatal(err)
	}
	if err := s.machines[0].off(); err != nil {
		s.t.Error(err)
	}
	s.machines = s.machines[1:]
	s.addMachine()
}

// enrol has a machine enrol again and again. That the coordinator is away, or
// has revoked the machine, is none of its business.
func (s *storm) enrol(m *machine, over *atomic.Bool) {
	for !over.Load() {
		if m.enrol(s.witness, &s.token) != nil {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// revoke revokes certificates that nodes have in hand, one in three, and the
// victim, if there is one. Errors are those of a coordinator that was killed.
func (s *storm) revoke(random *rand.Rand, victim string, over *atomic.Bool) {
	w := s.witness
	for n := 0; !over.Load(); n++ {
		time.Sleep(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
		if victim != "" && n == 2 {
			w.revoke(s.coordinator, "/v1/nodes/"+victim, func(p promises) { p.nodes[victim] = true })
		} else if nc := w.revocable(); nc != nil {
			w.revoke(s.coordinator, "/v1/certificates/"+nc.Serial.String(), func(p promises) { p.indexes[nc.Serial.Index()] = true })
		}
	}
}

// follow keeps the CRL as a node does, from delta to delta. What it holds
// outlives the coordinator.
func (s *storm) follow(over *atomic.Bool) {
	var conn *nodes.Conn
	for !over.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), scripttest.Patience)
		err := error(nil)
		if conn == nil {
			conn, err = nodes.Dial(ctx, s.witness.pointer, nil)
		}
		if err == nil {
			held, due := s.witness.list(), s.witness.promised()
			after := uint64(0)
			if held != nil {
				after = held.Head().Number
			}
			var b []byte
			if b, _, err = conn.CRL(ctx, after, time.Second); err == nil && b != nil {
				s.witness.crl(held, due, b)
			}
		}
		cancel()
		if err != nil {
			if conn != nil {
				conn.Close()
				conn = nil
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if conn != nil {
		conn.Close()
	}
}

// verifyLog audits the log of a coordinator that is at work.
func (s *storm) verifyLog(over *atomic.Bool) {
	for !over.Load() {
		if _, err := s.chancery("log", "verify"); err != nil && strings.Contains(err.Error(), "does not verify") {
			s.witness.fault("at work: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// countUnsigned counts the kills that left a message committed and unsigned,
// by the kind of message.
func (s *storm) countUnsigned() {
	s.t.Helper()
	query(s.t, s.dir, func(db *sql.DB) error {
		for _, table := range []string{"subtrees", "crls", "checkpoints"} {
			var there bool
			if err := db.QueryRow(`SELECT EXISTS (SELECT 1 FROM ` + table + ` WHERE signature IS NULL)`).Scan(&there); err != nil {
				return err
			}
			if there {
				s.unsigned[table]++
			}
		}
		return nil
	})
}

// query opens the database of a coordinator that does not run.
func query(t *testing.T, dir string, f func(*sql.DB) error) {
	t.Helper()
	db, err := sql.Open("sqlite", dataDir(dir).store())
	if err == nil {
		err = errors.Join(f(db), db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// doctored shows that the audit sees what it is there to see. Either the
// database is what a coordinator that lost something would have, or the witness
// has seen what the coordinator never said.
func (s *storm) doctored(t *testing.T) {
	held := s.witness.list().Head().Number
	newest := slices.Max(slices.Collect(maps.Keys(s.witness.certificates)))
	for _, test := range []struct {
		name string
		sql  string
		lie  func(*witness)
		want string
		// anchored: without the audit, the coordinator itself notices, and does
		// not start while its anchor is there.
		anchored bool
	}{
		{name: "as it is"},
		{name: "newest certificate lost", sql: fmt.Sprintf(`
			DELETE FROM subtrees WHERE tree_end > %d;
			DELETE FROM entries WHERE idx >= (SELECT MAX(tree_end) FROM subtrees);
			DELETE FROM checkpoints;`, newest), want: "no certificate has the serial number", anchored: true},
		{name: "hole in the log", sql: `DELETE FROM entries WHERE idx = 1`, want: "has a gap"},
		{name: "signature lost", sql: `DELETE FROM subtrees WHERE batch_start = 0`, want: "does not verify"},
		{name: "key of another", sql: `
			UPDATE entries SET spki = (SELECT spki FROM entries AS other WHERE other.spki <> entries.spki LIMIT 1) WHERE idx = 0`, want: "does not verify"},
		{name: "certificate changed", lie: func(w *witness) {
			der := bytes.Clone(w.certificates[0].Raw())
			der[len(der)-1] ^= 1
			w.certificates[0], _ = chancery.ParseCertificate(der)
		}, want: "certificate 1:0 is not the one that edge-"},
		{name: "all revocations forgotten", sql: `DELETE FROM revoked; DELETE FROM crls;`, want: "CRL is older than the one held", anchored: true},
		{name: "one revocation forgotten", lie: func(w *witness) {
			for index, nc := range w.certificates {
				if !w.asked.cover(nc) {
					w.asked.indexes[index], w.acknowledged.indexes[index] = true, true
					return
				}
			}
		}, want: "has forgotten the revocation"},
		{name: "revocation out of nowhere", lie: func(w *witness) {
			clear(w.asked.indexes)
			clear(w.acknowledged.indexes)
		}, want: "for which nobody asked"},
		{name: "newest lists lost", sql: fmt.Sprintf(`DELETE FROM crls WHERE number > %d - 8`, held), want: "CRL is older than the one held", anchored: true},
		{name: "newest list made twice", sql: fmt.Sprintf(`DELETE FROM crls WHERE number >= %d`, held), want: "two CRLs of one number differ", anchored: true},
		{name: "list seen that never was", lie: func(w *witness) {
			for n := range uint64(100) {
				w.heads[held+n] = [32]byte{1}
			}
		}, want: "has two heads"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &coordinator{dir: filepath.Join(t.TempDir(), "data")}
			os.Remove(dataDir(s.dir).socket()) // the killed one's, which cannot be copied
			if err := os.CopyFS(c.dir, os.DirFS(s.dir)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.kill)
			// With another life a list with the number of a lost one is not by
			// chance the same.
			err := errors.Join(c.configure("heartbeat", "'10m'"), c.configure("crl_life", "'2h0m0s'"))
			if err != nil {
				t.Fatal(err)
			}
			query(t, c.dir, func(db *sql.DB) error {
				_, err := db.Exec(test.sql)
				return err
			})
			w := s.witness.clone()
			if test.lie != nil {
				test.lie(w)
			}
			if test.anchored {
				if err := errors.Join(c.start(), c.ready()); err == nil || !strings.Contains(err.Error(), "the database is an older copy") {
					t.Errorf("with its anchor the coordinator says %v", err)
				}
			}
			query(t, c.dir, func(db *sql.DB) error {
				_, err := db.Exec(`DELETE FROM settings WHERE name = 'anchored'`)
				return errors.Join(err, os.Remove(filepath.Join(c.dir, "anchor")))
			})
			err = c.start()
			if err == nil {
				err = c.ready()
			}
			if err == nil {
				_, err = w.audit(c, 0)
			}
			if test.want == "" && err != nil {
				t.Fatal(err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("the audit says %v, want %q", err, test.want)
			}
		})
	}
}
