package tpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// maxNV bounds what is read of one NV index.
const maxNV = 16 << 10

// readNV returns the contents of an index that its empty password or the
// owner may read (TPM 2.0 Part 3, section 31.13).
func (t *TPM) readNV(index tpm2.TPMHandle) ([]byte, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.transport)
	if err != nil {
		return nil, fmt.Errorf("tpm: NV index %#x: %w", uint32(index), err)
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("tpm: NV index %#x: %w", uint32(index), err)
	}
	size := int(public.DataSize)
	if size > maxNV {
		return nil, fmt.Errorf("tpm: NV index %#x has %d bytes, at most %d are read", uint32(index), size, maxNV)
	}
	auth := tpm2.AuthHandle{Handle: index, Name: rsp.NVName, Auth: noAuth()}
	if !public.Attributes.AuthRead {
		auth = hierarchy(owner)
	}
	var data []byte
	for len(data) < size {
		part, err := tpm2.NVRead{
			AuthHandle: auth,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: rsp.NVName},
			Size:       uint16(min(t.nvBuffer, size-len(data))),
			Offset:     uint16(len(data)),
		}.Execute(t.transport)
		if err != nil {
			return nil, fmt.Errorf("tpm: read NV index %#x: %w", uint32(index), err)
		}
		if len(part.Data.Buffer) == 0 {
			return nil, fmt.Errorf("tpm: read NV index %#x: no data at offset %d of %d", uint32(index), len(data), size)
		}
		data = append(data, part.Data.Buffer...)
	}
	return data, nil
}
