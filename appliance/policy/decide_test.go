package policy_test

import (
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/policy"
)

// Rules are tried in order, and the first that matches decides: what it asks
// for and is not shown is a refusal, even if a later rule would let the node
// in.
func TestFirstMatchDecides(t *testing.T) {
	p := parse(t, rules(
		"decide = \"refuse\"\nmatch.name = [\"edge-9\"]",
		"decide = \"auto\"\nmatch.name = [\"edge-*\"]\nrequire.sealed = true\ngrant.roles = [\"edge\"]",
		"decide = \"approve\"\nmatch.manufacturer = [\"IFX\"]\ngrant.roles = [\"any\"]",
	))
	for _, test := range []struct {
		what               string
		node               *policy.Subject
		action, rule, code string
	}{
		{"the second", node(), policy.Auto, "rule 2", ""},
		{"the first, although the others match too", node(named("edge-9")), policy.Refuse, "rule 1", policy.CodeRule},
		{"the second, which asks for more than the third", node(unsealed), policy.Refuse, "rule 2", policy.CodeSeal},
		{"the third", node(named("lab-1")), policy.Approve, "rule 3", ""},
		{"none", node(named("lab-1"), func(s *policy.Subject) { s.Manufacturer = "STM" }), policy.Refuse, "", policy.CodeNoRule},
	} {
		wantDecision(t, test.what, p.Decide(test.node), test.action, test.rule, test.code)
	}
	if d := p.Decide(node(named("lab-1"))); !slices.Equal(d.Roles, []string{"any"}) {
		t.Errorf("roles %q, want those of the rule that decided", d.Roles)
	}
	var seen []string
	for _, s := range p.Decide(node(named("lab-1"))).Steps {
		seen = append(seen, s.Rule)
	}
	if want := []string{"rule 1", "rule 2", "rule 3"}; !slices.Equal(slices.Compact(seen), want) {
		t.Errorf("the steps are of %q, want %q", seen, want)
	}
}

// Each demand of a rule refuses a node that does not meet it, with the code of
// docs/protocol.md sections 4.2 and 4.6, and lets pass one that does.
func TestDemands(t *testing.T) {
	const log = "require.quote = [4, 7]\nrequire.event_log = true\n"
	for _, test := range []struct {
		rule, code, reason string
		bad, good          *policy.Subject
	}{
		{"", policy.CodeRevoked, "revoked", node(revoked), node()},
		{"", policy.CodeSimulator, "simulator", node(simulator), node()},
		{"", policy.CodeWeakChip, "ROCA", node(weak), node()},
		{"", policy.CodeAssurance, "tpm", node(nobodysChip), node()},
		{"require.assurance = 1", policy.CodeAssurance, "software", node(func(s *policy.Subject) { s.Assurance = chancery.AssuranceSoftware }), node(nobodysChip)},
		{"match.pcr_set = [\"good\"]\nrequire.assurance = 3", policy.CodeAssurance, "quote-matched", node(booted(4, 7), func(s *policy.Subject) { s.Assurance = chancery.AssuranceTPM }), node(booted(4, 7))},
		{"require.secure_boot = true", policy.CodeState, "PCR 7", node(booted(4), logged(true)), node(booted(7), logged(true))},
		{"require.sealed = true", policy.CodeSeal, "sealed", node(unsealed), node()},
		{`require.name = "lab-*"`, policy.CodeName, "lab-*, not edge-1", node(), node(named("lab-1"))},
		{"require.quote = [4, 7]", policy.CodeState, "PCR 7", node(booted(0, 4)), node(booted(4, 7))},
		{log, policy.CodeState, "event log", node(booted(4, 7)), node(booted(4, 7), logged(false))},
		{log + "require.secure_boot = true", policy.CodeState, "Secure Boot", node(booted(4, 7), logged(false)), node(booted(4, 7), logged(true))},
		{"require.quote = [4, 7]\nrequire.secure_boot = true", policy.CodeState, "event log", node(booted(4, 7)), node(booted(4, 7), logged(true))},
		{"require.event_log = true\nmatch.pcr_set = [\"good\"]", policy.CodeState, "event log", node(booted(4, 7)), node(booted(4, 7), logged(false))},
	} {
		p := parse(t, rules("decide = \"auto\"\n"+test.rule))
		d := p.Decide(test.bad)
		wantDecision(t, test.rule, d, policy.Refuse, "rule 1", test.code)
		if !strings.Contains(d.Reason, test.reason) || d.Hint == "" {
			t.Errorf("%s: reason %q, hint %q; want %q in it, and a hint", test.rule, d.Reason, d.Hint, test.reason)
		}
		if test.good != nil {
			wantDecision(t, test.rule+", met", p.Decide(test.good), policy.Auto, "rule 1", "")
		}
	}
}

