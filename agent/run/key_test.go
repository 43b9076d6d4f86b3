package run

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/simulator/fleet"
	"github.com/chancery-pki/chancery/tpm"
)

// wantIdentity checks that what the node presents would be accepted.
func wantIdentity(t *testing.T, a *agent) *chancery.Identity {
	t.Helper()
	id, err := a.present()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.verifier.Verify([][]byte{id.Session, id.NC.Raw()}, a.config.Name, chancery.NodeID{}, chancery.Policy{}, a.clock()); err != nil {
		t.Fatal(err)
	}
	return id
}

// A session key is good for an hour and replaced after half of that.
func TestSessionCertificate(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{CRLLife: 48 * time.Hour})
	m := enrol(t, c, "edge-1")
	var clock time.Duration
	a := m.agent(&clock)
	if _, err := a.present(); !errors.Is(err, errNoSession) {
		t.Errorf("before the first: %v", err)
	}
	keep := func() *chancery.Identity {
		t.Helper()
		if err := a.keepSession(t.Context()); err != nil {
			t.Fatal(err)
		}
		return wantIdentity(t, a)
	}
	first := keep()
	if keep() != first {
		t.Error("replaced at once")
	}
	clock = chancery.DefaultSessionLife/2 - 5*time.Second
	if keep() != first {
		t.Error("replaced before half of its life")
	}
	clock = chancery.DefaultSessionLife / 2
	if keep() == first {
		t.Error("not replaced after half of its life")
	}
	clock += chancery.DefaultSessionLife + time.Second
	if _, err := a.present(); err == nil {
		t.Error("an ended one is presented")
	}
	keep()
}

// One that ends with N:C is not replaced again and again towards that end.
func TestLastSessionCertificate(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{Life: 30 * time.Minute})
	m := enrol(t, c, "edge-1")
	var clock time.Duration
	a := m.agent(&clock)
	if err := a.keepSession(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := wantIdentity(t, a)
	if s := a.identity.Load(); !s.notAfter.Equal(a.nc.Load().NotAfter) {
		t.Errorf("it ends at %s, N:C at %s", s.notAfter, a.nc.Load().NotAfter)
	}
	clock = 29 * time.Minute
	if err := a.keepSession(t.Context()); err != nil || wantIdentity(t, a) != last {
		t.Errorf("another one (%v)", err)
	}
}

// The agent renews N:C at half of its life, with the same key; a held renewal
// is a problem and goes through once it is approved.
func TestRenewal(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{Life: 8 * time.Second})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	key := one.nodeKey()
	one.startReady()
	two.startReady()
	serial := one.status().Certificate.Serial
	one.eventually("it has renewed", func() bool { return one.status().Certificate.Serial != serial })
	two.eventually("it has renewed", func() bool { return c.Calls("POST /v1/renew") >= 2 })
	if !one.nodeKey().Equal(key) {
		t.Error("another key")
	}
	one.wantPing(two)

	c.Misbehave(testcoordinator.Faults{Hold: true})
	one.wantProblem(topicRenewal, "approve edge-1")
	serial = one.status().Certificate.Serial
	c.Misbehave(testcoordinator.Faults{})
	if err := c.Approve("edge-1"); err != nil {
		t.Fatal(err)
	}
	one.eventually("it has renewed", func() bool { return one.status().Certificate.Serial != serial })
	one.eventually("the renewal is no problem", func() bool { return one.status().Problems[topicRenewal] == "" })
}

// A renewal that goes wrong leaves the certificate as it was.
func TestBadRenewal(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	stranger, err := fleet.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	var clock time.Duration
	a := m.agent(&clock)
	if err := a.keepSession(t.Context()); err != nil {
		t.Fatal(err)
	}
	held := onDisk(t, m, "nc.der")
	r := &renewal{agent: a, pause: pause{longest: time.Minute}}
	for _, test := range []struct {
		name   string
		faults testcoordinator.Faults
		says   string
	}{
		{"not our coordinator", testcoordinator.Faults{Signer: stranger}, chancery.ErrNotOurCoordinator.Error()},
		{"another key in N:C", testcoordinator.Faults{Subject: func(s *chancery.Subject) { s.NodeKey = stranger.PublicKey() }}, join.ErrCertificate.Error()},
		{"another name in N:C", testcoordinator.Faults{Subject: func(s *chancery.Subject) { s.Name = "edge-2" }}, join.ErrCertificate.Error()},
		{"junk for N:C", testcoordinator.Faults{Verdict: func(v *chancery.Verdict) { v.NC = []byte("junk") }}, join.ErrCertificate.Error()},
		{"refused", testcoordinator.Faults{Refuse: "no"}, "refuses this node: no"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.Misbehave(test.faults)
			if _, err := r.attempt(t.Context()); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q", err, test.says)
			}
			if string(onDisk(t, m, "nc.der")) != string(held) {
				t.Error("another certificate is on disk")
			}
		})
	}
	c.Misbehave(testcoordinator.Faults{})
	clock = 25 * time.Hour
	if _, err := r.attempt(t.Context()); !errors.Is(err, chancery.ErrPointerExpired) {
		t.Errorf("under an expired pointer record: %v", err)
	}
	clock = 0
	if nc, err := r.attempt(t.Context()); err != nil || nc == nil {
		t.Errorf("an honest one: %v", err)
	}
}

