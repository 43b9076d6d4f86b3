package tpm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// PCRValues are values of PCRs of the SHA-256 bank, by number.
type PCRValues map[int][32]byte

// Numbers returns the PCRs in rising order.
func (v PCRValues) Numbers() []int { return slices.Sorted(maps.Keys(v)) }

// Digest returns SHA-256 over the values in rising order of their numbers: the
// pcrDigest of quotes, of creation data and of TPM2_PolicyPCR.
func (v PCRValues) Digest() [32]byte {
	h := sha256.New()
	for _, n := range v.Numbers() {
		value := v[n]
		h.Write(value[:])
	}
	return [32]byte(h.Sum(nil))
}

// ErrPCRs says that a set of PCRs cannot be used.
var ErrPCRs = errors.New("tpm: PCRs must be distinct, rising, from 0 to 23")

// ErrResettablePCR says that PCR 16 or 23 was named for sealing. Anybody can
// reset these from locality 0, so they say nothing about a machine.
var ErrResettablePCR = errors.New("tpm: PCR 16 and 23 can be reset by anybody and cannot seal a key")

// DefaultPCRs are the PCRs that a key is sealed to unless told otherwise:
// PCR 7 holds the Secure Boot policy and survives updates of what it admits.
var DefaultPCRs = []int{7}

func checkPCRs(pcrs []int) error {
	for i, n := range pcrs {
		if n < 0 || n > 23 || i > 0 && pcrs[i-1] >= n {
			return fmt.Errorf("%w: %v", ErrPCRs, pcrs)
		}
	}
	return nil
}

func checkSealingPCRs(pcrs []int) error {
	if len(pcrs) == 0 {
		return fmt.Errorf("%w: none named", ErrPCRs)
	}
	if slices.Contains(pcrs, 16) || slices.Contains(pcrs, 23) {
		return ErrResettablePCR
	}
	return checkPCRs(pcrs)
}

// bitmap is the sizeofSelect 3 form of a selection; bit n%8 of byte n/8 is
// PCR n (TPM 2.0 Part 2, section 10.6.1).
func bitmap(pcrs []int) []byte {
	bits := make([]byte, 3)
	for _, n := range pcrs {
		bits[n/8] |= 1 << (n % 8)
	}
	return bits
}

func fromBitmap(bits []byte) []int {
	var pcrs []int
	for n := range 8 * len(bits) {
		if bits[n/8]&(1<<(n%8)) != 0 {
			pcrs = append(pcrs, n)
		}
	}
	return pcrs
}

// addSelection writes a TPML_PCR_SELECTION over the SHA-256 bank (TPM 2.0
// Part 2, section 10.9.7).
func addSelection(b *cryptobyte.Builder, pcrs []int) {
	b.AddUint32(1)
	b.AddUint16(algSHA256)
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(bitmap(pcrs)) })
}

// readSelection reads what addSelection writes, or an empty list.
func readSelection(s *cryptobyte.String) ([]int, bool) {
	var count uint32
	var bank uint16
	var bits cryptobyte.String
	if !s.ReadUint32(&count) || count > 1 {
		return nil, false
	}
	if count == 0 {
		return nil, true
	}
	if !s.ReadUint16(&bank) || bank != algSHA256 || !s.ReadUint8LengthPrefixed(&bits) || len(bits) != 3 {
		return nil, false
	}
	return fromBitmap(bits), true
}
