package policy_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/policy"
)

// anyRule draws a rule that may or may not be for node's variants. With
// assurance 3 comes the boot state that alone can give it.
func anyRule(t *rapid.T) string {
	var b strings.Builder
	line := func(list ...string) { b.WriteString(rapid.SampledFrom(list).Draw(t, "line") + "\n") }
	line(`decide = "auto"`, `decide = "auto"`, `decide = "approve"`, `decide = "refuse"`)
	line("", "", "simulators = true", "weak_chips = true\nrequire.assurance = 0")
	line("", `match.name = ["edge-*"]`, `match.name = ["lab-*"]`)
	line("", `match.token = ["edge-*"]`, `match.ek_list = ["lab"]`, `match.ek = ["`+ourEK+`"]`)
	line("", "", `match.firmware = "> 15"`, `match.issuer = ["*"]`, "match.simulator = false")
	line("", `match.pcr_set = ["good"]`, `match.pcr_set = ["other"]`, `match.pcr_set = ["early", "good"]`)
	line("", "require.quote = [4, 7]\nrequire.secure_boot = true", "require.quote = [2]", "require.quote = [0, 9]\nrequire.event_log = true\nrequire.second_opinion = true")
	line("", "", "require.sealed = true", `require.name = "{token}"`)
	line("", "", `grant.reenrol = "approve"`, `grant.roles = ["edge"]`)
	if strings.Contains(b.String(), "pcr_set") && !strings.Contains(b.String(), "assurance") {
		line("", "require.assurance = 3")
	}
	return b.String()
}

// anyNode draws a node that has not quoted yet.
func anyNode(t *rapid.T) *policy.Subject {
	s := node()
	for _, c := range []change{withoutToken, enrolled, revoked, simulator, weak, unsealed, nobodysChip, named("lab-1"), withToken("lab-*"), onLists("lab")} {
		if rapid.IntRange(0, 4).Draw(t, "change") == 0 {
			c(s)
		}
	}
	return s
}

// anyBoot draws a state of the machine: a value for each PCR, good ones more
// often.
func anyBoot(t *rapid.T) *policy.Boot {
	b := &policy.Boot{Values: map[int][32]byte{}, EventLog: rapid.Bool().Draw(t, "log")}
	b.SecureBoot = b.EventLog && rapid.Bool().Draw(t, "secure boot")
	for n := range 24 {
		b.Values[n] = [32]byte(pcr(byte(rapid.SampledFrom([]int{n, n, n, 77, 99}).Draw(t, "value"))))
	}
	return b
}

// Whatever the policy and the node:
//
//   - a refusal has a code and a reason, an admission has a rule and neither;
//   - after the quote nothing is open;
//   - who is refused before the quote is refused with any quote;
//   - who is admitted before the quote is admitted with any quote, in the same
//     way;
//   - the PCRs that are asked for are enough to decide by.
func TestDecisions(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var list []string
		for range rapid.IntRange(1, 4).Draw(rt, "rules") {
			list = append(list, anyRule(rt))
		}
		p := parse(rt, rules(list...))
		s, boot := anyNode(rt), anyBoot(rt)
		before := p.Decide(s)
		s.Booted = boot
		after := p.Decide(s)

		for what, d := range map[string]*policy.Decision{"before": before, "after": after} {
			refused := d.Action == policy.Refuse && !d.Open
			if refused != (d.Code != "") || refused != (d.Reason != "") || !refused && !d.Open && d.Rule == "" {
				rt.Errorf("%s: %+v", what, d)
			}
			if !refused && !d.Open && (d.Action == policy.Approve) != (d.Approvals > 0) {
				rt.Errorf("%s: %s by %d operators", what, d.Action, d.Approvals)
			}
			if d.Open && len(d.Quote) == 0 {
				rt.Errorf("%s: open, and nothing is asked for", what)
			}
			for _, step := range d.Steps {
				if step.Rule == "" || step.What == "" || !slices.Contains([]string{"yes", "no", "open"}, step.Result) {
					rt.Errorf("%s: step %+v", what, step)
				}
			}
		}
		same := func(a, b *policy.Decision) bool {
			return a.Action == b.Action && a.Rule == b.Rule && a.Code == b.Code && a.Approvals == b.Approvals && a.Assurance == b.Assurance
		}
		if after.Open {
			rt.Errorf("open after the quote: %+v", after)
		}
		if !before.Open && !same(before, after) {
			rt.Errorf("before the quote %+v\nafter it %+v\n%s", before, after, strings.Join(list, "\n"))
		}
		if before.Open {
			asked := *boot
			asked.Values = maps.Clone(boot.Values)
			maps.DeleteFunc(asked.Values, func(n int, _ [32]byte) bool { return !slices.Contains(before.Quote, n) })
			s.Booted = &asked
			if enough := p.Decide(s); !same(enough, after) {
				rt.Errorf("with the PCRs that were asked for, %v: %+v\nwith all: %+v\n%s", before.Quote, enough, after, strings.Join(list, "\n"))
			}
		}
		if after.Action != policy.Refuse && (after.Assurance == chancery.AssuranceSoftware) != (s.Weakness != "") {
			rt.Errorf("weakness %q, assurance %s", s.Weakness, after.Assurance)
		}
	})
}

// A rule decides whatever comes after it, and wherever rules for others stand.
func TestRulesAfter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		first, later := anyRule(rt), anyRule(rt)
		others := "decide = \"refuse\"\nmatch.model = [\"of another maker\"]"
		s := anyNode(rt)
		s.Booted = anyBoot(rt)
		alone := parse(rt, rules(first)).Decide(s)
		if alone.Rule == "" {
			return
		}
		if d := parse(rt, rules(first, later)).Decide(s); fmt.Sprint(d) != fmt.Sprint(alone) {
			rt.Errorf("alone %+v\nwith another rule after it %+v", alone, d)
		}
		if d := parse(rt, rules(others, first)).Decide(s); d.Rule != "rule 2" || d.Action != alone.Action || d.Code != alone.Code {
			rt.Errorf("alone %+v\nwith a rule for others before it %+v", alone, d)
		}
	})
}

// Whatever is a policy can be asked.
func FuzzParse(f *testing.F) {
	doc, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		f.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllSubmatch(doc, -1) {
		f.Add(block[1])
	}
	f.Add([]byte(rules("decide = \"approve\"\nmatch.issuer = [\"*/[a-z]?\"]\nmatch.firmware = \">= 7.85, < 8\"\nrequire.name = \"{ek}-{token}\"")))
	f.Add([]byte(rules("decide = \"auto\"\nmatch.ek = [\""+ourEK+"\"]\nrequire.quote = [0]\ngrant.life = \"1h\"") + "[attest]\non_failure = \"revoke\""))
	f.Add([]byte(rules("decide = \"refuse\"\nmatch.pcr_set = [\"good\", \"other\"]\nmatch.simulator = true")))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := policy.Parse(text)
		if err != nil {
			if e, ok := err.(*policy.Error); !ok || e.Error() == "" {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		for _, s := range []*policy.Subject{node(), node(booted(4, 7), logged(true)), node(withoutToken, withToken("["), booted(), revoked, weak, simulator, unsealed), {}} {
			d := p.Decide(s)
			if s.Booted != nil && d.Open || !slices.Contains([]string{policy.Auto, policy.Approve, policy.Refuse}, d.Action) {
				t.Fatalf("%+v", d)
			}
			if !d.Open && (d.Action == policy.Refuse) != (d.Code != "" && d.Reason != "") {
				t.Fatalf("%+v", d)
			}
		}
		p.NamesEK([32]byte{})
	})
}
