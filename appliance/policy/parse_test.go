package policy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/appliance/policy"
)

// What is not said right is not guessed at: the error says where it is, what
// is wrong, and how to write it. Some errors have no hint, since they say it
// all.
func TestParseRefuses(t *testing.T) {
	const rule = "version = 1\n[[rule]]\nname = \"r\"\ndecide = \"auto\"\n"
	const set = rule + "[[pcr_set]]\nname = \"s\"\n"
	for _, test := range []struct{ text, where, message, hint string }{
		{"", "", "version 0, want 1 or more", "version = 1"},
		{"version = -1", "", "version -1", "version = 1"},
		{"version = 1", "", "no rule", `decide = "refuse"`},
		{"version = 1\nversion = 2", "", "already defined", ""},
		{"version = \"1\"", "", "string", ""},
		{"versoin = 1", "", "versoin", "look for a slip"},
		{rule + "reqiure.sealed = true", "", "reqiure", "look for a slip"},
		{rule + "match.serial = [\"x\"]", "", "serial", "look for a slip"},
		{rule + "grant.admin = true", "", "admin", "look for a slip"},
		{"\x00", "", "invalid", ""},

		{"version = 1\n[[rule]]\ndecide = \"auto\"", `rule ""`, "no name", "a name of its own"},
		{rule + strings.TrimPrefix(rule, "version = 1\n"), `rule "r"`, "another rule has", "a name of its own"},
		{"version = 1\n[[rule]]\nname = \"r\"", `rule "r"`, `decide ""`, "auto, approve or refuse"},
		{"version = 1\n[[rule]]\nname = \"r\"\ndecide = \"allow\"", `rule "r"`, `decide "allow"`, "auto, approve or refuse"},
		{rule + "approvals = 2", `rule "r"`, "approvals", ""},

		{rule + `match.ek = ["abcd"]`, `rule "r"`, `"abcd"`, "chancery-agent identify"},
		{rule + `match.ek = ["` + strings.Repeat("zz", 32) + `"]`, `rule "r"`, "no SHA-256 digest", "64 hexadecimal digits"},
		{rule + `match.pcr_set = ["s"]`, `rule "r"`, `no pcr_set "s"`, "[[pcr_set]]"},
		{rule + `match.issuer = ["a["]`, `rule "r"`, `"a["`, "edge-*"},
		{rule + `match.manufacturer = ["["]`, `rule "r"`, `"["`, "edge-*"},
		{rule + `match.model = ["ok", "[]a]"]`, `rule "r"`, `"[]a]"`, "edge-*"},
		{rule + `match.name = ["edge-[0-"]`, `rule "r"`, `"edge-[0-"`, "edge-*"},
		{rule + `match.token = ["\\"]`, `rule "r"`, "no pattern", "edge-*"},
		{rule + `match.name = "edge-1"`, "", "string", ""},
		{rule + `match.firmware = "7.85"`, `rule "r"`, "begins with none of", ">= 7.85, < 8"},
		{rule + `match.firmware = "=> 7"`, `rule "r"`, "begins with none of", ">= 7.85, < 8"},
		{rule + `match.firmware = "!= 7"`, `rule "r"`, "begins with none of", ">= 7.85, < 8"},
		{rule + `match.firmware = ">= 7,"`, `rule "r"`, "begins with none of", ">= 7.85, < 8"},
		{rule + `match.firmware = ">"`, `rule "r"`, "not from 0 to 65535", ">= 7.85, < 8"},
		{rule + `match.firmware = "< 1.2.3.4.5"`, `rule "r"`, "more than four numbers", ">= 7.85, < 8"},
		{rule + `match.firmware = "< 65536"`, `rule "r"`, "not from 0 to 65535", ">= 7.85, < 8"},
		{rule + `match.firmware = "< 7.-1"`, `rule "r"`, "not from 0 to 65535", ">= 7.85, < 8"},

		{rule + "require.assurance = 4", `rule "r"`, "assurance 4", "0 to 3"},
		{rule + "require.assurance = -1", `rule "r"`, "assurance -1", "0 to 3"},
		{rule + "require.quote = [0, 24]", `rule "r"`, "24 is no PCR", "0 to 23"},
		{rule + "require.quote = [-1]", `rule "r"`, "-1 is no PCR", "0 to 23"},
		{rule + "require.event_log = true", `rule "r"`, "without a quote", "add quote"},
		{rule + "require.assurance = 3", `rule "r"`, "met by nobody", "pcr_set"},
		{rule + "match.ek_list = []", `rule "r"`, "match.ek_list is empty", "leave it out"},
		{rule + "approvals = -1", `rule "r"`, "approvals", ""},
		{strings.Replace(rule, "decide", "Decide", 1), "", "unknown key rule[0].Decide, want decide", "docs/policy.md"},
		{rule + "grant.life = 3", "", "rule[0].grant.life is 3, want a text", "docs/policy.md"},
		{rule + "require.second_opinion = true", `rule "r"`, "without a quote", "add quote"},
		{rule + `require.name = "lab-[{ek}"`, `rule "r"`, "no pattern", "edge-{ek}"},

		{rule + `grant.roles = ["Admin"]`, `rule "r"`, "role", ""},
		{rule + "grant.roles = [" + strings.Repeat(`"a",`, 33) + "]", `rule "r"`, "33 roles, at most 32", ""},
		{rule + `grant.life = "-1h"`, `rule "r"`, "-1h0m0s", ""},
		{rule + `grant.life = "1 day"`, "", "1 day", ""},
		{rule + "grant.live = -1", `rule "r"`, "live -1", ""},
		{rule + `grant.reenrol = "auto"`, `rule "r"`, `reenrol "auto"`, "refuse or approve"},

		{rule + "[[pcr_set]]\nvalues.7 = [\"" + value(1) + "\"]", `pcr_set ""`, "no name", "a name of its own"},
		{set + "values.7 = [\"" + value(1) + "\"]\n" + strings.TrimPrefix(set, rule), `pcr_set "s"`, "another set has", "a name of its own"},
		{set, `pcr_set "s"`, "no values", "sha256"},
		{set + "values.7 = []", `pcr_set "s"`, "PCR 7 has no values", ""},
		{set + "values.24 = [\"" + value(1) + "\"]", `pcr_set "s"`, `"24" is no PCR`, "0 to 23"},
		{set + "values.07 = [\"" + value(1) + "\"]", `pcr_set "s"`, `"07" is no PCR`, "0 to 23"},
		{set + "values.sha256 = [\"" + value(1) + "\"]", `pcr_set "s"`, `"sha256" is no PCR`, "0 to 23"},
		{set + `values.7 = ["00"]`, `pcr_set "s"`, "no SHA-256 value", "chancery node evidence"},
		{set + "values.7 = [\"" + value(1) + "00\"]", `pcr_set "s"`, "no SHA-256 value", "64 hexadecimal digits"},

		{rule + "[attest]\non_failure = \"shout\"", "attest", `on_failure "shout"`, "report, hold or revoke"},
		{rule + "[attest]\nwithin = \"-1h\"", "attest", "-1h0m0s", ""},
		{rule + "[attest]\nwhen = \"always\"", "", "when", "look for a slip"},
	} {
		wantError(t, test.text, test.where, test.message, test.hint)
	}
}

