package chip

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
)

// headerSize is that of commands and answers alike: tag, size, and the command
// code or the response code (TPM 2.0 Part 1, section 18).
const headerSize = 10

// maxMessage is above the 4096 bytes of every TPM in use.
const maxMessage = 8192

// message reads one command or answer; both tell their size.
func message(from io.Reader) ([]byte, error) {
	m := make([]byte, headerSize)
	if _, err := io.ReadFull(from, m); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(m[2:])
	if size < headerSize || size > maxMessage {
		return nil, fmt.Errorf("chip: message of %d bytes, a message has %d to %d", size, headerSize, maxMessage)
	}
	rest := make([]byte, size-headerSize)
	_, err := io.ReadFull(from, rest)
	return append(m, rest...), err
}

// code is the code of a command or of an answer.
func code(m []byte) uint32 { return binary.BigEndian.Uint32(m[6:]) }

// refusal is the answer that holds a response code and nothing else.
func refusal(rc tpm2.TPMRC) []byte {
	m := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	m = binary.BigEndian.AppendUint32(m, headerSize)
	return binary.BigEndian.AppendUint32(m, uint32(rc))
}

// flip changes one bit. It is counted from the first bit of the first byte, or
// backwards from the end if negative, and beyond either end goes on at the
// other.
func flip(m []byte, bit int) {
	n := 8 * len(m)
	bit = (bit%n + n) % n
	m[bit/8] ^= 0x80 >> (bit % 8)
}
