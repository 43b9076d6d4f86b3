// Package policy decides which chips may enrol, and under what name, roles and
// assurance.
//
// Start with [Parse], which reads a policy: a list of rules in TOML. A
// [Subject] is what is known of a node; [Policy.Decide] finds the first rule
// that matches it and returns the [Decision], with the way to it for people.
// Nothing that the policy does not say is allowed: a node that no rule matches
// is refused.
//
// # Before and after the quote
//
// A rule may ask for a boot state, which is not known when a node knocks. Then
// the decision is open, and says which PCRs to ask the node for; with the quote
// it is made again.
package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/tomlkeys"
)

// A Policy is a parsed policy file.
type Policy struct {
	// Version is the operator's number of the file. It rises with each change.
	Version int `toml:"version"`
	// Rules are tried in order; the first that matches decides.
	Rules []Rule `toml:"rule"`
	// PCRSets are boot states that rules refer to.
	PCRSets []PCRSet `toml:"pcr_set"`
	// Attest says what becomes of nodes after their enrolment.
	Attest Attest `toml:"attest"`

	// Hash is SHA-256 over the file, hexadecimal: what records refer to.
	Hash string `toml:"-"`
}

// A Rule is a [[rule]] table.
type Rule struct {
	Name string `toml:"name"`
	// Decide is what to do with nodes that match: auto, approve or refuse.
	Decide string `toml:"decide"`
	// Approvals is how many operators have to agree, for approve. Default 1.
	Approvals int `toml:"approvals"`
	// Simulators lets TPMs in software in. Whoever controls such a node's disk
	// controls its key. For trials only.
	Simulators bool `toml:"simulators"`
	// WeakChips lets chips in whose firmware is known to give keys away, with
	// assurance 0; require.assurance has to allow that too.
	WeakChips bool `toml:"weak_chips"`

	Match   Match   `toml:"match"`
	Require Require `toml:"require"`
	Grant   Grant   `toml:"grant"`
}

// Match says whom a rule is about. All that is given must hold; of a list, one
// entry. Texts are patterns as in edge-*.
type Match struct {
	EK           []string `toml:"ek"`           // SHA-256 over the EK's SubjectPublicKeyInfo, hexadecimal
	EKList       []string `toml:"ek_list"`      // names of lists: chancery ek import
	Issuer       []string `toml:"issuer"`       // of the EK certificate, RFC 2253
	Manufacturer []string `toml:"manufacturer"` // as the chip says, such as IFX
	Model        []string `toml:"model"`        // as the chip says
	Firmware     string   `toml:"firmware"`     // such as ">= 7.85, < 8"
	Token        []string `toml:"token"`        // the names that the join token is good for, exactly
	Name         []string `toml:"name"`         // that the node wants
	PCRSet       []string `toml:"pcr_set"`      // names of [[pcr_set]] tables, of which the boot state is one
	Simulator    *bool    `toml:"simulator"`
}

// Require says what a node that matches must show. One that does not is
// refused.
type Require struct {
	// Assurance is the least: 0 software, 1 a TPM, 2 one whose maker or whose
	// buyer vouches for it. Default 2.
	Assurance *int `toml:"assurance"`
	// Sealed asks for an N:SK that is sealed to the boot state.
	Sealed bool `toml:"sealed"`
	// Quote are PCRs that the node must quote.
	Quote []int `toml:"quote"`
	// EventLog asks for the boot's event log, which must lead to the quoted
	// values. It needs a quote or a pcr_set.
	EventLog bool `toml:"event_log"`
	// SecureBoot asks that the event log shows Secure Boot switched on.
	SecureBoot bool `toml:"secure_boot"`
	// SecondOpinion asks that a second implementation agrees with the quote and
	// the event log.
	SecondOpinion bool `toml:"second_opinion"`
	// Name is what the node must be called: a pattern in which {ek} stands for
	// the first 12 digits of the EK's digest and {token} for the name that the
	// token is good for.
	Name string `toml:"name"`
}

// Grant says what a node gets.
type Grant struct {
	// Roles are beside those of the token.
	Roles []string `toml:"roles"`
	// Life is the longest life of a certificate. Default the coordinator's.
	Life Duration `toml:"life"`
	// Live is how many live nodes one chip may have. Default 1.
	Live int `toml:"live"`
	// Reenrol is what to do with a chip on which a node was revoked: refuse,
	// or approve. Default refuse.
	Reenrol string `toml:"reenrol"`
}

// A PCRSet is a [[pcr_set]] table: one boot state, or several that differ in
// some PCRs.
type PCRSet struct {
	Name string `toml:"name"`
	// Values has for each PCR its good values, hexadecimal.
	Values map[string][]string `toml:"values"`

	values map[int][][32]byte
}

