package eventlog

import "fmt"

// Algorithms (TPM 2.0 Part 2, section 6.3) and the sizes of their digests.
const algSHA256 = 0x000b

var digestSizes = map[uint16]int{
	0x0004:    20, // SHA-1
	algSHA256: 32,
	0x000c:    48, // SHA-384
	0x000d:    64, // SHA-512
	0x0012:    32, // SM3-256
	0x0027:    32, // SHA3-256
	0x0028:    48, // SHA3-384
	0x0029:    64, // SHA3-512
}

const (
	maxAlgorithms = 16
	maxDigest     = 64
)

// An algorithm is an entry of the table that says how long digests are, which
// is how events are read over whose algorithms are unknown here.
type algorithm struct {
	id   uint16
	size int
}

// specIDSignature is what tells a log with several algorithms from one of
// TPM 1.2.
const specIDSignature = "Spec ID Event03\x00"

// readHeader takes the first event of the log: a TCG_PCClientPCREvent, the
// event of TPM 1.2, so that old software can step over it (PFP section
// 10.2.1).
func readHeader(r *reader) ([]algorithm, error) {
	pcr, kind := r.uint32(), EventType(r.uint32())
	digest, data := r.bytes(20), r.bytes(int(r.uint32()))
	if r.short {
		return nil, fmt.Errorf("%w: the first event is cut short", ErrMalformed)
	}
	if kind != NoAction || len(data) < len(specIDSignature) || string(data[:len(specIDSignature)]) != specIDSignature {
		if pcr >= PCRs {
			return nil, fmt.Errorf("%w: the first event is of PCR %d, at most %d", ErrMalformed, pcr, PCRs-1)
		}
		return nil, fmt.Errorf("%w: the log is of TPM 1.2 or older, it starts with %v", ErrNoSHA256, kind)
	}
	if pcr != 0 || !isZero(digest) {
		return nil, fmt.Errorf("%w: the first event is of PCR %d and digest %x, want zeros", ErrMalformed, pcr, digest)
	}
	return readSpecID(data)
}

// readSpecID reads TCG_EfiSpecIdEvent (PFP section 10.4.5.1).
func readSpecID(data []byte) ([]algorithm, error) {
	r := &reader{rest: data}
	r.bytes(len(specIDSignature))
	r.uint32() // platformClass: client or server
	minor, major := r.uint8(), r.uint8()
	r.uint8() // specErrata: revision of the profile, 105 or 106, before them 0 or 2
	uintn, count := r.uint8(), r.uint32()
	switch {
	case r.short:
		return nil, fmt.Errorf("%w: Spec ID event of %d bytes", ErrMalformed, len(data))
	case major != 2 || minor != 0:
		return nil, fmt.Errorf("%w: specification %d.%d, want 2.0", ErrMalformed, major, minor)
	case uintn != 1 && uintn != 2:
		return nil, fmt.Errorf("%w: uintnSize %d, want 1 or 2", ErrMalformed, uintn)
	case count == 0:
		return nil, fmt.Errorf("%w: no algorithms", ErrMalformed)
	case count > maxAlgorithms:
		return nil, fmt.Errorf("%w: %d algorithms, at most %d", ErrTooLarge, count, maxAlgorithms)
	}
	algorithms := make([]algorithm, 0, count)
	for range count {
		a := algorithm{r.uint16(), int(r.uint16())}
		if r.short {
			break
		}
		if err := a.check(algorithms); err != nil {
			return nil, err
		}
		algorithms = append(algorithms, a)
	}
	r.bytes(int(r.uint8())) // vendorInfo
	if r.short || len(r.rest) != 0 {
		return nil, fmt.Errorf("%w: Spec ID event of %d bytes for %d algorithms", ErrMalformed, len(data), count)
	}
	if index(algorithms, algSHA256) < 0 {
		return nil, fmt.Errorf("%w: %d other algorithms", ErrNoSHA256, count)
	}
	return algorithms, nil
}

func (a algorithm) check(before []algorithm) error {
	want, known := digestSizes[a.id]
	switch {
	case index(before, a.id) >= 0:
		return fmt.Errorf("%w: algorithm %#04x twice", ErrMalformed, a.id)
	case known && a.size != want:
		return fmt.Errorf("%w: algorithm %#04x with digests of %d bytes, want %d", ErrMalformed, a.id, a.size, want)
	case a.size == 0 || a.size > maxDigest:
		return fmt.Errorf("%w: algorithm %#04x with digests of %d bytes, want 1 to %d", ErrMalformed, a.id, a.size, maxDigest)
	}
	return nil
}

// index returns where the algorithm is in the table, or -1.
func index(algorithms []algorithm, id uint16) int {
	for i, a := range algorithms {
		if a.id == id {
			return i
		}
	}
	return -1
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
