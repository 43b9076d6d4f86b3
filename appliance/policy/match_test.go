package policy_test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery/appliance/policy"
)

// Each key of match, with who it is about and who not, and with nodes of which
// nothing is known to which it could apply.
func TestMatch(t *testing.T) {
	const yes, no, open = "yes", "no", "open"
	for _, test := range []struct {
		match, what string
		node        *policy.Subject
		want        string
	}{
		{`match.ek = ["` + ourEK + `"]`, "the chip itself", node(), yes},
		{`match.ek = ["` + otherEK + `", "` + ourEK + `"]`, "one of several", node(), yes},
		{`match.ek = ["` + otherEK + `"]`, "another chip", node(), no},
		{`match.ek = ["` + otherEK + `"]`, "another chip, although it is on a list", node(onLists("lab")), no},
		{`match.ek_list = ["lab"]`, "on the list", node(onLists("lab")), yes},
		{`match.ek_list = ["office", "lab"]`, "on one of them", node(onLists("order-7", "lab")), yes},
		{`match.ek_list = ["lab"]`, "on another list", node(onLists("lab-2")), no},
		{`match.ek_list = ["lab*"]`, "lists have names, not patterns", node(onLists("lab-2")), no},
		{`match.ek_list = ["lab"]`, "on none", node(), no},

		{`match.issuer = ["CN=Infineon*"]`, "its maker", node(), yes},
		{`match.issuer = ["CN=STM*", "*ECC CA 04?,*,C=DE"]`, "a slash is a character as others are", node(), yes},
		{`match.issuer = ["CN=Infineon"]`, "a pattern is of the whole name", node(), no},
		{`match.issuer = ["CN=STM*"]`, "another maker", node(), no},
		{`match.issuer = ["*"]`, "no certificate that counts", node(nobodysChip), no},

		{`match.manufacturer = ["IFX"]`, "certified or said", node(), yes},
		{`match.manufacturer = ["STM", "I?X"]`, "one of several", node(), yes},
		{`match.manufacturer = ["ifx"]`, "as it is written", node(), no},
		{`match.manufacturer = ["IFX"]`, "unknown", node(func(s *policy.Subject) { s.Manufacturer = "" }), no},
		{`match.model = ["SLB967*"]`, "a family", node(), yes},
		{`match.model = ["SLB9665"]`, "another", node(), no},
		{`match.model = ["SLB967*"]`, "unknown", node(func(s *policy.Subject) { s.Model = "" }), no},

		{`match.firmware = ">= 15.20, < 16"`, "in the range", node(), yes},
		{`match.firmware = "= 15.22"`, "this one", node(), yes},
		{`match.firmware = ">= 15.22"`, "a bound that is in", node(), yes},
		{`match.firmware = "<= 15.22"`, "a bound that is in", node(), yes},
		{`match.firmware = "> 15.22"`, "a bound that is out", node(), no},
		{`match.firmware = "< 15.22"`, "a bound that is out", node(), no},
		{`match.firmware = "<= 15.22"`, "numbers that are left out are 0", node(func(s *policy.Subject) { s.Firmware++ }), no},
		{`match.firmware = ">= 15.20, < 15.22"`, "one bound is enough to be out", node(), no},
		{`match.firmware = "> 0"`, "unknown is 0", node(func(s *policy.Subject) { s.Firmware = 0 }), no},

		{`match.token = ["edge-*"]`, "the token's names as they were given", node(), yes},
		{`match.token = ["lab-*", "edge-*"]`, "one of several", node(), yes},
		{`match.token = ["lab-*"]`, "another token", node(), no},
		{`match.token = ["edge-*"]`, "enrolled by another token", node(enrolled, withToken("lab-*")), no},
		{`match.token = ["*"]`, "without one", node(enrolled, withoutToken), no},
		{`match.token = [""]`, "without one", node(enrolled, withoutToken), no},

		{`match.name = ["edge-*"]`, "the wanted name", node(), yes},
		{`match.name = ["lab-?", "edge-[0-9]"]`, "one of several", node(), yes},
		{`match.name = ["edge-[^1]"]`, "another name", node(), no},
		{`match.name = ["edge"]`, "a pattern is of the whole name", node(), no},

		{"match.simulator = true", "a simulator", node(simulator), yes},
		{"match.simulator = true", "a chip", node(), no},
		{"match.simulator = false", "a chip", node(), yes},
		{"match.simulator = false", "a simulator", node(simulator), no},

		{`match.pcr_set = ["good"]`, "in that state", node(booted(4, 7)), yes},
		{`match.pcr_set = ["good"]`, "the other value of PCR 7", node(booted(4, 7), quotes(7, 77)), yes},
		{`match.pcr_set = ["other", "good"]`, "one of several", node(booted(4, 7)), yes},
		{`match.pcr_set = ["good"]`, "more is quoted than was asked for", node(booted(0, 4, 7, 11)), yes},
		{`match.pcr_set = ["good"]`, "in another state", node(booted(4, 7), quotes(4, 7)), no},
		{`match.pcr_set = ["good"]`, "half of it quoted", node(booted(4)), no},
		{`match.pcr_set = ["good"]`, "nothing quoted", node(booted()), no},
		{`match.pcr_set = ["other"]`, "in the state of another set", node(booted(4, 7)), no},
		{`match.pcr_set = ["good"]`, "not known yet", node(), open},

		{"match.model = [\"SLB9672\"]\nmatch.name = [\"lab-*\"]", "all that is given must hold", node(), no},
		{"match.model = [\"SLB9672\"]\nmatch.name = [\"edge-*\"]", "all of it does", node(), yes},
		{"match.name = [\"lab-*\"]\nmatch.pcr_set = [\"good\"]", "the boot state does not matter any more", node(), no},
		{`match.ek_list = ["lab"]` + "\nmatch.token = [\"lab-*\"]", "on the list, without the token", node(onLists("lab"), withoutToken), no},
	} {
		text := "decide = \"auto\"\nsimulators = true\nrequire.assurance = 0\n" + test.match
		d := parse(t, rules(text)).Decide(test.node)
		what := fmt.Sprintf("%s: %s", test.match, test.what)
		switch test.want {
		case yes:
			wantDecision(t, what, d, policy.Auto, "rule 1", "")
		case no:
			wantDecision(t, what, d, policy.Refuse, "", policy.CodeNoRule)
			if last := d.Steps[len(d.Steps)-1]; last.Result != no || last.Rule != "rule 1" || last.What == "" {
				t.Errorf("%s: the last step is %+v", what, last)
			}
		case open:
			if last := d.Steps[len(d.Steps)-1]; !d.Open || d.Code != "" || last.Result != open {
				t.Errorf("%s: %+v, want it open", what, d)
			}
		}
	}
}

