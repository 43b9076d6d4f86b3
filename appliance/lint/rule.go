package lint

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// A Rule names what a certificate must keep to.
type Rule string

// The rules, in the order in which they are looked at in an entry.
const (
	Size             Rule = "size"              // bound on the entry
	Serial           Rule = "serial"            // in the log that is appended to
	Encoding         Rule = "encoding"          // DER, version 3, nothing besides
	Issuer           Rule = "issuer"            // the CA id
	Time             Rule = "time"              // the one form of a time
	Validity         Rule = "validity"          // ends after it begins
	NotBefore        Rule = "not-before"        // the time of the append, or shortly before
	Life             Rule = "life"              // at most the pointer record's
	Subject          Rule = "subject"           // one common name, the node's
	Name             Rule = "name"              // a host name that cannot be mistaken
	Key              Rule = "key"               // a point on a known curve
	Suite            Rule = "suite"             // not below the fleet's floor
	BadKey           Rule = "bad-key"           // a private half that nobody can guess
	KeyPurpose       Rule = "key-purpose"       // not the CA's or the coordinator's own
	Extensions       Rule = "extensions"        // these, once each, in order
	Critical         Rule = "critical"          // as documented
	KeyUsage         Rule = "key-usage"         // digitalSignature
	ExtKeyUsage      Rule = "ext-key-usage"     // serverAuth and clientAuth
	BasicConstraints Rule = "basic-constraints" // CA:FALSE
	AltName          Rule = "alt-name"          // SPIFFE ID, and the DNS name where nodes have one
	NS               Rule = "n-s"               // N:S is there
	Roles            Rule = "roles"             // at most 32 names, ascending
	Assurance        Rule = "assurance"         // a known level
	KeyReuse         Rule = "key-reuse"         // a key has one name for ever
)

const (
	protocol51 = "docs/protocol.md section 5.1"

	// fault is the hint of what no node and no operator can cause.
	fault = "nothing was signed. The coordinator has a fault: report it, with the line of its log"
	// newKey is the hint of keys that are no good.
	newKey = "the node needs a key of its own, made in its chip: join again with an empty state directory"
)

// about says of each rule where it is written and what to do when it is
// broken.
var about = map[Rule]struct{ source, hint string }{
	Size:             {protocol51, "grant the node fewer roles"},
	Serial:           {"RFC 5280 section 4.1.2.2", fault},
	Encoding:         {"RFC 5280 section 4.1", fault},
	Issuer:           {"RFC 5280 section 4.1.2.4", fault},
	Time:             {"RFC 5280 section 4.1.2.5", fault},
	Validity:         {"RFC 5280 section 4.1.2.5", fault},
	NotBefore:        {"RFC 5280 section 4.1.2.5", fault},
	Life:             {"docs/protocol.md section 5.4", "lower certificate_life, or the life that the policy grants, to what the pointer record allows"},
	Subject:          {"RFC 5280 section 4.1.2.6", fault},
	Name:             {"RFC 1034 section 3.5, RFC 5890 section 2.3.1", "choose another name for the node"},
	Key:              {"RFC 5480 section 2", newKey},
	Suite:            {"docs/protocol.md section 5.4", newKey},
	BadKey:           {"RFC 5280 section 4.1.2.7", newKey},
	KeyPurpose:       {"RFC 5280 section 4.1.2.7", newKey},
	Extensions:       {"RFC 5280 section 4.2", fault},
	Critical:         {"RFC 5280 section 4.2", fault},
	KeyUsage:         {"RFC 5280 section 4.2.1.3", fault},
	ExtKeyUsage:      {"RFC 5280 section 4.2.1.12", fault},
	BasicConstraints: {"RFC 5280 section 4.2.1.9", fault},
	AltName:          {"RFC 5280 section 4.2.1.6", fault},
	NS:               {protocol51, fault},
	Roles:            {protocol51, fault},
	Assurance:        {protocol51, fault},
	KeyReuse:         {"docs/protocol.md section 4", "join under the name that the key has, or with an empty state directory"},
}

// An Error says which rule an entry breaks.
type Error struct {
	Rule   Rule
	Found  string // what the entry has
	Source string // where the rule is written, such as RFC 5280 section 4.1.2.4
}

func (e *Error) Error() string {
	return fmt.Sprintf("certificate refused before signing: %s: %s (%s)", e.Rule, e.Found, e.Source)
}

// Hint says what to do about it.
func (e *Error) Hint() string { return about[e.Rule].hint }

func refuse(r Rule, format string, args ...any) error {
	return &Error{Rule: r, Found: fmt.Sprintf(format, args...), Source: about[r].source}
}

// show quotes bytes that nobody vouches for: as text if they are, and not too
// many of them.
func show(b []byte) string {
	const most = 48
	cut := ""
	if len(b) > most {
		b, cut = b[:most], "…"
	}
	for _, c := range b {
		if c < ' ' || c > '~' {
			return hex.EncodeToString(b) + cut
		}
	}
	return strconv.Quote(string(b)) + cut
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