// Attest is the [attest] table.
type Attest struct {
	// OnFailure is what becomes of a node that attests a state that the policy
	// refuses: report, hold (it is not renewed until an operator says so) or
	// revoke. Default hold.
	OnFailure string `toml:"on_failure"`
	// Within holds a node that has not attested for that long. Default never.
	Within Duration `toml:"within"`
}

// What a rule decides.
const (
	Auto    = "auto"
	Approve = "approve"
	Refuse  = "refuse"
)

// What becomes of a node that fails to attest.
const (
	Report = "report"
	Hold   = "hold"
	Revoke = "revoke"
)

// A Duration is written as Go writes one: 168h.
type Duration time.Duration

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText writes it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// maxPolicy is in bytes; allow-lists are not in it.
const maxPolicy = 1 << 20

// An Error is what is wrong with a policy.
type Error struct {
	Where string // rule or set; empty if it is the file
	Err   error
	hint  string
}

func (e *Error) Error() string {
	if e.Where == "" {
		return "policy: " + e.Err.Error()
	}
	return fmt.Sprintf("policy: %s: %v", e.Where, e.Err)
}

// Unwrap returns what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// Hint says how to write it, or is empty.
func (e *Error) Hint() string { return e.hint }

func wrong(where, hint, format string, args ...any) error {
	return &Error{Where: where, Err: fmt.Errorf(format, args...), hint: hint}
}

// Parse reads and checks a policy. Unknown keys are errors. All errors are
// [*Error].
func Parse(text []byte) (*Policy, error) {
	if len(text) > maxPolicy {
		return nil, wrong("", "long lists of chips belong into: chancery ek import", "%d bytes, at most %d", len(text), maxPolicy)
	}
	p := &Policy{}
	if err := tomlkeys.Check(text, p); err != nil {
		return nil, wrong("", "keys are in docs/policy.md", "%w", err)
	}
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		var strict *toml.StrictMissingError
		var syntax *toml.DecodeError
		switch {
		case errors.As(err, &strict):
			return nil, wrong("", "remove it, or look for a slip", "unknown key:\n%s", strict.String())
		case errors.As(err, &syntax):
			return nil, wrong("", "it must be TOML 1.0; see docs/policy.md", "%w\n%s", syntax, syntax.String())
		}
		return nil, wrong("", "it must be TOML 1.0; see docs/policy.md", "%w", err)
	}
	sum := sha256.Sum256(text)
	p.Hash = hex.EncodeToString(sum[:])
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Policy) check() error {
	if p.Version < 1 {
		return wrong("", "version = 1", "version %d, want 1 or more", p.Version)
	}
	if len(p.Rules) == 0 {
		return wrong("", "a policy without rules refuses everybody; if that is what you want, say so: [[rule]] with decide = \"refuse\"", "it has no rule")
	}
	if p.Attest.OnFailure == "" {
		p.Attest.OnFailure = Hold
	}
	if !slices.Contains([]string{Report, Hold, Revoke}, p.Attest.OnFailure) {
		return wrong("attest", "report, hold or revoke", "on_failure %q", p.Attest.OnFailure)
	}
	if p.Attest.Within < 0 {
		return wrong("attest", "as in 72h, or 0s for never", "within %s must not be below 0", time.Duration(p.Attest.Within))
	}
	sets := map[string]bool{}
	for i := range p.PCRSets {
		if err := p.PCRSets[i].check(sets); err != nil {
			return err
		}
	}
	rules := map[string]bool{}
	for i := range p.Rules {
		if err := p.Rules[i].check(rules, sets); err != nil {
			return err
		}
	}
	return nil
}

func (s *PCRSet) check(seen map[string]bool) error {
	where := fmt.Sprintf("pcr_set %q", s.Name)
	if s.Name == "" || seen[s.Name] {
		return wrong(where, "each set has a name of its own", "no name, or one that another set has")
	}
	seen[s.Name] = true
	if len(s.Values) == 0 {
		return wrong(where, "7 = [\"sha256...\"]", "it has no values")
	}
	s.values = map[int][][32]byte{}
	for name, list := range s.Values {
		pcr, ok := number(name)
		if !ok {
			return wrong(where, "0 to 23", "%q is no PCR", name)
		}
		for _, text := range list {
			b, err := hex.DecodeString(text)
			if err != nil || len(b) != 32 {
				return wrong(where, "64 hexadecimal digits, as chancery node evidence prints them", "PCR %d: %q is no SHA-256 value", pcr, text)
			}
			s.values[pcr] = append(s.values[pcr], [32]byte(b))
		}
		if len(list) == 0 {
			return wrong(where, "leave the PCR out, or give it a value", "PCR %d has no values", pcr)
		}
	}
	return nil
}

// number reads a PCR's number.
func number(s string) (int, bool) {
	for n := range 24 {
		if s == fmt.Sprint(n) {
			return n, true
		}
	}
	return 0, false
}