// quotes makes a quoted PCR another one's value.
func quotes(n int, first byte) change {
	return func(s *policy.Subject) { s.Booted.Values[n] = [32]byte(pcr(first)) }
}

// A rule that names chips lets them in without a token and vouches for them;
// every other rule is for who shows a token, or is enrolled.
func TestWhoMayKnock(t *testing.T) {
	anybody := parse(t, rules(`decide = "auto"`))
	listed := parse(t, rules("decide = \"auto\"\nmatch.ek_list = [\"lab\"]"))
	ours := parse(t, rules("decide = \"auto\"\nmatch.ek = [\""+ourEK+"\"]"))

	wantDecision(t, "a token", anybody.Decide(node()), policy.Auto, "rule 1", "")
	wantDecision(t, "enrolled", anybody.Decide(node(withoutToken, enrolled)), policy.Auto, "rule 1", "")
	wantDecision(t, "neither", anybody.Decide(node(withoutToken)), policy.Refuse, "", policy.CodeNoRule)
	wantDecision(t, "neither, on a list that no rule names", anybody.Decide(node(withoutToken, onLists("lab"))), policy.Refuse, "", policy.CodeNoRule)

	wantDecision(t, "on the list", listed.Decide(node(withoutToken, nobodysChip, onLists("lab"))), policy.Auto, "rule 1", "")
	wantDecision(t, "on the list, with a token", listed.Decide(node(onLists("lab"))), policy.Auto, "rule 1", "")
	wantDecision(t, "a token, not on the list", listed.Decide(node()), policy.Refuse, "", policy.CodeNoRule)
	wantDecision(t, "enrolled, not on the list any more", listed.Decide(node(enrolled)), policy.Refuse, "", policy.CodeNoRule)
	wantDecision(t, "named", ours.Decide(node(withoutToken, nobodysChip)), policy.Auto, "rule 1", "")

	if digest := node().EKDigest; !ours.NamesEK(digest) || ours.NamesEK([32]byte{1}) || listed.NamesEK(digest) || anybody.NamesEK(digest) {
		t.Error("NamesEK is for rules that name the chip itself")
	}
}

// The version ranges agree with a naive comparison, number by number.
func TestFirmwareRanges(t *testing.T) {
	number := rapid.OneOf(rapid.Uint16Range(0, 3), rapid.SampledFrom([]uint16{0xff, 0x100, 0xfffe, 0xffff}), rapid.Uint16())
	version := rapid.Custom(func(t *rapid.T) [4]uint16 {
		return [4]uint16{number.Draw(t, "1"), number.Draw(t, "2"), number.Draw(t, "3"), number.Draw(t, "4")}
	})
	rapid.Check(t, func(rt *rapid.T) {
		chip := version.Draw(rt, "the chip's")
		text, want := "", true
		for i := range rapid.IntRange(1, 3).Draw(rt, "bounds") {
			bound := version.Draw(rt, "bound")
			if rapid.IntRange(0, 3).Draw(rt, "the chip's own") == 0 {
				bound = chip
			}
			length := rapid.IntRange(1, 4).Draw(rt, "numbers")
			clear(bound[length:]) // numbers that are left out are 0
			op := rapid.SampledFrom([]string{"<", "<=", "=", ">", ">="}).Draw(rt, "op")
			if i > 0 {
				text += rapid.SampledFrom([]string{",", ", ", " ,  "}).Draw(rt, "separator")
			}
			text += op + rapid.SampledFrom([]string{"", " "}).Draw(rt, "space")
			for n := range length {
				if n > 0 {
					text += "."
				}
				text += fmt.Sprint(bound[n])
			}
			c := slices.Compare(chip[:], bound[:])
			want = want && map[string]bool{"<": c < 0, "<=": c <= 0, "=": c == 0, ">": c > 0, ">=": c >= 0}[op]
		}
		p := parse(rt, rules("decide = \"auto\"\nmatch.firmware = \""+text+"\""))
		d := p.Decide(node(func(s *policy.Subject) {
			s.Firmware = uint64(chip[0])<<48 | uint64(chip[1])<<32 | uint64(chip[2])<<16 | uint64(chip[3])
		}))
		if (d.Action == policy.Auto) != want {
			rt.Errorf("%v is in %q: %s, want %t", chip, text, d.Action, want)
		}
	})
}

// The policies of these tests name the chip of these tests.
func TestOurEK(t *testing.T) {
	if got := node().EKDigest; hex.EncodeToString(got[:]) != ourEK {
		t.Fatalf("the tests' chip has digest %x, its policies %s", got, ourEK)
	}
}
