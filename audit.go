package chancery

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/chancery-pki/chancery/merkle"
)

// An AuditEntry says what an operator did, or what the coordinator did of its
// own accord: one entry of the audit log (docs/protocol.md section 5.6).
// Nothing in it is secret.
type AuditEntry struct {
	At       time.Time     // whole seconds
	Operator string        // 1 to 255 bytes of text; [AuditCoordinator] for the coordinator itself
	Action   string        // as in "node.approve": 1 to 64 of a-z, 0-9, dot and hyphen
	Subject  string        // what it was done to, such as a node's name; up to 255 bytes of text, may be empty
	Details  []AuditDetail // in the order of their names
}

// An AuditDetail is one further fact about an action.
type AuditDetail struct {
	Name  string // 1 to 64 of a-z, 0-9, dot and hyphen
	Value string // up to 4 KiB of text
}

// AuditCoordinator is the operator of what nobody asked for.
const AuditCoordinator = "coordinator"

const (
	maxAuditEntry  = 16 << 10
	maxAuditDetail = 4 << 10
	maxAuditWord   = 64
	maxAuditText   = 255
)

// Marshal returns the entry's one encoding. The error is [ErrMalformed] for an
// entry that [ParseAuditEntry] would not take.
func (a *AuditEntry) Marshal() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	e := artefact(kindAudit)
	e.time(a.At)
	e.vec8([]byte(a.Operator))
	e.vec8([]byte(a.Action))
	e.vec8([]byte(a.Subject))
	e.list(len(a.Details), func(e *encoder, i int) {
		e.vec8([]byte(a.Details[i].Name))
		e.vec16([]byte(a.Details[i].Value))
	})
	return e.BytesOrPanic(), nil
}

// ParseAuditEntry parses what [AuditEntry.Marshal] returns, and nothing else.
func ParseAuditEntry(b []byte) (*AuditEntry, error) {
	a := new(AuditEntry)
	d := open(b, kindAudit, maxAuditEntry)
	a.At = d.time()
	a.Operator, a.Action, a.Subject = string(d.vec8()), string(d.vec8()), string(d.vec8())
	d.list(maxAuditEntry, func(d *decoder) {
		a.Details = append(a.Details, AuditDetail{string(d.vec8()), string(d.vec16())})
	})
	if err := d.done("audit entry"); err != nil {
		return nil, err
	}
	return a, a.check()
}

func (a *AuditEntry) check() error {
	fail := func(what string) error { return fmt.Errorf("audit entry: %w: %s", ErrMalformed, what) }
	switch {
	case a.At.Unix() < 0 || a.At.Unix() > maxTime || !a.At.Equal(utc(a.At)):
		return fail("time")
	case a.Operator == "" || !isText(a.Operator, maxAuditText):
		return fail("operator")
	case !isWord(a.Action):
		return fail("action")
	case !isText(a.Subject, maxAuditText):
		return fail("subject")
	}
	size := len(magic) + 1 + 8 + 1 + len(a.Operator) + 1 + len(a.Action) + 1 + len(a.Subject) + 2
	for i, d := range a.Details {
		if size += 1 + len(d.Name) + 2 + len(d.Value); size > maxAuditEntry {
			return fail(fmt.Sprintf("more than %d bytes", maxAuditEntry))
		}
		if !isWord(d.Name) || !isText(d.Value, maxAuditDetail) {
			return fail(fmt.Sprintf("detail %d", i))
		}
		if i > 0 && d.Name <= a.Details[i-1].Name {
			return fail("details are not in the order of their names, or there are two of one name")
		}
	}
	return nil
}

// isWord tells whether s can be the name of an action or detail.
func isWord(s string) bool {
	return s != "" && len(s) <= maxAuditWord && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '-'
	})
}

// isText tells whether s can be shown on a terminal: valid UTF-8 in one line,
// without anything that is not seen.
func isText(s string, most int) bool {
	return len(s) <= most && AuditText(s, most) == s
}

// AuditText returns s as an audit entry can hold it: cut to so many bytes, and
// with U+FFFD for whatever is not printable.
func AuditText(s string, most int) string {
	var b strings.Builder
	for _, r := range s {
		if !unicode.IsPrint(r) {
			r = '\uFFFD'
		}
		if b.Len()+len(string(r)) > most {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// AuditOrigin names the audit log that a CA key signs.
func AuditOrigin(fleet FleetID, ca merkle.TrustAnchorID) string {
	return auditOriginPrefix + fleet.Pin() + "/" + ca.String()
}

const auditOriginPrefix = "chancery-audit/"

// An AuditCheckpoint states the size and root of the audit log of a CA key at a
// time. It is no statement about certificates: its label is another one.
type AuditCheckpoint struct {
	CA   merkle.TrustAnchorID
	Size uint64
	Root merkle.Hash
	At   time.Time // whole seconds
}

func (c AuditCheckpoint) message(fleet FleetID, suite Suite) []byte {
	var e encoder
	e.vec8(c.CA.Bytes())
	e.AddUint64(c.Size)
	e.AddBytes(c.Root[:])
	e.time(c.At)
	return labelled(labelAudit, fleet, suite, e.BytesOrPanic())
}
