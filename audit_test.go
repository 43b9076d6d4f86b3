package chancery

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func auditEntry() *AuditEntry {
	return &AuditEntry{At: epoch, Operator: "alice (1000)", Action: "node.approve", Subject: "edge-1",
		Details: []AuditDetail{{"intake", "00ff"}, {"reason", "Übergabe, läuft"}}}
}

func TestAuditEntry(t *testing.T) {
	b, err := auditEntry().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseAuditEntry(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := a.Marshal()
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("marshalled again: %x, %v, want %x", again, err, b)
	}
	if Identify(b) != "audit-entry" {
		t.Errorf("identified as %q", Identify(b))
	}
	for n := range b {
		if _, err := ParseAuditEntry(b[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("the first %d bytes: %v, want ErrMalformed", n, err)
		}
	}
	if _, err := ParseAuditEntry(append(b, 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a byte more: %v, want ErrMalformed", err)
	}
}

// What an operator types reaches the terminals of auditors, and must not
// command them.
func TestAuditEntryIsText(t *testing.T) {
	for what, change := range map[string]func(*AuditEntry){
		"no operator":             func(a *AuditEntry) { a.Operator = "" },
		"no action":               func(a *AuditEntry) { a.Action = "" },
		"action in capitals":      func(a *AuditEntry) { a.Action = "Node.approve" },
		"long action":             func(a *AuditEntry) { a.Action = strings.Repeat("a", 65) },
		"newline":                 func(a *AuditEntry) { a.Subject = "edge-1\n" },
		"escape sequence":         func(a *AuditEntry) { a.Subject = "edge\x1b[2J" },
		"not UTF-8":               func(a *AuditEntry) { a.Operator = "\xff" },
		"right to left override":  func(a *AuditEntry) { a.Details[1].Value = "\u202egnp" },
		"zero width":              func(a *AuditEntry) { a.Subject = "edge\u200b-1" },
		"long subject":            func(a *AuditEntry) { a.Subject = strings.Repeat("x", 256) },
		"long value":              func(a *AuditEntry) { a.Details[1].Value = strings.Repeat("x", 4097) },
		"details out of order":    func(a *AuditEntry) { a.Details[0].Name = "z" },
		"two details of one name": func(a *AuditEntry) { a.Details[0].Name = "reason" },
		"half a second":           func(a *AuditEntry) { a.At = epoch.Add(time.Second / 2) },
		"before 1970":             func(a *AuditEntry) { a.At = time.Unix(-1, 0) },
	} {
		a := auditEntry()
		change(a)
		if b, err := a.Marshal(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %x, %v, want ErrMalformed", what, b, err)
		}
	}
	a := auditEntry()
	a.Details = nil
	for i := range 26 {
		a.Details = append(a.Details, AuditDetail{strings.Repeat(string(rune('a'+i)), 3), strings.Repeat("x", 4096)})
	}
	if _, err := a.Marshal(); !errors.Is(err, ErrMalformed) {
		t.Errorf("100 KiB of details: %v, want ErrMalformed", err)
	}
}

func TestAuditText(t *testing.T) {
	for in, want := range map[string]string{
		"edge-1": "edge-1", "a\nb": "a\uFFFDb", "\xff": "\uFFFD", "": "", "123456789": "12345678", "1234567é": "1234567",
	} {
		if got := AuditText(in, 8); got != want {
			t.Errorf("AuditText(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParseAuditEntry(f *testing.F) {
	b, err := auditEntry().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAuditEntry(b)
		if err != nil {
			return
		}
		again, err := a.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("an audit entry has two encodings: %x, %v", again, err)
		}
	})
}
