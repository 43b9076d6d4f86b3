package gossip

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/chancery-pki/chancery"
)

// ALPN is the protocol's name in the TLS handshake.
const ALPN = "chancery-gossip/1"

const (
	helloSize = 112
	// maxRecord is the limit of a pointer record.
	maxRecord = 64 << 10
	// maxSteps is how many deltas one end sends at most; who is further behind
	// gets the full list.
	maxSteps = 16
)

// A hello is what one end has.
type hello struct {
	fleet  chancery.FleetID
	record version // of the pointer record
	list   version // of the CRL; zero for none
}

// A version is a number and the hash of the body that has it.
type version struct {
	number uint64
	hash   [32]byte
}

// sends reports whether an end that has v sends it to one that has o: if it is
// newer, or if it should be the same and is not.
func (v version) sends(o version) bool {
	return v.number > o.number || v.number == o.number && v.hash != o.hash
}

func helloOf(t chancery.Trust) hello {
	h := hello{fleet: t.Pointer.FleetID(), record: version{t.Pointer.Seq, t.Pointer.Hash()}}
	if t.CRL != nil {
		h.list = version{t.CRL.Head().Number, t.CRL.Head().Hash()}
	}
	return h
}

func (h *hello) write(w io.Writer) error {
	b := append(make([]byte, 0, helloSize), h.fleet[:]...)
	for _, v := range []version{h.record, h.list} {
		b = append(binary.BigEndian.AppendUint64(b, v.number), v.hash[:]...)
	}
	_, err := w.Write(b)
	return err
}

func readHello(r io.Reader) (h hello, err error) {
	var b [helloSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return h, err
	}
	rest := b[copy(h.fleet[:], b[:]):]
	for _, v := range []*version{&h.record, &h.list} {
		v.number = binary.BigEndian.Uint64(rest)
		rest = rest[8+copy(v.hash[:], rest[8:]):]
	}
	return h, nil
}

// writeFrame writes an artefact with its length before it.
func writeFrame(w io.Writer, b []byte) error {
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

func readSize(r io.Reader) (int64, error) {
	var b [4]byte
	_, err := io.ReadFull(r, b[:])
	return int64(binary.BigEndian.Uint32(b[:])), err
}

// readRecord reads a pointer record. It is not verified.
func readRecord(r io.Reader) (*chancery.Pointer, error) {
	size, err := readSize(r)
	if err != nil {
		return nil, err
	}
	if size > maxRecord {
		return nil, fmt.Errorf("pointer record of %d bytes: %w", size, chancery.ErrMalformed)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	return chancery.ParsePointer(b)
}

// readList reads a full list or a delta whose head the record's key signed, and
// whose number is not below least.
func readList(r io.Reader, p *chancery.Pointer, least uint64) ([]byte, error) {
	size, err := readSize(r)
	if err != nil {
		return nil, err
	}
	return chancery.ReadCRL(r, size, p, least)
}
