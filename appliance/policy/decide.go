package policy

import (
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
)

// A Subject is what is known of a node that wants a certificate.
type Subject struct {
	EKDigest     [32]byte
	EKLists      []string // the lists that name this EK
	Issuer       string   // of the EK certificate; empty without one that counts
	Manufacturer string
	Model        string
	Firmware     uint64
	Weakness     string // why the firmware gives keys away; empty if it is not known to
	Simulator    bool
	Assurance    chancery.AssuranceLevel // by the EK certificate
	Sealed       bool
	Name         string
	Token        string // the names that its join token is good for, or was; empty without one
	Enrolled     bool   // under this key: it renews, or comes back
	Revoked      bool   // a node on this chip was

	// Booted is nil until the chip has quoted.
	Booted *Boot
}

// A Boot is the state that a chip vouches for.
type Boot struct {
	Values     map[int][32]byte
	EventLog   bool // a log was sent, and leads to the values
	SecureBoot bool // and shows Secure Boot switched on
}

// A Decision is what the policy says of a subject.
type Decision struct {
	// Action is Auto, Approve or Refuse. With Open it is not known yet, and
	// Auto: the quote decides.
	Action    string
	Open      bool
	Rule      string // that decided; empty if none matched
	Approvals int    // how many operators, for Approve
	Code      string // for Refuse: one of the Code constants
	Reason    string // likewise
	Hint      string

	Vouched   []string // the lists by which the operator vouches for the chip
	State     string   // the pcr_set that the rule matched; empty without one
	Assurance chancery.AssuranceLevel
	Roles     []string      // beside those of the token
	Life      time.Duration // the longest; 0: the coordinator's
	Live      int           // live nodes a chip may have

	Quote         []int // PCRs that the node has to quote
	EventLog      bool
	SecondOpinion bool

	// Steps is the way to it.
	Steps []Step
}

// A Step is one thing that was looked at.
type Step struct {
	Rule string `json:"rule"`
	What string `json:"what"`
	// Result is yes, no or open.
	Result string `json:"result" enum:"yes,no,open"`
}

// Why a policy refuses, for programs.
const (
	CodeNoRule    = "no-rule"    // no rule is for the node
	CodeRule      = "rule"       // the rule says so
	CodeRevoked   = "revoked"    // a node on the chip was revoked
	CodeSimulator = "simulator"  // the chip is one
	CodeWeakChip  = "weak-chip"  // its firmware gives keys away
	CodeName      = "name-rule"  // the node must be called otherwise
	CodeSeal      = "not-sealed" // N:SK must be sealed
	CodeAssurance = "assurance"  // the chip proves too little
	CodeState     = "boot-state" // what it quotes is not enough
)

// Results of a step.
const (
	yes  = "yes"
	no   = "no"
	open = "open"
)

// Decide finds the first rule that matches.
func (p *Policy) Decide(s *Subject) *Decision {
	d := &Decision{Action: Refuse}
	maybe := false // a rule before depends on the boot state
	for i := range p.Rules {
		r := &p.Rules[i]
		switch p.match(d, r, s) {
		case no:
		case open:
			maybe = true
			p.want(d, r)
		default:
			if maybe { // what this rule says is not the last word
				p.want(d, r)
				d.Open, d.Action = true, Auto
				return d
			}
			return p.settle(d, r, s)
		}
	}
	if maybe {
		d.Open, d.Action = true, Auto
		return d
	}
	d.Code = CodeNoRule
	d.Reason, d.Hint = "no rule of the coordinator's policy is for this node", "an operator sees why with: chancery policy check"
	return d
}

// NamesEK reports whether a rule names the chip itself.
func (p *Policy) NamesEK(digest [32]byte) bool {
	return slices.ContainsFunc(p.Rules, func(r Rule) bool { return slices.Contains(r.Match.EK, hex.EncodeToString(digest[:])) })
}

// secureBootPCR is where Secure Boot is measured (TCG PC Client Platform
// Firmware Profile 1.06, section 3.3.4.8).
const secureBootPCR = 7

// want adds what the node must send for a rule.
func (p *Policy) want(d *Decision, r *Rule) {
	d.Quote = append(d.Quote, r.Require.Quote...)
	if r.Require.SecureBoot {
		d.Quote = append(d.Quote, secureBootPCR)
	}
	for _, set := range p.PCRSets {
		if slices.Contains(r.Match.PCRSet, set.Name) {
			for pcr := range set.values {
				d.Quote = append(d.Quote, pcr)
			}
		}
	}
	slices.Sort(d.Quote)
	d.Quote = slices.Compact(d.Quote)
	d.EventLog = d.EventLog || r.Require.EventLog
	d.SecondOpinion = d.SecondOpinion || r.Require.SecondOpinion
}

