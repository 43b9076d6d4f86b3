package eventlog

import "encoding/binary"

// reader takes little-endian fields from the front of its bytes. Once there
// are too few it takes nothing more and returns zeros, so that a caller asks
// for several fields and then looks at short, before it believes any.
type reader struct {
	rest  []byte
	short bool
}

// bytes returns n bytes that share memory with the reader's.
func (r *reader) bytes(n int) []byte {
	if r.short || n < 0 || n > len(r.rest) {
		r.short = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint(size int) uint64 {
	var b [8]byte
	copy(b[:], r.bytes(size))
	return binary.LittleEndian.Uint64(b[:])
}

func (r *reader) uint8() uint8   { return uint8(r.uint(1)) }
func (r *reader) uint16() uint16 { return uint16(r.uint(2)) }
func (r *reader) uint32() uint32 { return uint32(r.uint(4)) }
func (r *reader) uint64() uint64 { return r.uint(8) }
