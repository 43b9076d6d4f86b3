package secondopinion_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/secondopinion"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/eventlog"
	"github.com/chancery-pki/chancery/tpm/eventlog/eventlogtest"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// must is for calls whose failure is a broken test.
func must[T any](v T, err error) func(rapid.TB) T {
	return func(t rapid.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// A chip is a real one or one on paper.
type chip interface {
	AK() (tpm.AK, error)
	ExtendPCR(pcr int, digest [32]byte) error
	Quote(pcrs []int, qualifying [32]byte) (tpm.Attestation, tpm.PCRValues, error)
}

// newMaker is of all tests: its primes are dear.
var newMaker = sync.OnceValues(papertpm.NewMaker)

func paper(t testing.TB, kind papertpm.Kind) *papertpm.Chip {
	t.Helper()
	return must(must(newMaker())(t).New(papertpm.Options{EK: kind}))(t)
}

// A showing is what there is to judge.
type showing struct {
	ak         []byte // TPMT_PUBLIC
	qualifying [32]byte
	quote      *chancery.Quote
	log        []byte
}

// show has a chip quote PCRs.
func show(t rapid.TB, c chip, log []byte, pcrs ...int) showing {
	t.Helper()
	s := showing{ak: must(c.AK())(t).Public, qualifying: [32]byte{1, 2, 3}, log: log}
	a, values, err := c.Quote(pcrs, s.qualifying)
	if err != nil {
		t.Fatal(err)
	}
	s.quote = &chancery.Quote{Attestation: chancery.Attestation(a), Values: map[int][]byte{}}
	for pcr, v := range values {
		s.quote.Values[pcr] = v[:]
	}
	return s
}

// clone is one that may be changed.
func (s showing) clone() showing {
	q := *s.quote
	q.Attest, q.Signature, q.Values = bytes.Clone(q.Attest), bytes.Clone(q.Signature), maps.Clone(q.Values)
	for pcr, v := range q.Values {
		q.Values[pcr] = bytes.Clone(v)
	}
	s.ak, s.quote, s.log = bytes.Clone(s.ak), &q, bytes.Clone(s.log)
	return s
}

// first is the verdict of packages tpm and evidence.
func (s showing) first() error {
	ak, err := tpm.ParseAttestationKey(s.ak)
	if err != nil {
		return err
	}
	q, err := evidence.VerifyQuote(ak, s.quote, s.qualifying)
	if err == nil && s.log != nil {
		_, err = evidence.VerifyEventLog(s.log, q)
	}
	return err
}

// second is that of go-tpm-tools.
func (s showing) second() error { return secondopinion.JudgeHere(s.ak, s.qualifying, s.quote, s.log) }

func wantAgreed(t rapid.TB, what string, s showing, good bool) {
	t.Helper()
	first, second := s.first(), s.second()
	if (first == nil) != good || (second == nil) != good {
		t.Errorf("%s: the first opinion is %v, the second %v; want both good: %t", what, first, second, good)
	}
	if second != nil && second.Error() == "" {
		t.Errorf("%s: refused without a reason", what)
	}
}

// boot is the log of a machine, with Secure Boot or without.
//
// With it, go-tpm-tools wants to see the keys that it had, and one that was
// used: signature lists in PK, KEK and db, and the event of an authority
// (UEFI 2.10, section 32.4.1; PFP section 3.3.4.8).
func boot(t testing.TB, secureBoot bool) []byte {
	t.Helper()
	if !secureBoot {
		return eventlogtest.Boot("1.0", "loader", false).Bytes()
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))(t)
	owned := append(make([]byte, 16), cert...) // EFI_SIGNATURE_DATA: the owner's GUID
	list := []byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	for _, size := range []int{28 + len(owned), 0, len(owned)} {
		list = binary.LittleEndian.AppendUint32(list, uint32(size))
	}
	list = append(list, owned...)

	images := [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
	b := eventlogtest.NewBuilder()
	for _, v := range []eventlog.Variable{
		{GUID: eventlog.GlobalVariable, Name: "SecureBoot", Value: []byte{1}},
		{GUID: eventlog.GlobalVariable, Name: "PK", Value: list},
		{GUID: eventlog.GlobalVariable, Name: "KEK", Value: list},
		{GUID: images, Name: "db", Value: list},
		{GUID: images, Name: "dbx"},
	} {
		b.Add(7, eventlog.EFIVariableDriverConfig, v.Marshal())
	}
	b.Separator(7)
	b.Add(7, eventlog.EFIVariableAuthority, eventlog.Variable{GUID: images, Name: "db", Value: owned}.Marshal())
	b.Add(4, eventlog.EFIAction, []byte("Calling EFI Application from Boot Option"))
	for pcr := range 7 {
		b.Separator(pcr)
	}
	b.AddDigest(4, eventlog.EFIBootServicesApplication, [32]byte{1}, make([]byte, 32))
	return b.Bytes()
}

// measure has a chip boot with the log.
func measure(t testing.TB, c chip, log []byte) {
	t.Helper()
	for _, e := range must(eventlog.Parse(log))(t).Events {
		if e.Extends() {
			if err := c.ExtendPCR(e.PCR, e.Digest); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What good chips quote is good to both, with the log that leads to it and
// without one.
func TestAgreesOnPaper(t *testing.T) {
	for _, kind := range []papertpm.Kind{papertpm.P256, papertpm.P384, papertpm.RSA2048} {
		for _, secureBoot := range []bool{false, true} {
			c, log := paper(t, kind), boot(t, secureBoot)
			measure(t, c, log)
			for _, pcrs := range [][]int{{0}, {7}, {4, 7}, {0, 1, 2, 3, 4, 5, 6, 7}, {7, 8, 9, 14}} {
				what := fmt.Sprintf("%v, Secure Boot %t, PCR %v", kind, secureBoot, pcrs)
				wantAgreed(t, what, show(t, c, nil, pcrs...), true)
				wantAgreed(t, what+", with the log", show(t, c, log, pcrs...), true)
			}
			wantAgreed(t, "all PCRs", show(t, c, nil, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23), true)
		}
	}
}

// The same of a chip that both believe without knowing each other: swtpm.
func TestAgreesWithChip(t *testing.T) {
	c, log := tpmtest.New(t).Open(t), boot(t, true)
	wantAgreed(t, "before anything is measured", show(t, c, nil, 0, 7, 16, 17, 23), true)
	measure(t, c, log)
	wantAgreed(t, "a quote", show(t, c, nil, 0, 2, 4, 7), true)
	good := show(t, c, log, 0, 2, 4, 7)
	wantAgreed(t, "a quote with the log", good, true)

	changed := good.clone()
	changed.quote.Values[7][0] ^= 1
	wantAgreed(t, "another value", changed, false)
	changed = good.clone()
	changed.log = boot(t, false)
	wantAgreed(t, "the log of another boot", changed, false)
	if err := c.ExtendPCR(7, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	wantAgreed(t, "something that the log does not tell", show(t, c, log, 0, 2, 4, 7), false)
}

// What is refused by one is refused by the other, whatever it is that somebody
// has changed.
func TestRefuses(t *testing.T) {
	c, other, log := paper(t, papertpm.P256), paper(t, papertpm.P256), boot(t, true)
	measure(t, c, log)
	measure(t, other, log)
	good := show(t, c, log, 0, 4, 7)
	wantAgreed(t, "nothing changed", good, true)

	// Every byte of what the chip said and of its signature, and of each value.
	for what, field := range map[string]func(showing) []byte{
		"attestation": func(s showing) []byte { return s.quote.Attest },
		"signature":   func(s showing) []byte { return s.quote.Signature },
		"PCR 0":       func(s showing) []byte { return s.quote.Values[0] },
		"PCR 7":       func(s showing) []byte { return s.quote.Values[7] },
		"AK":          func(s showing) []byte { return s.ak },
	} {
		for at := range field(good) {
			for _, log := range [][]byte{nil, good.log} {
				s := good.clone()
				s.log = log
				field(s)[at] ^= 1 << (at % 8)
				wantAgreed(t, fmt.Sprintf("%s, byte %d", what, at), s, false)
			}
		}
	}
	for at := range good.qualifying {
		s := good
		s.qualifying[at] ^= 0x80
		wantAgreed(t, fmt.Sprintf("qualifying data, byte %d", at), s, false)
	}
	// Every digest in the log that the quote vouches for.
	events := must(eventlog.Parse(log))(t).Events
	for i, e := range events {
		first := slices.IndexFunc(events, func(o eventlog.Event) bool { return o.Digest == e.Digest })
		if !slices.Contains([]int{0, 4, 7}, events[first].PCR) {
			continue
		}
		s := good.clone()
		s.log[bytes.Index(s.log, e.Digest[:])+i] ^= 1
		wantAgreed(t, fmt.Sprintf("the digest of event %d, of PCR %d", first, events[first].PCR), s, false)
	}

	creation := must(c.CreateKey(nil))(t)
	for what, change := range map[string]func(*showing){
		"another chip's AK":       func(s *showing) { s.ak = must(other.AK())(t).Public },
		"N:SK for an AK":          func(s *showing) { s.ak = creation.Public },
		"no AK":                   func(s *showing) { s.ak = nil },
		"another chip's quote":    func(s *showing) { s.quote = show(t, other, nil, 0, 4, 7).quote },
		"a creation for a quote":  func(s *showing) { s.quote.Attestation = certified(t, c, creation, s.qualifying) },
		"no attestation":          func(s *showing) { s.quote.Attest = nil },
		"no signature":            func(s *showing) { s.quote.Signature = nil },
		"a value less":            func(s *showing) { delete(s.quote.Values, 4) },
		"a value more":            func(s *showing) { s.quote.Values[5] = make([]byte, 32) },
		"no values":               func(s *showing) { s.quote.Values = nil },
		"values that changed":     func(s *showing) { v := s.quote.Values; v[0], v[7] = v[7], v[0] },
		"a short value":           func(s *showing) { s.quote.Values[7] = s.quote.Values[7][1:] },
		"the log of another boot": func(s *showing) { s.log = boot(t, false) },
		"the log cut":             func(s *showing) { s.log = s.log[:len(s.log)-1] },
		"no log":                  func(s *showing) { s.log = []byte("hello") },
		"an event more":           func(s *showing) { s.log = append(s.log, lastEvent(t, s.log)...) },
	} {
		s := good.clone()
		change(&s)
		wantAgreed(t, what, s, false)
	}
}

// certified is an attestation of another kind by the same key.
func certified(t testing.TB, c *papertpm.Chip, file *tpm.KeyFile, qualifying [32]byte) chancery.Attestation {
	t.Helper()
	return chancery.Attestation(must(c.CertifyCreation(file, qualifying))(t))
}

// lastEvent returns the bytes of the last event in a log, which boot has put
// into PCR 4.
func lastEvent(t testing.TB, log []byte) []byte {
	t.Helper()
	at := bytes.LastIndex(log, []byte{4, 0, 0, 0, 3, 0, 0, 0x80})
	if at < 0 {
		t.Fatal("the log has another end")
	}
	return log[at:]
}

// Whatever bits somebody changes in a quote: both refuse it, or both take it.
func TestAgreesOnAnything(t *testing.T) {
	c := paper(t, papertpm.P256)
	good := show(t, c, nil, 0, 7)
	rapid.Check(t, func(t *rapid.T) {
		s := good.clone()
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			field := rapid.SampledFrom([][]byte{s.quote.Attest, s.quote.Signature, s.quote.Values[0], s.quote.Values[7], s.ak}).Draw(t, "field")
			field[rapid.IntRange(0, len(field)-1).Draw(t, "byte")] = rapid.Byte().Draw(t, "value")
		}
		if first, second := s.first(), s.second(); (first == nil) != (second == nil) {
			t.Errorf("the first opinion is %v, the second %v", first, second)
		}
	})
}

// Who differs is named, since a difference is a matter for its authors.
func TestReason(t *testing.T) {
	s := show(t, paper(t, papertpm.P256), nil, 0)
	s.qualifying[0] ^= 1
	if err := s.second(); err == nil || !strings.HasPrefix(err.Error(), "go-tpm-tools: ") {
		t.Errorf("%v", err)
	}
}