// A policy is for people to read; lists of chips are elsewhere.
func TestParseSize(t *testing.T) {
	text := rules(`decide = "auto"`)
	text += "#" + strings.Repeat("x", 1<<20-len(text)-1)
	parse(t, text)
	wantError(t, text+"x", "", "1048577 bytes, at most 1048576", "chancery ek import")
}

// What a policy leaves out is what docs/policy.md says.
func TestDefaults(t *testing.T) {
	p := parse(t, rules(`decide = "auto"`, `decide = "approve"`))
	if p.Attest.OnFailure != policy.Hold || p.Attest.Within != 0 {
		t.Errorf("attest %+v, want hold, and never for not attesting", p.Attest)
	}
	if p.Rules[1].Approvals != 1 {
		t.Errorf("%d approvals, want 1", p.Rules[1].Approvals)
	}
	d := p.Decide(node())
	if d.Action != policy.Auto || d.Live != 1 || d.Life != 0 || len(d.Roles) != 0 || len(d.Quote) != 0 || d.EventLog || d.SecondOpinion || d.Approvals != 0 {
		t.Errorf("%+v", d)
	}
	wantDecision(t, "assurance 1", p.Decide(node(nobodysChip)), policy.Refuse, "rule 1", policy.CodeAssurance)
	wantDecision(t, "a revoked chip", p.Decide(node(revoked)), policy.Refuse, "rule 1", policy.CodeRevoked)
	wantDecision(t, "a simulator", p.Decide(node(simulator)), policy.Refuse, "rule 1", policy.CodeSimulator)
	wantDecision(t, "weak firmware", p.Decide(node(weak)), policy.Refuse, "rule 1", policy.CodeWeakChip)
	wantDecision(t, "unsealed", p.Decide(node(unsealed)), policy.Auto, "rule 1", "")
}