// match looks at a rule's conditions, the boot state last.
func (p *Policy) match(d *Decision, r *Rule, s *Subject) string {
	step := func(ok bool, format string, args ...any) bool {
		d.Steps = append(d.Steps, Step{r.Name, fmt.Sprintf(format, args...), pick(ok)})
		return ok
	}
	m := &r.Match
	for _, c := range []struct {
		given bool
		what  string
		got   any
		holds func() bool
	}{
		{len(m.EK) > 0, "EK " + strings.Join(short(m.EK), ", "), hex.EncodeToString(s.EKDigest[:6]), func() bool { return slices.Contains(m.EK, hex.EncodeToString(s.EKDigest[:])) }},
		{len(m.EKList) > 0, "the EK is on " + strings.Join(m.EKList, ", "), s.EKLists, func() bool {
			return slices.ContainsFunc(m.EKList, func(l string) bool { return slices.Contains(s.EKLists, l) })
		}},
		{len(m.EK)+len(m.EKList) == 0, "a join token, or enrolled already", credential(s), func() bool { return s.Token != "" || s.Enrolled }},
		{len(m.Issuer) > 0, "issuer " + strings.Join(m.Issuer, ", "), s.Issuer, func() bool { return s.Issuer != "" && matches(m.Issuer, s.Issuer) }},
		{len(m.Manufacturer) > 0, "manufacturer " + strings.Join(m.Manufacturer, ", "), s.Manufacturer, func() bool { return matches(m.Manufacturer, s.Manufacturer) }},
		{len(m.Model) > 0, "model " + strings.Join(m.Model, ", "), s.Model, func() bool { return matches(m.Model, s.Model) }},
		{m.Firmware != "", "firmware " + m.Firmware, version(s.Firmware), func() bool { return inRange(m.Firmware, s.Firmware) }},
		{len(m.Token) > 0, "token for " + strings.Join(m.Token, ", "), s.Token, func() bool { return s.Token != "" && slices.Contains(m.Token, s.Token) }},
		{len(m.Name) > 0, "name " + strings.Join(m.Name, ", "), s.Name, func() bool { return matches(m.Name, s.Name) }},
		{m.Simulator != nil, fmt.Sprintf("simulator %t", m.Simulator != nil && *m.Simulator), s.Simulator, func() bool { return *m.Simulator == s.Simulator }},
	} {
		if c.given && !step(c.holds(), "%s (it is %v)", c.what, c.got) {
			return no
		}
	}
	if len(m.PCRSet) == 0 {
		return yes
	}
	if s.Booted == nil {
		d.Steps = append(d.Steps, Step{r.Name, "boot state " + strings.Join(m.PCRSet, ", "), open})
		return open
	}
	if step(p.state(m.PCRSet, s.Booted) != "", "boot state %s (it is %s)", strings.Join(m.PCRSet, ", "), orNone(p.state(nil, s.Booted))) {
		return yes
	}
	return no
}

func credential(s *Subject) string {
	switch {
	case s.Enrolled:
		return "enrolled"
	case s.Token != "":
		return "a token for " + s.Token
	}
	return "neither"
}

func orNone(s string) string {
	if s == "" {
		return "of no set"
	}
	return s
}

func short(digests []string) (list []string) {
	for _, d := range digests {
		list = append(list, d[:12])
	}
	return list
}

func inRange(text string, v uint64) bool {
	bounds, err := parseRange(text)
	return err == nil && !slices.ContainsFunc(bounds, func(b bound) bool { return !b.holds(v) })
}

// state returns the name of the set that the boot state is of: one of names, or
// any if there are none.
func (p *Policy) state(names []string, b *Boot) string {
	for _, set := range p.PCRSets {
		if len(names) > 0 && !slices.Contains(names, set.Name) {
			continue
		}
		good := true
		for pcr, list := range set.values {
			v, quoted := b.Values[pcr]
			good = good && quoted && slices.Contains(list, v)
		}
		if good {
			return set.Name
		}
	}
	return ""
}

