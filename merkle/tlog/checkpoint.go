package tlog

import (
	"strconv"
	"strings"

	"github.com/chancery-pki/chancery/merkle"
)

// A Checkpoint is a log's name, size and root (tlog-checkpoint, "Note text").
type Checkpoint struct {
	Origin string // of an issuance log: [merkle.TrustAnchorID.Origin] of its log ID
	Size   uint64
	Root   merkle.Hash

	// Extensions are further lines. Signatures of type [Cosigner] do not cover
	// them, and so do not go with them.
	Extensions []string
}

// ParseCheckpoint parses the text of a note.
func ParseCheckpoint(text string) (*Checkpoint, error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	body, newline := strings.CutSuffix(text, "\n")
	lines := strings.Split(body, "\n")
	if !newline || len(lines) < 3 {
		return nil, malformed("checkpoint of %d lines, at least 3", len(lines))
	}
	for _, line := range lines {
		if line == "" {
			return nil, malformed("checkpoint has an empty line")
		}
	}
	c := &Checkpoint{Origin: lines[0]}
	var err error
	if c.Size, err = parseSize(lines[1]); err != nil {
		return nil, err
	}
	if c.Root, err = parseHash(lines[2]); err != nil {
		return nil, err
	}
	if len(lines) > 3 {
		c.Extensions = lines[3:]
	}
	return c, nil
}

// Text returns the text of the note. It refuses what [ParseCheckpoint] would.
func (c *Checkpoint) Text() (string, error) {
	if c.Size > MaxSize {
		return "", malformed("checkpoint of %d entries, at most %d", c.Size, uint64(MaxSize))
	}
	lines := append([]string{c.Origin, formatSize(c.Size), formatHash(c.Root)}, c.Extensions...)
	for _, line := range lines {
		if line == "" || strings.Contains(line, "\n") {
			return "", malformed("checkpoint with the line %.80q", line)
		}
	}
	text := strings.Join(lines, "\n") + "\n"
	return text, checkText(text)
}

// parseSize parses a decimal number without leading zeros.
func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || formatSize(n) != s {
		return 0, malformed("%.80q is not the size of a tree", s)
	}
	return n, nil
}

func formatSize(n uint64) string { return strconv.FormatUint(n, 10) }

func parseHash(s string) (merkle.Hash, error) {
	b, err := b64.DecodeString(s)
	if err != nil || len(b) != hashSize {
		return merkle.Hash{}, malformed("%.80q is not a hash", s)
	}
	return merkle.Hash(b), nil
}

func formatHash(h merkle.Hash) string { return b64.EncodeToString(h[:]) }
