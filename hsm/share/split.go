package share

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"
)

// curve is the group whose scalars are shared.
var curve = group.P256

// Sizes in P-256: of a scalar, and of a compressed point.
const (
	scalarSize = 32
	pointSize  = 33
)

// sealOverhead is the nonce and the tag of AES-GCM.
const sealOverhead = 12 + 16

// Split makes n shares of a secret of 1 to [MaxSecret] bytes, of which any k
// bring it back; 2 <= k <= n <= [MaxShares]. The purpose tells people and
// programs what the secret is for; it is printed with each share.
//
// The shares have been combined once when Split returns them, so that none
// goes into a safe that does not work. The secret remains the caller's, to be
// wiped with clear.
func Split(secret []byte, purpose string, k, n int) ([]Share, error) {
	if k < 2 || k > n || n > MaxShares {
		return nil, &ThresholdError{K: k, N: n}
	}
	if len(secret) < 1 || len(secret) > MaxSecret {
		return nil, &SecretError{Len: len(secret)}
	}
	if !validPurpose(purpose) {
		return nil, &PurposeError{Purpose: purpose}
	}
	shares, err := split(secret, purpose, k, n)
	if err != nil {
		return nil, fmt.Errorf("split: %w", err)
	}
	if err := rehearse(shares, secret); err != nil {
		for _, s := range shares {
			s.Wipe()
		}
		return nil, fmt.Errorf("split: the shares do not bring the secret back: %w", err)
	}
	return shares, nil
}

func split(secret []byte, purpose string, k, n int) ([]Share, error) {
	common := parts{info: Info{Purpose: purpose, K: k, N: n}}
	rand.Read(common.info.Set[:])

	scalar := curve.RandomNonZeroScalar(rand.Reader)
	defer wipe(scalar)
	// circl counts how many shares say nothing: one less than bring it back.
	polynomial := secretsharing.New(rand.Reader, uint(k-1), scalar)
	for _, c := range polynomial.CommitSecret() {
		point, err := c.MarshalBinaryCompress()
		if err != nil {
			return nil, err
		}
		common.commitments = append(common.commitments, point...)
	}
	aead, err := common.aead(scalar)
	if err != nil {
		return nil, err
	}
	common.sealed = aead.Seal(nil, nil, secret, common.header())

	shares := make([]Share, n)
	for i, s := range polynomial.Share(uint(n)) {
		p := common
		p.info.Index = i + 1
		if p.value, err = s.Value.MarshalBinary(); err != nil {
			return nil, err
		}
		wipe(s.Value)
		shares[i] = newShare(p)
	}
	return shares, nil
}

// rehearse reads all shares back from their texts and combines them.
func rehearse(shares []Share, secret []byte) error {
	again := make([]Share, len(shares))
	for i, s := range shares {
		text := s.Reveal()
		defer clear(text)
		var err error
		if again[i], err = Parse(text); err != nil {
			return err
		}
		defer again[i].Wipe()
	}
	got, err := Combine(again)
	if err != nil {
		return err
	}
	defer clear(got)
	if !bytes.Equal(got, secret) {
		return errors.New("another secret came out")
	}
	return nil
}

// Combine returns the secret that the shares were split from. It takes k of
// them or more, in any order; every one must be of the same set, there once,
// and right, also those that would not be needed.
//
// The purpose has been verified with the secret: after Combine, shares[0].Info
// is what [Split] was told. Compare it before using the secret, for the PIN of
// another token is a wrong PIN. The secret is the caller's, to be wiped with
// clear; so are the shares, with [Share.Wipe].
func Combine(shares []Share) ([]byte, error) {
	if len(shares) == 0 {
		return nil, &TooFewError{}
	}
	if slices.ContainsFunc(shares, Share.empty) {
		return nil, &FormatError{Reason: "it was wiped, or never read", hint: "read it again from where its custodian keeps it"}
	}
	if err := together(shares); err != nil {
		return nil, err
	}
	points, err := verify(shares)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, p := range points {
			wipe(p.Value)
		}
	}()
	common := shares[0].parts()
	if len(shares) < common.info.K {
		return nil, &TooFewError{Have: len(shares), Share: common.info}
	}
	scalar, err := secretsharing.Recover(uint(common.info.K-1), points)
	if err != nil {
		return nil, fmt.Errorf("combine: %w", err)
	}
	defer wipe(scalar)
	aead, err := common.aead(scalar)
	if err != nil {
		return nil, fmt.Errorf("combine: %w", err)
	}
	secret, err := aead.Open(nil, nil, common.sealed, common.header())
	if err != nil {
		return nil, &AlteredError{Groups: [][]Info{infos(shares)}}
	}
	return secret, nil
}

