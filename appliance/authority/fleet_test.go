package authority_test

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// TestFleet enrols many nodes at once, each with a chip of its own: sealed keys
// and unsealed ones, chips with a P-384 certificate and chips with an RSA one.
// With CHANCERY_FULL=1 there are 500. Over the network, and with an agent at
// the other end, the benchmark evidence-500 does the same.
func TestFleet(t *testing.T) {
	size := 24
	if os.Getenv("CHANCERY_FULL") == "1" {
		size = 500
	}
	tb := elsewhere{t}
	chips := make([]*tpm.TPM, size)
	workers := make(chan struct{}, 8) // to make a chip is to wait
	each(size, func(i int) {
		workers <- struct{}{}
		defer func() { <-workers }()
		process := tpmtest.New(tb)
		if i%3 == 0 {
			onlyRSA(tb, process)
		}
		chips[i] = process.Open(tb)
	})
	if t.Failed() {
		return
	}

	w := &world{t: t, Coordinator: appliancetest.New(t, tpmtest.Roots(t))}
	certificates := make([]*chancery.Certificate, size)
	spent, start := w.CA.Total(), time.Now()
	each(size, func(i int) {
		ch := authority.Channel{Exporter: [32]byte{byte(i), byte(i >> 8)}}
		n := appliancetest.NewNode(tb, w.Coordinator, chips[i], fmt.Sprintf("edge-%d", i), i%2 == 0)
		answer, err := w.Authority.Connect(t.Context(), ch, n.Connection(ch.Exporter))
		if err != nil {
			tb.Fatalf("%s: %v", n.Name, err)
		}
		id, err := authority.ParseIntakeID(answer.Intake)
		if err != nil {
			tb.Fatalf("%s: %v", n.Name, err)
		}
		v, err := w.Authority.Submit(t.Context(), id, n.Submission(answer))
		if err != nil || v.Status != chancery.VerdictIssued {
			tb.Fatalf("%s: %+v, %v", n.Name, v, err)
		}
		if certificates[i], err = chancery.ParseCertificate(v.NC); err != nil {
			tb.Fatalf("%s: %v", n.Name, err)
		}
	})
	took := time.Since(start)
	if t.Failed() {
		return
	}
	t.Logf("%d enrolments in %v, %.0f/s, with %d signatures of CA:SK", size, took, float64(size)/took.Seconds(), w.CA.Total()-spent)

	serials := map[merkle.Serial]string{}
	for i, nc := range certificates {
		name := fmt.Sprintf("edge-%d", i)
		if err := w.verify(nc); err != nil || nc.Name != name || nc.Assurance.Level != chancery.AssuranceEK {
			t.Errorf("%s: N:C is for %s with assurance %s, %v", name, nc.Name, nc.Assurance.Level, err)
		}
		if other, ok := serials[nc.Serial]; ok {
			t.Errorf("%s and %s have serial %s", other, name, nc.Serial)
		}
		serials[nc.Serial] = name
	}
	if w.Ledger.Size() != uint64(size) {
		t.Errorf("%d entries in the log, want %d", w.Ledger.Size(), size)
	}
	w.Check()
}

// each does it for all numbers below n at once.
func each(n int, do func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	all.Wait()
}

// elsewhere is a test in goroutines other than its own: what is fatal there
// ends the goroutine.
type elsewhere struct{ testing.TB }

func (e elsewhere) Fatal(args ...any) {
	e.Helper()
	e.Error(args...)
	runtime.Goexit()
}

func (e elsewhere) Fatalf(format string, args ...any) {
	e.Helper()
	e.Errorf(format, args...)
	runtime.Goexit()
}

// onlyRSA removes the certificate for P-384 from a chip that nobody has open, so
// that its endorsement key is RSA. The platform hierarchy of a simulator is
// open.
func onlyRSA(t testing.TB, process *tpmtest.TPM) {
	t.Helper()
	w := dial(t, process)
	defer w.Close()
	const certificate = tpm2.TPMHandle(0x01c00016)
	public := must(tpm2.NVReadPublic{NVIndex: certificate}.Execute(w))(t)
	must(tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: certificate, Name: public.NVName},
	}.Execute(w))(t)
}
