package chancery

import (
	"bytes"
	"fmt"
	"io"
)

// crlPrefix is as much of a full list or a delta as holds its head.
const crlPrefix = len(magic) + 1 + 8 + 4 + maxCRLHead + 1 + 96

// ReadCRL reads a full list or a delta of size bytes from somebody who is not
// known. The head must be signed under the pointer record's current key, and its
// number must not be below least, before more is read, and before memory is
// taken for it: whoever holds no such list makes a reader take 64 KiB, not 64
// MiB. What is returned is not verified but for that; it is for [UpdateCRL].
//
// Errors are those of rows 1 to 3 of section 6.2, [ErrCRLRollback], and r's own;
// an end before size is [io.ErrUnexpectedEOF].
func ReadCRL(r io.Reader, size int64, p *Pointer, least uint64) ([]byte, error) {
	if size < 0 || size > maxCRL {
		return nil, fmt.Errorf("CRL of %d bytes: %w", size, ErrMalformed)
	}
	var list bytes.Buffer
	if err := readExactly(&list, r, min(size, int64(crlPrefix))); err != nil {
		return nil, err
	}
	head, err := crlHeadOf(list.Bytes())
	if err != nil {
		return nil, err
	}
	if err := head.Verify(p); err != nil {
		return nil, err
	}
	if head.Number < least {
		return nil, fmt.Errorf("%w: number %d, want %d", ErrCRLRollback, head.Number, least)
	}
	// The buffer grows with what comes, not with what was announced.
	if err := readExactly(&list, r, size-int64(list.Len())); err != nil {
		return nil, err
	}
	return list.Bytes(), nil
}

func readExactly(to *bytes.Buffer, r io.Reader, n int64) error {
	_, err := io.CopyN(to, r, n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// crlHeadOf parses the head of a full list or a delta, of which b holds at
// least that. Nothing is verified.
func crlHeadOf(b []byte) (*CRLHead, error) {
	d := open(b, kindCRL, maxCRL)
	if d.bad {
		d = open(b, kindDelta, maxCRL)
		d.u64()
	}
	h := d.crlHead()
	if d.bad {
		return nil, fmt.Errorf("CRL: %w", ErrMalformed)
	}
	return h, nil
}
