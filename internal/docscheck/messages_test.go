package docscheck

import (
	"go/constant"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery"
)

// The bodies of the HTTPS exchange.
var messages = map[string]any{
	"InitialConnection": chancery.InitialConnection{},
	"Chip":              chancery.Chip{},
	"Sealing":           chancery.Sealing{},
	"Answer":            chancery.Answer{},
	"Submission":        chancery.Submission{},
	"Attestation":       chancery.Attestation{},
	"Quote":             chancery.Quote{},
	"Verdict":           chancery.Verdict{},
	"Problem":           chancery.Problem{},
	"ResealRequest":     chancery.ResealRequest{},
	"ResealAnswer":      chancery.ResealAnswer{},
	"ApprovalRecord":    chancery.ApprovalRecord{},
	"Address":           chancery.Address{},
	"AttestRequest":     chancery.AttestRequest{},
	"AttestAnswer":      chancery.AttestAnswer{},
	"IncrementRecord":   chancery.IncrementRecord{},
	"Shown":             chancery.Shown{},
	"X509Request":       chancery.X509Request{},
	"X509Answer":        chancery.X509Answer{},
}

// Each message's table has its fields, in their order, and no others.
func TestMessages(t *testing.T) {
	doc := read(t, protocol)
	seen := map[string]bool{}
	for _, tab := range doc.tables {
		if tab.header[0] != "field" {
			continue
		}
		m := codeSpan.FindStringSubmatch(tab.before)
		if m == nil || messages[m[1]] == nil {
			t.Errorf("line %d: a table of fields below %q, which names no message", tab.line, tab.before)
			continue
		}
		seen[m[1]] = true
		var documented []string
		for _, row := range tab.rows {
			documented = append(documented, strings.Trim(row[0], "`"))
		}
		if got := fields(reflect.TypeOf(messages[m[1]])); !slices.Equal(got, documented) {
			t.Errorf("%s has %q, documented %q", m[1], got, documented)
		}
	}
	for name := range messages {
		if !seen[name] {
			t.Errorf("message %s has no table", name)
		}
	}
}

func fields(of reflect.Type) (names []string) {
	for f := range of.Fields() {
		if f.Anonymous {
			names = append(names, fields(f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// Problem codes that the document names are ones that the coordinator uses.
func TestProblemCodes(t *testing.T) {
	used := map[string]bool{}
	for _, name := range []string{"authority", "api", "policy", "evidence"} {
		s := parseSource(t, "../../appliance/"+name)
		for name := range s.constants { // links, and what a policy refuses for
			if v, err := s.value(name); err == nil && v.Kind() == constant.String {
				used[constant.StringVal(v)] = true
			}
		}
		for _, f := range s.functions {
			for _, text := range literals(f) {
				used[text] = true
			}
		}
	}
	doc := read(t, protocol)
	tables := 0
	for _, tab := range doc.tables {
		at := tab.column("problem code")
		if at < 0 {
			continue
		}
		tables++
		for _, row := range tab.rows {
			for _, m := range codeSpan.FindAllStringSubmatch(row[at], -1) {
				link, isEvidence := strings.CutPrefix(m[1], "evidence-")
				if !used[m[1]] && !(isEvidence && used["evidence-"] && (isLink(t, link) || used[link])) {
					t.Errorf("the coordinator has no problem code %q", m[1])
				}
			}
		}
	}
	if tables != 2 {
		t.Errorf("%d tables of problem codes, want two", tables)
	}
}

func isLink(t *testing.T, link string) bool {
	s := parseSource(t, sources["tpm"])
	for name := range s.constants {
		if strings.HasPrefix(name, "Link") {
			if v, err := s.value(name); err == nil && constant.StringVal(v) == link {
				return true
			}
		}
	}
	return false
}
