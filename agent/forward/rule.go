package forward

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/chancery-pki/chancery"
)

// A Rule names peers: those that have all of what it asks for.
type Rule struct {
	text      string
	names     []string // globs, as path.Match has them
	roles     []string
	assurance chancery.AssuranceLevel
	hardware  bool
}

// ParseRule parses terms with spaces between them, all of which have to hold:
//
//	name:GLOB        the node's name, with *, ? and [a-z] as in path.Match
//	role:ROLE        a role in its certificate
//	assurance:LEVEL  at least this level: tpm, ek-verified or quote-matched
//	hardware         its chip is not a simulator
//	any              every node of the fleet
func ParseRule(s string) (Rule, error) {
	r := Rule{text: s}
	terms := strings.Fields(s)
	if len(terms) == 0 {
		return r, &RuleError{s, "it is empty"}
	}
	for _, term := range terms {
		kind, value, has := strings.Cut(term, ":")
		switch {
		case kind == "any" && !has && len(terms) == 1:
		case kind == "hardware" && !has:
			r.hardware = true
		case kind == "name" && value != "":
			if _, err := path.Match(value, ""); err != nil {
				return r, &RuleError{s, fmt.Sprintf("%q is not a pattern", value)}
			}
			r.names = append(r.names, value)
		case kind == "role" && value != "":
			if err := chancery.ValidateName(value); err != nil {
				return r, &RuleError{s, err.Error()}
			}
			r.roles = append(r.roles, value)
		case kind == "assurance" && value != "":
			level, ok := levelOf(value)
			if !ok {
				return r, &RuleError{s, fmt.Sprintf("%q is not a level of assurance", value)}
			}
			r.assurance = max(r.assurance, level)
		default:
			return r, &RuleError{s, fmt.Sprintf("%q is not a term of a rule", term)}
		}
	}
	return r, nil
}

func levelOf(name string) (chancery.AssuranceLevel, bool) {
	for l := chancery.AssuranceSoftware; l <= chancery.AssuranceQuote; l++ {
		if l.String() == name {
			return l, true
		}
	}
	return 0, false
}

// A RuleError is a rule that cannot be used.
type RuleError struct {
	Rule string
	Why  string
}

func (e *RuleError) Error() string { return fmt.Sprintf("rule %q: %s", e.Rule, e.Why) }

// Hint lists what there is.
func (e *RuleError) Hint() string {
	return "a rule has one or more of name:GLOB, role:ROLE, assurance:LEVEL and hardware, with spaces between, or is: any"
}

func (r Rule) String() string { return r.text }

// Allows tells whether the peer has all that the rule asks for.
func (r Rule) Allows(p *chancery.Peer) bool {
	for _, glob := range r.names {
		if ok, err := path.Match(glob, p.Name); err != nil || !ok {
			return false
		}
	}
	for _, role := range r.roles {
		if !slices.Contains(p.Certificate.Roles, role) {
			return false
		}
	}
	a := p.Certificate.Assurance
	return a.Level >= r.assurance && !(r.hardware && a.Simulator)
}

// Rules let in whom one of them names. None let in nobody.
type Rules []Rule

// ParseRules parses each of them.
func ParseRules(list []string) (Rules, error) {
	rules := make(Rules, len(list))
	for i, s := range list {
		var err error
		if rules[i], err = ParseRule(s); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

// Allow tells whether one of the rules allows the peer.
func (rules Rules) Allow(p *chancery.Peer) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return r.Allows(p) })
}
