package chancery

import (
	"errors"
	"fmt"
	"strings"
)

// ErrName means that a string cannot be a node's name or a role.
var ErrName = errors.New("not a valid name")

// ValidateName tells whether a string can be a node's name: 1 to 63 of a-z, 0-9,
// "-" and ".", beginning and ending with a letter or digit. The rule keeps a
// name usable as CN (RFC 5280: at most 64 characters), in a SPIFFE path and
// as the left part of a DNS name without quoting.
func ValidateName(name string) error {
	if len(name) == 0 || len(name) > 63 {
		return fmt.Errorf("%w: %q has %d characters, want 1 to 63", ErrName, clip(name), len(name))
	}
	for i, c := range []byte(name) {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		inner := (c == '-' || c == '.') && i > 0 && i < len(name)-1
		if !alnum && !inner {
			return fmt.Errorf("%w: %q: character %q at %d; names have a-z, 0-9, and inside also - and .", ErrName, name, c, i)
		}
	}
	if strings.Contains(name, "..") {
		return fmt.Errorf("%w: %q has an empty part", ErrName, name)
	}
	return nil
}

// clip shortens what is quoted in an error.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// validTrustDomain follows the SPIFFE rule for trust domain names.
func validTrustDomain(s string) bool {
	if len(s) == 0 || len(s) > 255 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}

// SPIFFEID returns the URI that names a node: spiffe://DOMAIN/node/NAME.
func SPIFFEID(trustDomain, name string) string {
	return "spiffe://" + trustDomain + "/node/" + name
}
