package share

import (
	"fmt"
	"io"
)

// Limits of a split.
const (
	MaxShares  = 32  // custodians
	MaxSecret  = 256 // bytes; as long as a user PIN can be
	MaxPurpose = 64  // bytes
)

// A Share is one custodian's part of a secret. It is a secret itself. Copies
// of a Share are the same share: [Share.Wipe] of one wipes all.
type Share struct {
	// Behind two pointers, because on a Share in somebody's unexported field
	// fmt calls no method: it prints the struct, and follows one pointer.
	hidden **parts
}

// parts is what a share is made of. All but the index and the value is the
// same in all shares of a set.
type parts struct {
	info        Info
	commitments []byte // k compressed points (SEC 1, section 2.3.3), the constant coefficient's first
	sealed      []byte // nonce, ciphertext and tag of the secret
	value       []byte // the polynomial at info.Index, big-endian; nil once wiped
}

func newShare(p parts) Share {
	q := &p
	return Share{&q}
}

// parts returns nil for the zero Share.
func (s Share) parts() *parts {
	if s.hidden == nil {
		return nil
	}
	return *s.hidden
}

// Info is what a share says to everybody. It is no more than a claim until
// [Combine] has succeeded with the share.
type Info struct {
	Purpose string // what the secret is for, such as "user PIN of token chancery"
	Set     SetID  // the split that it comes from
	Index   int    // which share it is, 1 to N
	K, N    int    // any K of N shares bring the secret back
}

// String returns such as "share 2 of 5, any 3: user PIN of token chancery (set
// 00112233445566778899aabbccddeeff)".
func (i Info) String() string {
	return fmt.Sprintf("share %d of %d, any %d: %s (set %s)", i.Index, i.N, i.K, i.Purpose, i.Set)
}

// A SetID names one split of one secret. It is random, and not secret.
type SetID [16]byte

// String returns the identifier in hexadecimal.
func (s SetID) String() string { return fmt.Sprintf("%x", s[:]) }

// Info returns what the share says of itself; zeros for the zero Share.
func (s Share) Info() Info {
	if p := s.parts(); p != nil {
		return p.info
	}
	return Info{}
}

// String describes the share without its value.
func (s Share) String() string {
	if s.parts() == nil {
		return "no share"
	}
	return s.Info().String()
}

// Format writes [Share.String] whatever the verb: %#v and %x must not show the
// value either.
func (s Share) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// Wipe overwrites the value of the share and of all its copies. What is left
// still says its [Info], and has no other form.
func (s Share) Wipe() {
	if p := s.parts(); p != nil {
		clear(p.value)
		p.value = nil
	}
}

// empty reports whether there is nothing to combine in it.
func (s Share) empty() bool { return s.parts() == nil || s.parts().value == nil }
