package policy_test

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/policy"
)

// parse reads a policy that must be good.
func parse(t rapid.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return p
}

// rules writes a policy of rules without names: they are called rule 1, rule 2
// and so on. The boot states good, other and early are there to refer to.
func rules(list ...string) string {
	var b strings.Builder
	b.WriteString("version = 1\n")
	for i, r := range list {
		b.WriteString("[[rule]]\nname = \"rule " + string(rune('1'+i)) + "\"\n" + r + "\n")
	}
	return b.String() + bootStates
}

// Boot states that the tests' policies know.
var bootStates = `
[[pcr_set]]
name = "good"
values.4 = ["` + value(4) + `"]
values.7 = ["` + value(7) + `", "` + value(77) + `"]
[[pcr_set]]
name = "other"
values.11 = ["` + value(11) + `"]
[[pcr_set]]
name = "early"
values.0 = ["` + value(0) + `"]
`

// value is a PCR value that is told apart by its first byte.
func value(first byte) string { return hex.EncodeToString(pcr(first)) }

func pcr(first byte) []byte { return append([]byte{first}, make([]byte, 31)...) }

// A change makes a subject another one.
type change func(*policy.Subject)

// node is a machine as one wishes for: a known maker's chip, sealed, with a
// token. Its firmware is 15.22, its boot state is not known yet.
func node(changes ...change) *policy.Subject {
	s := &policy.Subject{
		EKDigest:     [32]byte{0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89},
		Issuer:       "CN=Infineon OPTIGA(TM) TPM 2.0 ECC CA 042,OU=OPTIGA(TM)/2,C=DE",
		Manufacturer: "IFX",
		Model:        "SLB9672",
		Firmware:     15<<48 | 22<<32,
		Assurance:    chancery.AssuranceEK,
		Sealed:       true,
		Name:         "edge-1",
		Token:        "edge-*",
	}
	for _, c := range changes {
		c(s)
	}
	return s
}

// The node's EK as a policy writes it, and that of another chip.
const (
	ourEK   = "abcdef0123456789000000000000000000000000000000000000000000000000"
	otherEK = "00000000000000000000000000000000000000000000000000000000000000ff"
)

// booted is a node that has quoted these PCRs, each with the value of its own
// number.
func booted(pcrs ...int) change {
	return func(s *policy.Subject) {
		s.Booted = &policy.Boot{Values: map[int][32]byte{}}
		for _, n := range pcrs {
			s.Booted.Values[n] = [32]byte(pcr(byte(n)))
		}
	}
}

// logged is a node that has sent its event log with the quote.
func logged(secureBoot bool) change {
	return func(s *policy.Subject) { s.Booted.EventLog, s.Booted.SecureBoot = true, secureBoot }
}

// Nodes that lack something.
var (
	withoutToken change = func(s *policy.Subject) { s.Token = "" }
	enrolled     change = func(s *policy.Subject) { s.Enrolled = true }
	revoked      change = func(s *policy.Subject) { s.Revoked = true }
	simulator    change = func(s *policy.Subject) { s.Simulator = true }
	weak         change = func(s *policy.Subject) { s.Weakness = "ROCA" }
	unsealed     change = func(s *policy.Subject) { s.Sealed = false }
	nobodysChip  change = func(s *policy.Subject) { s.Assurance, s.Issuer = chancery.AssuranceTPM, "" }
)

func named(name string) change { return func(s *policy.Subject) { s.Name = name } }

func withToken(names string) change { return func(s *policy.Subject) { s.Token = names } }

func onLists(lists ...string) change { return func(s *policy.Subject) { s.EKLists = lists } }

// wantDecision checks what was decided, by which rule and, of a refusal, why.
func wantDecision(t *testing.T, what string, d *policy.Decision, action, rule, code string) {
	t.Helper()
	if d.Open || d.Action != action || d.Rule != rule || d.Code != code {
		t.Errorf("%s: %s by %q, code %q, open %t; want %s by %q, code %q\n%+v", what, d.Action, d.Rule, d.Code, d.Open, action, rule, code, d.Steps)
	}
	if refused := action == policy.Refuse; refused != (d.Reason != "") {
		t.Errorf("%s: %s with the reason %q", what, action, d.Reason)
	}
}

// wantError checks that a text is no policy, where, and why.
func wantError(t *testing.T, text, where, message, hint string) {
	t.Helper()
	_, err := policy.Parse([]byte(text))
	e, ok := errors.AsType[*policy.Error](err)
	if !ok || e.Where != where || !strings.Contains(e.Error(), message) || !strings.Contains(e.Hint(), hint) || errors.Unwrap(e) == nil {
		t.Errorf("%v (%+v); want an error at %q that says %q, hint %q\n%s", err, e, where, message, hint, text)
	}
	if where != "" && ok && !strings.Contains(e.Error(), where) {
		t.Errorf("%q does not say where: %q", e, where)
	}
}