func TestAttest(t *testing.T) {
	for _, on := range []string{policy.Report, policy.Hold, policy.Revoke} {
		p := parse(t, rules(`decide = "auto"`)+"[attest]\nwithin = \"72h\"\non_failure = \""+on+"\"")
		if p.Attest.OnFailure != on || time.Duration(p.Attest.Within) != 72*time.Hour {
			t.Errorf("%+v, want %s, 72h", p.Attest, on)
		}
		if text, err := p.Attest.Within.MarshalText(); err != nil || string(text) != "72h0m0s" {
			t.Errorf("within is written as %q, %v", text, err)
		}
	}
}

// Records refer to a policy by the SHA-256 of its text: all of it, comments
// too.
func TestHash(t *testing.T) {
	for _, text := range []string{rules(`decide = "auto"`), rules(`decide = "auto"`) + "# why", rules(`decide = "auto"`) + "\n"} {
		sum := sha256.Sum256([]byte(text))
		if p := parse(t, text); p.Hash != hex.EncodeToString(sum[:]) || p.Version != 1 {
			t.Errorf("version %d, hash %s, want 1 and %x", p.Version, p.Hash, sum)
		}
	}
	wantError(t, rules(`decide = "auto"`)+"\nHash = \"00\"", "", "Hash", "")
}

// The examples of docs/policy.md are one good policy, and its tables are the
// keys that there are.
func TestDocumentation(t *testing.T) {
	doc, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, block := range regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllSubmatch(doc, -1) {
		text.Write(block[1])
	}
	p := parse(t, text.String())
	if len(p.Rules) == 0 || len(p.PCRSets) == 0 || p.Attest.Within == 0 {
		t.Errorf("not all of it: %+v", p)
	}
	written := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z_`, ]+) \\|").FindAllSubmatch(doc, -1) {
		for _, key := range regexp.MustCompile("[a-z_]+").FindAllString(string(row[1]), -1) {
			written[key] = true
		}
	}
	var there []string
	for _, of := range []any{policy.Rule{}, policy.Match{}, policy.Require{}, policy.Grant{}} {
		for f := range reflect.TypeOf(of).Fields() {
			key := f.Tag.Get("toml")
			if f.Type.Kind() == reflect.Struct { // a table of its own
				continue
			}
			there = append(there, key)
			if !written[key] {
				t.Errorf("%T's %s is not in docs/policy.md", of, key)
			}
		}
	}
	for key := range written {
		if !slices.Contains(there, key) {
			t.Errorf("docs/policy.md tells of %s, which is not there", key)
		}
	}
}

func ExamplePolicy_Decide() {
	p, err := policy.Parse([]byte(`
version = 1
[[rule]]
name = "the lab's Infineon chips"
decide = "auto"
match.manufacturer = ["IFX"]
match.firmware = ">= 7.85, < 8"
require.name = "lab-{ek}"
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	d := p.Decide(&policy.Subject{Manufacturer: "IFX", Firmware: 7<<48 | 85<<32, Assurance: 2, Token: "lab-*", Name: "lab-7"})
	fmt.Println(d.Action, d.Code, "-", d.Reason)
	for _, s := range d.Steps {
		fmt.Printf("%-3s %s\n", s.Result, s.What)
	}
	// Output:
	// refuse name-rule - this node must be called lab-000000000000, not lab-7
	// yes a join token, or enrolled already (it is a token for lab-*)
	// yes manufacturer IFX (it is IFX)
	// yes firmware >= 7.85, < 8 (it is 7.85.0.0)
	// no  this node must be called lab-000000000000, not lab-7
	// yes the chip proves assurance "ek-verified", the policy asks for "ek-verified"
}