// together reports whether the shares are of one split, and say the same
// about it.
func together(shares []Share) error {
	if sets := groups(shares, func(p *parts) string { return string(p.info.Set[:]) }); len(sets) > 1 {
		return &MixedError{Sets: sets}
	}
	if sides := groups(shares, func(p *parts) string { return string(p.common()) }); len(sides) > 1 {
		return &AlteredError{Groups: sides}
	}
	return nil
}

// groups sorts shares by what key says of them, in the order of appearance.
func groups(shares []Share, key func(*parts) string) [][]Info {
	var list [][]Info
	place := make(map[string]int)
	for _, s := range shares {
		k := key(s.parts())
		i, ok := place[k]
		if !ok {
			i = len(list)
			place[k] = i
			list = append(list, nil)
		}
		list[i] = append(list[i], s.Info())
	}
	return list
}

func infos(shares []Share) []Info {
	var list []Info
	for _, s := range shares {
		list = append(list, s.Info())
	}
	return list
}

// verify holds every share against the commitments, which are the same in all
// of them. All wrong ones are named, not the first alone: the custodians are
// in the room now.
func verify(shares []Share) ([]secretsharing.Share, error) {
	commitments, ok := points(shares[0].parts().commitments)
	if !ok {
		return nil, &AlteredError{Groups: [][]Info{infos(shares)}}
	}
	var verified []secretsharing.Share
	var wrong []Info
	seen := make(map[int]bool)
	var twice *DuplicateError
	for _, s := range shares {
		info := s.Info()
		p := secretsharing.Share{ID: curve.NewScalar().SetUint64(uint64(info.Index)), Value: curve.NewScalar()}
		if p.Value.UnmarshalBinary(s.parts().value) != nil || !secretsharing.Verify(uint(info.K-1), p, commitments) {
			wrong = append(wrong, info)
		} else if seen[info.Index] && twice == nil {
			twice = &DuplicateError{Share: info}
		}
		seen[info.Index] = true
		verified = append(verified, p)
	}
	if wrong == nil && twice == nil {
		return verified, nil
	}
	for _, p := range verified {
		wipe(p.Value)
	}
	if wrong != nil {
		return nil, &WrongShareError{Shares: wrong}
	}
	return nil, twice
}

// points decodes commitments. Neither the point at infinity nor a second
// encoding of any other is accepted.
func points(b []byte) (list secretsharing.SecretCommitment, ok bool) {
	for encoded := range slices.Chunk(b, pointSize) {
		p := curve.NewElement()
		if len(encoded) != pointSize || p.UnmarshalBinary(encoded) != nil {
			return nil, false
		}
		list = append(list, p)
	}
	return list, true
}

// aead returns the cipher that seals the secret. Each key seals once.
func (p *parts) aead(scalar group.Scalar) (cipher.AEAD, error) {
	raw, err := scalar.MarshalBinary()
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	key, err := hkdf.Key(sha256.New, raw, nil, "chancery-v1 share key"+string(p.info.Set[:]), 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// wipe overwrites a scalar in place. The other setters of circl's P-256 may
// allocate, and leave the old value behind.
func wipe(s group.Scalar) { s.CMov(1, curve.NewScalar()) }
