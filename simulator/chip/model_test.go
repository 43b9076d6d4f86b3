package chip_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/simulator/chip"
)

func TestModels(t *testing.T) {
	models := chip.Models()
	if !slices.IsSortedFunc(models, func(a, b chip.Model) int { return int(b.Latency.Sign - a.Latency.Sign) }) {
		t.Error("the models are not in the order of their speed")
	}
	for _, m := range models {
		got, err := chip.Find(m.Name)
		if err != nil || got != m {
			t.Errorf("model %q is found as %+v (%v)", m.Name, got, err)
		}
		l := m.Latency
		for what, d := range map[string]time.Duration{
			"rsa key": l.RSAKey, "ecc key": l.ECCKey, "create": l.Create, "sign": l.Sign, "verify": l.Verify, "ecdh": l.ECDH,
			"load": l.Load, "attest": l.Attest, "nv read": l.NVRead, "nv write": l.NVWrite, "activate": l.Activate, "other": l.Other,
		} {
			if d <= 0 || d > 10*time.Second || d < l.Other {
				t.Errorf("%s: %s takes %v", m.Name, what, d)
			}
		}
		if m.Vendor == "" || m.Busy == 0 || m.Jitter == 0 {
			t.Errorf("%s: %+v", m.Name, m)
		}
	}
	models[0].Name = "changed"
	if chip.Models()[0].Name == "changed" {
		t.Error("the list of models can be changed")
	}
	_, err := chip.Find("slb9999")
	var unknown *chip.UnknownModelError
	if !errors.As(err, &unknown) || !strings.Contains(unknown.Hint(), "infineon-slb9670, ") {
		t.Errorf("a model that is none: %v", err)
	}
}

func TestModelCheck(t *testing.T) {
	behind := blank(t)
	for _, m := range []chip.Model{
		{Jitter: -0.1}, {Jitter: 1.1}, {Jitter: math.NaN()},
		{Busy: -0.1}, {Busy: 1}, {Busy: math.NaN()},
		{Latency: chip.Latency{NVWrite: -1}},
	} {
		if c, err := chip.New("", behind.Device(), m); err == nil {
			c.Close()
			t.Errorf("%+v is a model", m)
		}
	}
}

// signing times signatures with one key over a connection.
type signing struct {
	wires
	key  tpm2.AuthHandle
	best time.Duration
}

func newSigning(t *testing.T, device string) *signing {
	t.Helper()
	w := connect(t, device)
	template := tpm2.ECCSRKTemplate
	template.ObjectAttributes.Restricted, template.ObjectAttributes.Decrypt = false, false
	template.ObjectAttributes.SignEncrypt = true
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
	rsp := must(tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHNull, InPublic: tpm2.New2B(template)}.Execute(w))(t)
	return &signing{wires: w, key: tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: tpm2.PasswordAuth(nil)}, best: math.MaxInt64}
}

// sign signs once, and remembers the best time.
func (s *signing) sign(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	must(tpm2.Sign{
		KeyHandle: s.key,
		Digest:    tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(s))(t)
	took := time.Since(begin)
	s.best = min(s.best, took)
	return took
}

// A signature takes as long as the model says, however long the swtpm takes for
// its part of it. No time is looked at for itself: what is compared are the best
// times of two models and of the bare swtpm in the same run.
func TestLatency(t *testing.T) {
	behind := blank(t)
	timed := func(device string, least time.Duration) (best time.Duration) {
		s := newSigning(t, device)
		defer s.Close()
		for range 5 {
			if took := s.sign(t); took < least {
				t.Errorf("a signature took %v, the model's least is %v", took, least)
			}
		}
		return s.best
	}
	model := func(name string) (best, want time.Duration) {
		m := must(chip.Find(name))(t).Calm()
		m.Jitter = 0
		return timed(newChip(t, behind, m).Device(), m.Latency.Sign), m.Latency.Sign
	}
	var got, want float64
	// How busy the machine is is anybody's guess; the models need to be told
	// apart once.
	for range 10 {
		bare := timed(behind.Device(), 0)
		slow, slowest := model("nuvoton-npct650")
		fast, fastest := model("st33")
		got, want = slow.Seconds()/fast.Seconds(), slowest.Seconds()/fastest.Seconds()
		if got > want/1.3 && got < want*1.3 && fast > 5*bare {
			return
		}
	}
	t.Errorf("a signature of one model takes %.2f times as long as that of the other, want %.2f", got, want)
}

// A model that is faster than the swtpm is as fast as the swtpm.
func TestLatencyBelow(t *testing.T) {
	behind := blank(t)
	s := newSigning(t, newChip(t, behind, chip.Model{Latency: chip.Latency{Sign: 1, Other: 1}, Jitter: 1}).Device())
	for range 3 {
		s.sign(t)
	}
}

// What the chip refuses takes the time of a small command.
func TestLatencyOfRefusal(t *testing.T) {
	w := connect(t, newChip(t, blank(t), chip.Model{Latency: chip.Latency{RSAKey: time.Hour, ECCKey: time.Hour}}).Device())
	create := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth([]byte("wrong"))},
		InPublic:      tpm2.New2B(tpm2.RSASRKTemplate),
	}
	if _, err := create.Execute(w); !errors.Is(err, tpm2.TPMRCBadAuth) {
		t.Errorf("a wrong password: %v", err)
	}
}