func (r *Rule) check(seen, sets map[string]bool) error {
	where := fmt.Sprintf("rule %q", r.Name)
	if r.Name == "" || seen[r.Name] {
		return wrong(where, "each rule has a name of its own", "no name, or one that another rule has")
	}
	seen[r.Name] = true
	switch r.Decide {
	case Auto, Refuse:
		if r.Approvals != 0 {
			return wrong(where, "leave approvals out, or decide approve", "approvals are for decide = \"approve\"")
		}
	case Approve:
		if r.Approvals < 0 {
			return wrong(where, "1 or more", "approvals %d", r.Approvals)
		}
		r.Approvals = max(r.Approvals, 1)
	default:
		return wrong(where, "auto, approve or refuse", "decide %q", r.Decide)
	}
	if err := r.Match.check(where, sets); err != nil {
		return err
	}
	if err := r.Require.check(where, len(r.Match.PCRSet) > 0); err != nil {
		return err
	}
	return r.Grant.check(where)
}

func (m *Match) check(where string, sets map[string]bool) error {
	for i, ek := range m.EK {
		m.EK[i] = strings.ToLower(ek)
		if b, err := hex.DecodeString(ek); err != nil || len(b) != 32 {
			return wrong(where, "64 hexadecimal digits, as chancery-agent identify prints them", "ek %q is no SHA-256 digest", ek)
		}
	}
	for name, list := range map[string][]string{"ek": m.EK, "ek_list": m.EKList, "issuer": m.Issuer, "manufacturer": m.Manufacturer, "model": m.Model, "token": m.Token, "name": m.Name, "pcr_set": m.PCRSet} {
		if list != nil && len(list) == 0 { // which would match everybody
			return wrong(where, "leave it out, or name what shall match", "match.%s is empty", name)
		}
	}
	for _, list := range [][]string{m.Issuer, m.Manufacturer, m.Model, m.Token, m.Name} {
		for _, pattern := range list {
			if _, err := path.Match(pattern, ""); err != nil {
				return wrong(where, "as in edge-*", "%q is no pattern", pattern)
			}
		}
	}
	for _, set := range m.PCRSet {
		if !sets[set] {
			return wrong(where, "add a [[pcr_set]] of that name", "there is no pcr_set %q", set)
		}
	}
	if _, err := parseRange(m.Firmware); err != nil {
		return wrong(where, `as in ">= 7.85, < 8"`, "firmware: %w", err)
	}
	return nil
}

func (q *Require) check(where string, set bool) error {
	if q.Assurance != nil && (*q.Assurance < 0 || *q.Assurance > int(chancery.AssuranceQuote)) {
		return wrong(where, "0 to 3", "assurance %d", *q.Assurance)
	}
	for _, pcr := range q.Quote {
		if pcr < 0 || pcr > 23 {
			return wrong(where, "0 to 23", "quote: %d is no PCR", pcr)
		}
	}
	if (q.EventLog || q.SecondOpinion) && !q.SecureBoot && len(q.Quote) == 0 && !set {
		return wrong(where, "add quote = [0, 2, 4, 7] under [rule.require]", "an event log or a second opinion without a quote proves nothing")
	}
	if q.Assurance != nil && *q.Assurance == int(chancery.AssuranceQuote) && !set {
		return wrong(where, "add match.pcr_set: a boot state that matched is what gives 3", "assurance 3 without a pcr_set is met by nobody")
	}
	q.EventLog = q.EventLog || q.SecureBoot
	if _, err := path.Match(q.Name, ""); err != nil {
		return wrong(where, "as in edge-{ek}", "name: %q is no pattern", q.Name)
	}
	return nil
}

func (g *Grant) check(where string) error {
	if len(g.Roles) > chancery.MaxRoles {
		return wrong(where, "use fewer, which say more", "%d roles, at most %d", len(g.Roles), chancery.MaxRoles)
	}
	for _, role := range g.Roles {
		if err := chancery.ValidateName(role); err != nil {
			return wrong(where, "a name as nodes have them", "role: %w", err)
		}
	}
	if g.Life < 0 {
		return wrong(where, "as in 24h", "life %s must not be below 0", time.Duration(g.Life))
	}
	if g.Live < 0 {
		return wrong(where, "1 or more", "live %d must not be below 0", g.Live)
	}
	g.Live = max(g.Live, 1)
	if g.Reenrol == "" {
		g.Reenrol = Refuse
	}
	if g.Reenrol != Refuse && g.Reenrol != Approve {
		return wrong(where, "refuse or approve", "reenrol %q", g.Reenrol)
	}
	return nil
}

// matches reports whether one of the patterns does; none at all always does.
func matches(patterns []string, s string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(escapeSlash(p), escapeSlash(s))
		return ok && err == nil
	})
}

// escapeSlash makes slashes ordinary characters: issuers' names have some.
func escapeSlash(s string) string { return strings.ReplaceAll(s, "/", "\x01") }