// A node that fails at everything is told the first reason, in the order of
// docs/protocol.md section 4.2, and what the others are is in the steps.
func TestOrderOfDemands(t *testing.T) {
	p := parse(t, rules("decide = \"auto\"\nrequire.sealed = true\nrequire.name = \"lab-*\"\nrequire.quote = [4]"))
	s := node(revoked, simulator, weak, unsealed, nobodysChip, booted())
	for _, mend := range []struct {
		code string
		mend func()
	}{
		{policy.CodeRevoked, func() { s.Revoked = false }},
		{policy.CodeSimulator, func() { s.Simulator = false }},
		{policy.CodeWeakChip, func() { s.Weakness = "" }},
		{policy.CodeName, func() { s.Name = "lab-1" }},
		{policy.CodeSeal, func() { s.Sealed = true }},
		{policy.CodeAssurance, func() { s.Assurance = chancery.AssuranceEK }},
		{policy.CodeState, func() { booted(4)(s) }},
	} {
		d := p.Decide(s)
		wantDecision(t, "what is left", d, policy.Refuse, "rule 1", mend.code)
		said := 0
		for _, step := range d.Steps {
			if step.Result == "no" {
				said++
			}
		}
		mend.mend()
		if after := p.Decide(s); said == 0 || len(after.Steps) > len(d.Steps) {
			t.Errorf("%s: %d steps say no in %+v, then %+v", mend.code, said, d.Steps, after.Steps)
		}
	}
	wantDecision(t, "nothing is left", p.Decide(s), policy.Auto, "rule 1", "")
}

// What a rule opens by name is open; nothing else is.
func TestOpenings(t *testing.T) {
	const auto = "decide = \"auto\"\n"
	for _, test := range []struct {
		what, rule   string
		node         *policy.Subject
		action, code string
	}{
		{"a simulator", auto + "simulators = true", node(simulator), policy.Auto, ""},
		{"a simulator without a certificate", auto + "simulators = true", node(simulator, nobodysChip), policy.Refuse, policy.CodeAssurance},
		{"a simulator, software will do", auto + "simulators = true\nrequire.assurance = 0", node(simulator, nobodysChip), policy.Auto, ""},
		{"matching simulators lets none in", auto + "match.simulator = true", node(simulator), policy.Refuse, policy.CodeSimulator},
		{"a weak chip proves nothing", auto + "weak_chips = true", node(weak), policy.Refuse, policy.CodeAssurance},
		{"a weak chip, software will do", auto + "weak_chips = true\nrequire.assurance = 0", node(weak), policy.Auto, ""},
		{"software will do, but not a weak chip", auto + "require.assurance = 0", node(weak), policy.Refuse, policy.CodeWeakChip},
		{"a revoked chip", auto + `grant.reenrol = "approve"`, node(revoked), policy.Approve, ""},
		{"a revoked chip stays out", auto + `grant.reenrol = "refuse"`, node(revoked), policy.Refuse, policy.CodeRevoked},
		{"a revoked chip is not excused from the rest", auto + `grant.reenrol = "approve"` + "\nrequire.sealed = true", node(revoked, unsealed), policy.Refuse, policy.CodeSeal},
		{"a refusal is one for revoked chips too", "decide = \"refuse\"\n" + `grant.reenrol = "approve"`, node(revoked), policy.Refuse, policy.CodeRule},
	} {
		wantDecision(t, test.what, parse(t, rules(test.rule)).Decide(test.node), test.action, "rule 1", test.code)
	}
}

// Approvals are as many as the rule says. A revoked chip takes one at least,
// whatever the rule would have decided.
func TestApprovals(t *testing.T) {
	for _, test := range []struct {
		rule string
		node *policy.Subject
		want int
	}{
		{`decide = "auto"`, node(), 0},
		{`decide = "approve"`, node(), 1},
		{"decide = \"approve\"\napprovals = 3", node(), 3},
		{"decide = \"auto\"\ngrant.reenrol = \"approve\"", node(), 0},
		{"decide = \"auto\"\ngrant.reenrol = \"approve\"", node(revoked), 1},
		{"decide = \"approve\"\napprovals = 3\ngrant.reenrol = \"approve\"", node(revoked), 3},
	} {
		d := parse(t, rules(test.rule)).Decide(test.node)
		if d.Approvals != test.want || (d.Action == policy.Approve) != (test.want > 0) || d.Open {
			t.Errorf("%s: %s by %d operators, want %d", test.rule, d.Action, d.Approvals, test.want)
		}
	}
}

