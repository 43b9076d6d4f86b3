package evidence_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/eventlog"
	"github.com/chancery-pki/chancery/tpm/eventlog/eventlogtest"
)

// wantLink checks that an error names a link and has a reason.
func wantLink(t *testing.T, what string, err error, link string, reason error) {
	t.Helper()
	if e, ok := errors.AsType[*tpm.EvidenceError](err); !ok || e.Link != link || reason != nil && !errors.Is(err, reason) {
		t.Errorf("%s: %v; want link %q, reason %v", what, err, link, reason)
	}
}

// A quote is good for its qualifying data, its key and its values.
func TestVerifyQuote(t *testing.T) {
	w := newWorld(t)
	m, other := w.machine(papertpm.Options{ResetCount: 5}, false), w.machine(papertpm.Options{}, false)
	ak := must(tpm.ParseAttestationKey(m.ak.Public))(t)
	asked := [32]byte{1, 2, 3}
	q := m.quote([]int{0, 7}, asked)
	got, err := evidence.VerifyQuote(ak, q, asked)
	if err != nil || got.Facts.ResetCount != 5 || len(got.Values) != 2 || got.Values[7] != [32]byte(q.Values[7]) {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = evidence.VerifyQuote(ak, q, [32]byte{})
	wantLink(t, "another question", err, tpm.LinkQuote, tpm.ErrAttestation)
	_, err = evidence.VerifyQuote(ak, other.quote([]int{0, 7}, asked), asked)
	wantLink(t, "another chip", err, tpm.LinkQuote, tpm.ErrAttestSignature)
	_, err = evidence.VerifyQuote(tpm.AttestationKey{}, q, asked)
	wantLink(t, "no key", err, tpm.LinkQuote, tpm.ErrAttestSignature)
}

func TestValues(t *testing.T) {
	one := bytes.Repeat([]byte{1}, 32)
	if got, err := evidence.Values(map[int][]byte{0: one, 23: one}); err != nil || len(got) != 2 || got[23] != [32]byte(one) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []map[int][]byte{{-1: one}, {24: one}, {7: nil}, {7: one[1:]}, {0: one, 7: append(one, 1)}} {
		_, err := evidence.Values(bad)
		wantLink(t, "values", err, evidence.LinkForm, nil)
	}
}

// A log is compared with the PCRs that it explains, those from 0 to 9. Higher
// ones are the running system's: there it need not lead to what was quoted,
// and alone they vouch for nothing.
func TestVerifyEventLog(t *testing.T) {
	w := newWorld(t)
	m := w.machine(papertpm.Options{}, false)
	later := sha256.Sum256([]byte("measured by the running system"))
	quote := func(pcrs ...int) *evidence.Quote {
		t.Helper()
		return &evidence.Quote{Values: must(m.chip.PCRValues(pcrs))(t)}
	}
	for _, pcr := range []int{10, 11} {
		if err := m.chip.ExtendPCR(pcr, later); err != nil {
			t.Fatal(err)
		}
	}
	good := []*evidence.Quote{quote(0), quote(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), quote(7, 10, 11, 23), quote(9), quote(8, 14)}
	for _, q := range good {
		l, err := evidence.VerifyEventLog(m.log, q)
		if err != nil {
			t.Errorf("PCR %v: %v", q.Values.Numbers(), err)
			continue
		}
		if on, known := l.SecureBoot(); !on || !known {
			t.Errorf("PCR %v: Secure Boot %t, known %t", q.Values.Numbers(), on, known)
		}
	}
	for what, q := range map[string]*evidence.Quote{"no quote": nil, "a quote of nothing": quote(), "a quote of PCR 10 and above": quote(10, 11, 23)} {
		_, err := evidence.VerifyEventLog(m.log, q)
		wantLink(t, what, err, evidence.LinkEventLog, nil)
	}
	other := eventlogtest.Boot("1.0", "another loader", true).Bytes()
	_, err := evidence.VerifyEventLog(other, quote(4))
	wantLink(t, "the log of another boot", err, evidence.LinkEventLog, nil)
	if e, ok := errors.AsType[*eventlog.MismatchError](err); !ok || e.PCR != 4 {
		t.Errorf("%v, want the PCR that differs", err)
	}
	if _, err := evidence.VerifyEventLog(other, quote(0, 7)); err != nil {
		t.Errorf("a log that differs in PCR 4, which is not quoted: %v", err)
	}
	for what, log := range map[string][]byte{
		"no log": {}, "cut": m.log[:len(m.log)-1], "padded": append(bytes.Clone(m.log), 0xff), "too large": make([]byte, eventlog.MaxSize+1),
	} {
		_, err := evidence.VerifyEventLog(log, quote(0))
		wantLink(t, what, err, evidence.LinkEventLog, nil)
	}
	if err := m.chip.ExtendPCR(9, later); err != nil {
		t.Fatal(err)
	}
	_, err = evidence.VerifyEventLog(m.log, quote(0, 9))
	wantLink(t, "something in PCR 9 that the log does not tell", err, evidence.LinkEventLog, nil)
}
