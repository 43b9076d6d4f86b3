package authority

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// A Scope is what selectors name.
type Scope string

const (
	Nodes        Scope = "nodes"        // with all of their certificates
	Certificates Scope = "certificates" // and nothing else: their nodes may renew
)

// A Selector names what to revoke. The zero value names nothing.
type Selector struct {
	Line uint64 // of the list that it is in

	kind        selectorKind
	name        string
	id          [32]byte
	first, last merkle.Serial // inclusive
}

type selectorKind int

const (
	byName selectorKind = 1 + iota
	byNode
	byChip
	bySerial
)

// ParseSelector parses a selector of nodes, NAME, node:NODE_ID or ek:SHA256, or
// of certificates, LOG:INDEX or LOG:INDEX-LOG:INDEX.
func ParseSelector(scope Scope, s string) (Selector, error) {
	if scope == Certificates {
		return parseSerials(s)
	}
	kind, text, ok := strings.Cut(s, ":")
	if !ok {
		if err := chancery.ValidateName(s); err != nil {
			return Selector{}, err
		}
		return Selector{kind: byName, name: s}, nil
	}
	sel := Selector{kind: byNode}
	switch kind {
	case "node":
	case "ek":
		sel.kind = byChip
		text = strings.TrimPrefix(text, "sha256:") // as node show has it
	default:
		if _, err := parseSerials(s); err == nil {
			return Selector{}, fmt.Errorf("%q names certificates, not nodes", s)
		}
		return Selector{}, fmt.Errorf("%q is neither a name nor node:NODE_ID nor ek:SHA256", s)
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(sel.id) {
		return Selector{}, fmt.Errorf("%q does not end in 64 hexadecimal digits", s)
	}
	copy(sel.id[:], b)
	return sel, nil
}

func parseSerials(s string) (Selector, error) {
	from, to, isRange := strings.Cut(s, "-")
	sel := Selector{kind: bySerial}
	var err error
	if sel.first, err = merkle.ParseSerial(from); err != nil {
		return Selector{}, err
	}
	if sel.last = sel.first; !isRange {
		return sel, nil
	}
	if sel.last, err = merkle.ParseSerial(to); err != nil {
		return Selector{}, err
	}
	switch {
	case sel.first.Log() != sel.last.Log():
		return Selector{}, fmt.Errorf("%q begins in one log and ends in another", s)
	case sel.first > sel.last:
		return Selector{}, fmt.Errorf("%q ends before it begins", s)
	}
	return sel, nil
}

// String returns the one form of the selector.
func (s Selector) String() string {
	switch s.kind {
	case byName:
		return s.name
	case byNode:
		return "node:" + hex.EncodeToString(s.id[:])
	case byChip:
		return "ek:" + hex.EncodeToString(s.id[:])
	case bySerial:
		if s.first == s.last {
			return s.first.String()
		}
		return s.first.String() + "-" + s.last.String()
	}
	return ""
}

// Missing says that the selector names nothing.
func (s Selector) Missing() string {
	switch s.kind {
	case byName:
		return "no node is called " + s.name
	case byNode:
		return "no node has the node_id " + hex.EncodeToString(s.id[:])
	case byChip:
		return "no node is on the chip with the EK " + hex.EncodeToString(s.id[:])
	}
	if s.first == s.last {
		return "no certificate has the serial number " + s.first.String()
	}
	return fmt.Sprintf("not all of %s was issued", s)
}

// MaxSelectorLine is how long a line of a list may be: inventories have more
// columns than the first.
const MaxSelectorLine = 64 << 10

// ReadSelectors reads a list of selectors, one a line: the first column of a
// CSV or the whole line. Empty lines and what follows a # are left out. It
// reads as it is asked for more, and ends with the first error, which names the
// line. A list that breaks off is an error, not a shorter list.
func ReadSelectors(scope Scope, r io.Reader) iter.Seq2[Selector, error] {
	return func(yield func(Selector, error) bool) {
		in := bufio.NewReaderSize(r, MaxSelectorLine)
		for n := uint64(1); ; n++ {
			line, err := in.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				yield(Selector{}, badSelector(n, fmt.Errorf("more than %d bytes", MaxSelectorLine)))
				return
			}
			if err != nil && err != io.EOF {
				yield(Selector{}, fmt.Errorf("the list broke off after line %d: %w", n-1, err))
				return
			}
			if n == 1 {
				line = bytes.TrimPrefix(line, []byte("\ufeff"))
			}
			if text := firstColumn(line); text != "" {
				sel, parseErr := ParseSelector(scope, text)
				sel.Line = n
				if parseErr != nil {
					yield(Selector{}, badSelector(n, parseErr))
					return
				}
				if !yield(sel, nil) {
					return
				}
			}
			if err == io.EOF {
				return
			}
		}
	}
}

func badSelector(line uint64, err error) error {
	return refuse(400, "bad-selector", "a line names one node or one range of serial numbers: see chancery node revoke --help, chancery cert revoke --help", "line %d: %v", line, err)
}

// firstColumn returns what a line selects by.
func firstColumn(line []byte) string {
	text, _, _ := strings.Cut(string(line), "#")
	text = strings.TrimSpace(text)
	if rest, ok := strings.CutPrefix(text, `"`); ok {
		if column, _, closed := strings.Cut(rest, `"`); closed {
			return strings.TrimSpace(column)
		}
	}
	if i := strings.IndexAny(text, ",;\t"); i >= 0 {
		text = text[:i]
	}
	return strings.TrimSpace(text)
}