// Assurance is 2 if a maker or an operator's list vouches for the EK, else 1;
// 3 if then a rule for a boot state decided; 0 for firmware that gives keys
// away (docs/protocol.md section 4.6).
func TestAssurance(t *testing.T) {
	const set, list = "match.pcr_set = [\"good\"]\n", "match.ek_list = [\"lab\"]\n"
	inState, onList := booted(4, 7), onLists("lab")
	for _, test := range []struct {
		what, match string
		node        *policy.Subject
		want        chancery.AssuranceLevel
	}{
		{"a maker's", "", node(), chancery.AssuranceEK},
		{"nobody's", "", node(nobodysChip), chancery.AssuranceTPM},
		{"nobody's, on a list", list, node(nobodysChip, onList), chancery.AssuranceEK},
		{"nobody's, named", "match.ek = [\"" + ourEK + "\"]\n", node(nobodysChip), chancery.AssuranceEK},
		{"nobody's, on a list that the rule does not name", "", node(nobodysChip, onList), chancery.AssuranceTPM},
		{"a maker's, in a boot state", set, node(inState), chancery.AssuranceQuote},
		{"on a list, in a boot state", list + set, node(nobodysChip, onList, inState), chancery.AssuranceQuote},
		{"nobody's, in a boot state", set, node(nobodysChip, inState), chancery.AssuranceTPM},
		{"a maker's, quoted only", "require.quote = [4]\n", node(inState), chancery.AssuranceEK},
		{"weak", "", node(weak), chancery.AssuranceSoftware},
		{"weak, on a list", list, node(weak, onList), chancery.AssuranceSoftware},
		{"weak, in a boot state", set, node(weak, inState), chancery.AssuranceSoftware},
	} {
		d := parse(t, rules("decide = \"auto\"\nweak_chips = true\nrequire.assurance = 0\n"+test.match)).Decide(test.node)
		if d.Action != policy.Auto || d.Open || d.Assurance != test.want {
			t.Errorf("%s: %s, assurance %s, want %s", test.what, d.Action, d.Assurance, test.want)
		}
		if state := d.State; (state == "good") != (strings.Contains(test.match, set)) {
			t.Errorf("%s: boot state %q", test.what, state)
		}
	}
}

// A name may have to be the chip's, or the token's.
func TestNames(t *testing.T) {
	for _, test := range []struct {
		pattern string
		node    *policy.Subject
		good    bool
	}{
		{"edge-1", node(), true},
		{"edge-?", node(), true},
		{"{ek}", node(named(ourEK[:12])), true},
		{"lab-{ek}", node(named("lab-" + ourEK[:12])), true},
		{"lab-{ek}-*", node(named("lab-" + ourEK[:12] + "-a")), true},
		{"lab-{ek}", node(named("lab-" + ourEK[:13])), false},
		{"lab-{ek}", node(named("lab-" + otherEK[:12])), false},
		{"{token}", node(), true}, // the token's names are a pattern too
		{"{token}", node(withToken("edge-1")), true},
		{"{token}", node(withToken("edge-2")), false},
		{"{token}", node(named("lab-1")), false},
		{"{token}.{ek}", node(named("edge-7." + ourEK[:12])), true},
		{"{token}", node(enrolled, withoutToken), false},
		{"x-{token}", node(withToken("edge-["), named("x-edge-[")), false},
	} {
		d := parse(t, rules("decide = \"auto\"\nrequire.name = \""+test.pattern+"\"")).Decide(test.node)
		action, code := policy.Auto, ""
		if !test.good {
			action, code = policy.Refuse, policy.CodeName
		}
		wantDecision(t, test.pattern+" for "+test.node.Name, d, action, "rule 1", code)
	}
	d := parse(t, rules("decide = \"auto\"\nrequire.name = \"lab-{ek}\"")).Decide(node())
	if want := "lab-" + ourEK[:12]; !strings.Contains(d.Reason, want) || !strings.Contains(d.Hint, want) {
		t.Errorf("reason %q, hint %q; want the name that it should have had", d.Reason, d.Hint)
	}
}

