package share

import (
	"fmt"
	"strings"

	"github.com/chancery-pki/chancery"
)

// A ThresholdError is a k and an n that no secret is split by.
type ThresholdError struct{ K, N int }

func (e *ThresholdError) Error() string {
	text := fmt.Sprintf("any %d of %d shares: want 2 <= k <= n <= %d", e.K, e.N, MaxShares)
	if e.K == 1 {
		text += "; any 1 would give the whole secret to each custodian"
	}
	return text
}

// Hint tells how to choose the two.
func (e *ThresholdError) Hint() string {
	return "choose k so that k-1 custodians may fall to one attacker, and n-k may lose their shares: 3 of 5 stands two of either"
}

// A SecretError is a secret that is too short or too long to be split.
type SecretError struct {
	Len int // bytes
}

func (e *SecretError) Error() string {
	return fmt.Sprintf("secret of %d bytes, want 1 to %d", e.Len, MaxSecret)
}

// Hint tells what to split instead.
func (e *SecretError) Hint() string {
	if e.Len == 0 {
		return "check the file that the secret is read from"
	}
	return "encrypt what is longer under a key of 32 bytes, and split the key"
}

// A PurposeError is a purpose that cannot be printed with the shares.
type PurposeError struct{ Purpose string }

func (e *PurposeError) Error() string {
	if len(e.Purpose) < 1 || len(e.Purpose) > MaxPurpose {
		return fmt.Sprintf("purpose of %d bytes, want 1 to %d", len(e.Purpose), MaxPurpose)
	}
	return fmt.Sprintf("purpose %q: want printable characters, and no space at either end", e.Purpose)
}

// Hint shows a good one.
func (e *PurposeError) Hint() string {
	return `say what the secret opens, such as "user PIN of token chancery"`
}

// A TypoError is the text of a share in which a character is wrong, missing or
// too many. It is [chancery.ErrMalformed].
type TypoError struct {
	Line, Column int // where, counted from 1; zeros if only the checksum tells
}

func (e *TypoError) Error() string {
	if e.Line == 0 {
		return "share: the checksum does not fit: a character is wrong, missing or too many"
	}
	return fmt.Sprintf("share: line %d, column %d: not a character of a share", e.Line, e.Column)
}

func (e *TypoError) Unwrap() error { return chancery.ErrMalformed }

// Hint tells what to look for.
func (e *TypoError) Hint() string {
	return "compare it with what the custodian keeps: all letters are small, and there are no digits 0, 1, 8 and 9, which o, l, b and g are taken for"
}

// A FormatError is something that is no share, or none that this version of
// the package reads. It is [chancery.ErrMalformed].
type FormatError struct {
	Reason string
	hint   string
}

func (e *FormatError) Error() string { return "share: " + e.Reason }

func (e *FormatError) Unwrap() error { return chancery.ErrMalformed }

// Hint tells what to give instead.
func (e *FormatError) Hint() string { return e.hint }

// A MixedError is shares of several sets. They cannot be combined, also where
// their purposes are the same.
type MixedError struct {
	Sets [][]Info // the shares, by set
}

func (e *MixedError) Error() string {
	var sets []string
	for _, set := range e.Sets {
		sets = append(sets, fmt.Sprintf("%s of set %s (%s)", indices(set), set[0].Set, set[0].Purpose))
	}
	return fmt.Sprintf("shares of %d sets: %s", len(e.Sets), strings.Join(sets, ", "))
}

// Hint tells which to keep.
func (e *MixedError) Hint() string {
	return "combine shares of one set; when a secret is split anew, the shares of the old set are destroyed"
}

// An AlteredError is shares that were changed since their split, and given a
// checksum again: no typing error does that.
type AlteredError struct {
	// Groups has those together that say the same. If they all do, they fit
	// the commitments, and what is sealed in them is not what was.
	Groups [][]Info
}

func (e *AlteredError) Error() string {
	if len(e.Groups) == 1 {
		return fmt.Sprintf("%s of set %s: the secret that is sealed in all of them was altered", indices(e.Groups[0]), e.Groups[0][0].Set)
	}
	var groups []string
	for _, g := range e.Groups {
		groups = append(groups, indices(g))
	}
	return fmt.Sprintf("shares of set %s do not say the same: %s; all but one of these were altered, or all", e.Groups[0][0].Set, strings.Join(groups, " against "))
}

// Hint tells what to do with an altered share.
func (e *AlteredError) Hint() string {
	return "keep the shares as they are for an inquiry, and ask other custodians of the set for theirs"
}

// A WrongShareError is shares that their set's commitments refuse: their value
// or index is not what the split made.
type WrongShareError struct {
	Shares []Info // all of the wrong ones
}

func (e *WrongShareError) Error() string {
	verb := "is"
	if len(e.Shares) > 1 {
		verb = "are"
	}
	return fmt.Sprintf("%s of set %s %s wrong: not what the secret was split into", indices(e.Shares), e.Shares[0].Set, verb)
}

// Hint tells how to go on without the share.
func (e *WrongShareError) Hint() string {
	return "ask other custodians of the set for theirs, and the ones of these how their shares were kept: no typing error does this"
}

// A DuplicateError is one share given twice.
type DuplicateError struct{ Share Info }

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("share %d of set %s is there twice", e.Share.Index, e.Share.Set)
}

// Hint tells what to give instead.
func (e *DuplicateError) Hint() string { return "give each custodian's share once" }

// A TooFewError is fewer shares than bring the secret back.
type TooFewError struct {
	Have  int
	Share Info // one of them; zero if there is none
}

func (e *TooFewError) Error() string {
	if e.Have == 0 {
		return "no shares"
	}
	return fmt.Sprintf("%d of the %d shares that set %s needs (%s)", e.Have, e.Share.K, e.Share.Set, e.Share.Purpose)
}

// Hint tells how many are missing.
func (e *TooFewError) Hint() string {
	if e.Have == 0 {
		return "give the shares of as many custodians as the secret was split for"
	}
	return fmt.Sprintf("ask %d more of the set's %d custodians", e.Share.K-e.Have, e.Share.N)
}

// indices returns "share 2" or "shares 2, 4".
func indices(shares []Info) string {
	var list []string
	for _, s := range shares {
		list = append(list, fmt.Sprint(s.Index))
	}
	if len(list) == 1 {
		return "share " + list[0]
	}
	return "shares " + strings.Join(list, ", ")
}