// settle holds the subject against the rule that matched.
func (p *Policy) settle(d *Decision, r *Rule, s *Subject) *Decision {
	d.Rule, d.Action, d.Approvals = r.Name, r.Decide, r.Approvals
	p.want(d, r)
	d.Assurance = s.Assurance
	if len(r.Match.EK)+len(r.Match.EKList) > 0 { // whoever bought the chip vouches for it
		d.Assurance = max(d.Assurance, chancery.AssuranceEK)
		d.Vouched = vouched(r, s)
	}
	if len(r.Match.PCRSet) > 0 {
		d.State = p.state(r.Match.PCRSet, s.Booted)
		if d.Assurance == chancery.AssuranceEK {
			d.Assurance = chancery.AssuranceQuote
		}
	}
	if s.Weakness != "" {
		d.Assurance = chancery.AssuranceSoftware
	}
	least := chancery.AssuranceEK
	if r.Require.Assurance != nil {
		least = chancery.AssuranceLevel(*r.Require.Assurance)
	}
	d.Roles, d.Life, d.Live = r.Grant.Roles, time.Duration(r.Grant.Life), r.Grant.Live
	demand := func(ok bool, code, hint, format string, args ...any) {
		what := fmt.Sprintf(format, args...)
		d.Steps = append(d.Steps, Step{r.Name, what, pick(ok)})
		if !ok && d.Reason == "" {
			d.Action, d.Code, d.Reason, d.Hint = Refuse, code, what, hint
		}
	}
	if r.Decide == Refuse {
		demand(false, CodeRule, "", "the rule %q refuses it", r.Name)
		return d
	}
	if s.Revoked {
		demand(r.Grant.Reenrol == Approve, CodeRevoked, "a revoked chip stays revoked", "a node on this chip was revoked")
		d.Action = worse(d.Action, Approve)
		d.Approvals = max(d.Approvals, 1)
	}
	if s.Simulator {
		demand(r.Simulators, CodeSimulator, "for trials only: simulators = true in a rule of the coordinator's policy", "the chip is a simulator")
	}
	if s.Weakness != "" {
		demand(r.WeakChips, CodeWeakChip, "update the chip's firmware, then make a new key; weak_chips = true in a rule of the policy lets it in with assurance 0", "the firmware of the chip gives keys away: %s", s.Weakness)
	}
	if r.Require.Name != "" {
		want := expand(r.Require.Name, s)
		ok, err := path.Match(want, s.Name)
		demand(ok && err == nil, CodeName, "join with --name "+want, "this node must be called %s, not %s", want, s.Name)
	}
	if r.Require.Sealed {
		demand(s.Sealed, CodeSeal, "join without --unsealed", "N:SK must be sealed to the boot state")
	}
	if s.Booted == nil { // which could raise it
		least = min(least, chancery.AssuranceEK)
	}
	demand(d.Assurance >= least, CodeAssurance, "the chip has no EK certificate that a known maker stands behind; import the EK (chancery ek import), add the maker (chancery ek-roots add), or lower require.assurance",
		"the chip proves assurance %q, the policy asks for %q", d.Assurance, least)
	p.boot(d, r, s, demand)
	return d
}

// vouched tells by what the operator vouches for the chip.
func vouched(r *Rule, s *Subject) (list []string) {
	if len(r.Match.EK) > 0 {
		list = append(list, VouchedByPolicy)
	}
	for _, l := range r.Match.EKList {
		if slices.Contains(s.EKLists, l) {
			list = append(list, l)
		}
	}
	return list
}

// VouchedByPolicy stands for a rule that names the EK itself. It is no name of
// a list.
const VouchedByPolicy = "(policy)"

// boot holds the boot state against the rule, or leaves it open.
func (p *Policy) boot(d *Decision, r *Rule, s *Subject, demand func(bool, string, string, string, ...any)) {
	if len(d.Quote) == 0 {
		return
	}
	if s.Booted == nil {
		if d.Action != Refuse {
			d.Open = true
			d.Steps = append(d.Steps, Step{r.Name, fmt.Sprintf("a quote of PCR %v", d.Quote), open})
		}
		return
	}
	for _, pcr := range r.Require.Quote {
		_, ok := s.Booted.Values[pcr]
		demand(ok, CodeState, "update the agent", "PCR %d must be quoted", pcr)
	}
	if r.Require.EventLog {
		demand(s.Booted.EventLog, CodeState, "the agent reads it from /sys/kernel/security/tpm0/binary_bios_measurements", "the boot's event log is asked for")
	}
	if r.Require.SecureBoot {
		_, quoted := s.Booted.Values[secureBootPCR]
		demand(quoted, CodeState, "update the agent", "PCR %d must be quoted", secureBootPCR)
		demand(s.Booted.SecureBoot, CodeState, "switch Secure Boot on in the firmware's settings", "the event log must show Secure Boot switched on")
	}
}

// expand fills a name's pattern in.
func expand(pattern string, s *Subject) string {
	return strings.NewReplacer("{ek}", hex.EncodeToString(s.EKDigest[:])[:12], "{token}", s.Token).Replace(pattern)
}

func pick(ok bool) string {
	if ok {
		return yes
	}
	return no
}

// worse returns the action that lets fewer in.
func worse(a, b string) string {
	order := []string{Auto, Approve, Refuse}
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}