func TestGrant(t *testing.T) {
	p := parse(t, rules("decide = \"auto\"\ngrant.roles = [\"edge\", \"db\"]\ngrant.life = \"36h\"\ngrant.live = 3"))
	if d := p.Decide(node()); !slices.Equal(d.Roles, []string{"edge", "db"}) || d.Life != 36*time.Hour || d.Live != 3 {
		t.Errorf("roles %q, life %s, %d live", d.Roles, d.Life, d.Live)
	}
}

// Before the quote: a rule that depends on it leaves the decision open, and
// the node is asked for all that the rules want that may yet decide.
func TestOpen(t *testing.T) {
	const (
		good    = "decide = \"auto\"\nmatch.pcr_set = [\"good\"]\n"    // PCR 4 and 7
		other   = "decide = \"auto\"\nmatch.pcr_set = [\"other\"]\n"   // PCR 11
		early   = "decide = \"refuse\"\nmatch.pcr_set = [\"early\"]\n" // PCR 0
		quote   = "decide = \"auto\"\nrequire.quote = [9, 2, 9]\n"
		log     = "require.event_log = true\n"
		second  = "require.second_opinion = true\n"
		auto    = "decide = \"auto\"\n"
		refuse  = "decide = \"refuse\"\n"
		another = "match.name = [\"lab-*\"]\n"
	)
	for _, test := range []struct {
		what        string
		rules       []string
		want        []int
		log, second bool
	}{
		{"what a rule requires, rising and once each", []string{quote}, []int{2, 9}, false, false},
		{"what a boot state is made of", []string{good}, []int{4, 7}, false, false},
		{"of all the boot states", []string{"decide = \"auto\"\nmatch.pcr_set = [\"other\", \"good\"]"}, []int{4, 7, 11}, false, false},
		{"both", []string{good + "require.quote = [2]"}, []int{2, 4, 7}, false, false},
		{"the log", []string{good + log}, []int{4, 7}, true, false},
		{"Secure Boot shows in the log", []string{good + "require.secure_boot = true"}, []int{4, 7}, true, false},
		{"a second opinion", []string{good + second}, []int{4, 7}, false, true},
		{"several rules may yet decide", []string{good + log, other + second}, []int{4, 7, 11}, true, true},
		{"each of them wants something else", []string{other + second, good + log}, []int{4, 7, 11}, true, true},
		{"then one that decides in any state", []string{good, auto}, []int{4, 7}, false, false},
		{"and wants a quote itself", []string{good, quote + log}, []int{2, 4, 7, 9}, true, false},
		{"then a refusal", []string{good, refuse}, []int{4, 7}, false, false},
		{"a refusal that depends on the state, then the others", []string{early, auto}, []int{0}, false, false},
		{"rules after the one that decides do not matter", []string{good, auto, other + log}, []int{4, 7}, false, false},
		{"rules for other nodes do not matter", []string{other + another + log, good, auto + another}, []int{4, 7}, false, false},
		{"rules before do not matter when they are for others", []string{refuse + another, quote}, []int{2, 9}, false, false},
	} {
		p := parse(t, rules(test.rules...))
		d := p.Decide(node())
		if !d.Open || d.Code != "" || d.Reason != "" || !slices.Equal(d.Quote, test.want) || d.EventLog != test.log || d.SecondOpinion != test.second {
			t.Errorf("%s: open %t, code %q, quote %v, log %t, second opinion %t; want open, %v, %t, %t", test.what, d.Open, d.Code, d.Quote, d.EventLog, d.SecondOpinion, test.want, test.log, test.second)
		}
		if last := d.Steps[len(d.Steps)-1]; !slices.ContainsFunc(d.Steps, func(s policy.Step) bool { return s.Result == "open" }) {
			t.Errorf("%s: no step is open, the last is %+v", test.what, last)
		}
		if d := p.Decide(node(booted(0, 2, 4, 7, 9, 11), logged(true))); d.Open {
			t.Errorf("%s: still open after the quote: %+v", test.what, d)
		}
	}
}