// A node that was away until its certificate had ended is enrolled anew with
// the key that it has.
func TestAwayForTooLong(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{Life: 2 * time.Second})
	m := enrol(t, c, "edge-1")
	key := m.nodeKey()
	time.Sleep(3 * time.Second)
	m.start()
	m.eventually("it has renewed", func() bool { return c.Calls("POST /v1/enroll") == 2 && m.status().Session != nil })
	if !m.nodeKey().Equal(key) {
		t.Error("another key")
	}
}

// A machine that boots into another state cannot sign until the state is
// approved; then the same key signs again.
func TestReseal(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	one, two := enrol(t, c, "edge-1"), enrol(t, c, "edge-2")
	two.startReady()
	key := one.nodeKey()
	chip := one.chip.Open(t)
	if err := errors.Join(chip.ExtendPCR(7, [32]byte{7}), chip.Close()); err != nil {
		t.Fatal(err)
	}
	one.start()
	one.wantProblem(topicKey, "sealed: waiting for approval of PCR values")
	if s := one.status(); s.Session != nil || !strings.HasPrefix(s.TPM.State, "sealed: waiting for approval of PCR values") {
		t.Errorf("%+v", s)
	}
	if end := one.ping(PingRequest{Name: "edge-2", Address: two.status().Listen, Count: 1})[0]; !strings.Contains(end.Error, errNoSession.Error()) {
		t.Errorf("%+v", end)
	}
	one.eventually("the coordinator has been asked twice", func() bool { return c.Calls("POST /v1/reseal") >= 4 })
	if n := one.log.count("refuses to sign"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	if err := c.ApproveReseal("edge-1"); err != nil {
		t.Fatal(err)
	}
	one.wantHealthy()
	one.wantPing(two)
	if !one.nodeKey().Equal(key) {
		t.Error("another key")
	}

	// The approval is on disk: the next start needs nobody.
	if err := one.stop(); err != nil {
		t.Fatal(err)
	}
	asked := c.Calls("POST /v1/reseal")
	one.startReady()
	if c.Calls("POST /v1/reseal") != asked {
		t.Error("asked for an approval that is there")
	}
}

// An approval for another state than the machine's is no approval.
func TestApprovalOfAnotherState(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	var clock time.Duration
	a := m.agent(&clock)
	if err := a.chip.ExtendPCR(7, [32]byte{7}); err != nil {
		t.Fatal(err)
	}
	if approved, err := a.askApproval(t.Context()); approved || err != nil {
		t.Fatalf("%v, %v", approved, err)
	}
	if err := c.ApproveReseal("edge-1"); err != nil {
		t.Fatal(err)
	}
	record := c.Approval("edge-1")
	if err := a.chip.ExtendPCR(7, [32]byte{8}); err != nil {
		t.Fatal(err)
	}
	if approved, err := a.approve(record); approved || err != nil {
		t.Errorf("%v, %v", approved, err)
	}
	record.Values[7] = make([]byte, 32)
	if approved, err := a.approve(record); approved || !errors.Is(err, chancery.ErrSignature) {
		t.Errorf("values that were not signed: %v, %v", approved, err)
	}
	record.Values[7] = make([]byte, 31)
	if approved, err := a.approve(record); approved || !errors.Is(err, chancery.ErrMalformed) {
		t.Errorf("a short value: %v, %v", approved, err)
	}
	if err := a.keepSession(t.Context()); !isSealed(err) {
		t.Errorf("%v, want a *tpm.SealedError", err)
	}
}

func isSealed(err error) bool {
	_, ok := errors.AsType[*tpm.SealedError](err)
	return ok
}

// A chip that failed is opened anew.
func TestChipFails(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{Life: 8 * time.Second})
	m := enrol(t, c, "edge-1")
	m.startReady()
	serial := m.status().Certificate.Serial
	if err := m.chip.Kill(); err != nil {
		t.Fatal(err)
	}
	m.wantProblem(topicChip, "tpm:")
	if err := m.chip.Restart(); err != nil {
		t.Fatal(err)
	}
	m.eventually("it has renewed", func() bool { return m.status().Certificate.Serial != serial })
	m.wantHealthy()
}

// A connection that is lost is opened anew at once. One that is lost again and
// again is not tried as fast as the machine can.
func TestChipIsLost(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	var clock time.Duration
	a := m.agent(&clock)
	between, err := chip.New("", m.chip.Device(), chip.Model{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(a.chip.Close(), between.Close()); err != nil {
			t.Error(err)
		}
	}()
	a.config.TPM = between.Device()
	if err := a.openChip(); err != nil {
		t.Fatal(err)
	}
	keep := func(times int) {
		t.Helper()
		if err := between.Inject(chip.Fault{Command: tpm2.TPMCCSign, Kind: chip.CutAfter, Times: times}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		go func() {
			select {
			case <-a.ready:
				cancel()
			case <-ctx.Done():
			}
		}()
		a.keepKey(ctx)
	}
	a.asked <- struct{}{} // by the coordinator, which cannot make it faster
	keep(0)
	<-a.asked
	if _, err := a.present(); err == nil {
		t.Error("a signature that was lost is presented")
	}
	if n := between.Calls(tpm2.TPMCCSign); n < 2 || n > 5 {
		t.Errorf("tried %d times in two seconds", n)
	}
	between.Clear()
	if err := a.openChip(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	keep(1)
	wantIdentity(t, a)
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("a lost connection cost %v", took)
	}
}