// After the quote the first rule that matches decides, whether or not the
// quote mattered to it.
func TestClosed(t *testing.T) {
	p := parse(t, rules(
		"decide = \"refuse\"\nmatch.pcr_set = [\"early\"]",
		"decide = \"auto\"\nmatch.pcr_set = [\"good\"]\nrequire.assurance = 3",
		"decide = \"approve\"\nrequire.quote = [4]",
	))
	for _, test := range []struct {
		what               string
		node               *policy.Subject
		action, rule, code string
		level              chancery.AssuranceLevel
	}{
		{"in the good state", node(booted(4, 7)), policy.Auto, "rule 2", "", chancery.AssuranceQuote},
		{"in a bad one too", node(booted(0, 4, 7)), policy.Refuse, "rule 1", policy.CodeRule, 0},
		{"in no state that is known", node(booted(4)), policy.Approve, "rule 3", "", chancery.AssuranceEK},
		{"it did not quote what it was asked to", node(booted(7)), policy.Refuse, "rule 3", policy.CodeState, 0},
		{"in the good state, on nobody's chip", node(booted(4, 7), nobodysChip), policy.Refuse, "rule 2", policy.CodeAssurance, 0},
	} {
		d := p.Decide(test.node)
		wantDecision(t, test.what, d, test.action, test.rule, test.code)
		if d.Action != policy.Refuse && d.Assurance != test.level {
			t.Errorf("%s: assurance %s, want %s", test.what, d.Assurance, test.level)
		}
	}
}

// A refusal that no quote can mend comes before the chip is asked for one; it
// is not refused yet for what a quote may show.
func TestRefusedBeforeTheQuote(t *testing.T) {
	const rule = "decide = \"auto\"\nrequire.quote = [4, 7]\nrequire.secure_boot = true\n"
	for _, test := range []struct {
		rule string
		node *policy.Subject
		code string
	}{
		{"", node(revoked), policy.CodeRevoked},
		{"", node(simulator), policy.CodeSimulator},
		{"", node(weak), policy.CodeWeakChip},
		{"", node(nobodysChip), policy.CodeAssurance},
		{"require.sealed = true", node(unsealed), policy.CodeSeal},
		{`require.name = "lab-*"`, node(), policy.CodeName},
	} {
		wantDecision(t, test.code, parse(t, rules(rule+test.rule)).Decide(test.node), policy.Refuse, "rule 1", test.code)
	}
	wantDecision(t, "a rule that refuses", parse(t, rules("decide = \"refuse\"\nrequire.quote = [4]")).Decide(node()), policy.Refuse, "rule 1", policy.CodeRule)
	if d := parse(t, rules(rule)).Decide(node()); !d.Open || d.Action != policy.Auto || d.Rule != "rule 1" || d.Assurance != chancery.AssuranceEK {
		t.Errorf("a node that may enrol if the quote is good: %+v", d)
	}
	if d := parse(t, rules("decide = \"approve\"\napprovals = 2\nrequire.quote = [4]")).Decide(node()); !d.Open || d.Action != policy.Approve || d.Approvals != 2 {
		t.Errorf("a node that operators may let in if the quote is good: %+v", d)
	}
}

// A policy is one for all the requests that are under way: asking it changes
// nothing in it, and one node gets one answer.
func TestDecideChangesNothing(t *testing.T) {
	text := rules(
		"decide = \"refuse\"\nmatch.pcr_set = [\"early\"]\nrequire.quote = [14]",
		"decide = \"auto\"\nmatch.pcr_set = [\"good\", \"other\"]\nrequire.quote = [7, 2, 0]\nrequire.secure_boot = true\nrequire.second_opinion = true",
		"decide = \"approve\"\nmatch.ek = [\""+ourEK+"\"]\nmatch.ek_list = [\"lab\"]\nrequire.quote = [9]\nrequire.name = \"{token}\"\ngrant.roles = [\"b\", \"a\"]\ngrant.reenrol = \"approve\"",
		"decide = \"auto\"\nmatch.issuer = [\"*\"]\nmatch.firmware = \"> 1, < 9\"",
	)
	p := parse(t, text)
	nodes := []*policy.Subject{node(), node(booted(4, 7)), node(booted(0)), node(booted(0, 2, 4, 7, 9, 14), logged(true)),
		node(revoked, onLists("lab")), node(withoutToken), node(weak, simulator, unsealed, booted(9)), node(named("lab-1"), booted())}
	var want []*policy.Decision
	for _, n := range nodes {
		want = append(want, parse(t, text).Decide(n))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				for i, n := range nodes {
					if d := p.Decide(n); !reflect.DeepEqual(d, want[i]) {
						t.Errorf("node %d: %+v, another time %+v", i, d, want[i])
					}
				}
			}
		})
	}
	wg.Wait()
	if !reflect.DeepEqual(p, parse(t, text)) {
		t.Error("the policy is another one than before")
	}
}
