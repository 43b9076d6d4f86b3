package tpm

import (
	"encoding/binary"
	"errors"
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

// ensureIndex defines an index if nothing is at its handle, and returns the
// Name of what is there then. A new counter starts, with its first increment,
// above every value that any counter in this chip ever had.
func (t *TPM) ensureIndex(index nvPublic) (Name, error) {
	read := func() (Name, error) { return t.indexName(index.handle) }
	name, err := steady(read, same[Name])
	if !errors.Is(err, tpm2.TPMRCHandle) {
		return name, err
	}
	_, err = tpm2.NVDefineSpace{
		AuthHandle: hierarchy(owner),
		PublicInfo: tpm2.BytesAs2B[tpm2.TPMSNVPublic](index.unwritten().bytes()),
	}.Execute(t.transport)
	if errors.Is(err, tpm2.TPMRCNVSpace) {
		return name, fmt.Errorf("%w: define NV index %#x: %w", ErrNVSpace, uint32(index.handle), err)
	}
	if err != nil {
		return name, ownerError(fmt.Errorf("tpm: define NV index %#x: %w", uint32(index.handle), err))
	}
	return steady(read, same[Name])
}

// readCounter reads a counter. Any other index in its place is the error other;
// none is TPM_RC_HANDLE, and one that was never written TPM_RC_NV_UNINITIALIZED.
func (t *TPM) readCounter(index nvPublic, other error) (uint64, error) {
	name, err := t.indexName(index.handle)
	if err == nil && name != index.name() {
		name, err = t.indexName(index.handle) // before somebody is advised to remove it
	}
	if err != nil {
		return 0, err
	}
	switch name {
	case index.name():
	case index.unwritten().name():
		return 0, fmt.Errorf("tpm: counter %#x: %w", uint32(index.handle), tpm2.TPMRCNVUninitialized)
	default:
		return 0, fmt.Errorf("%w: Name %v, want %v", other, name, index.name())
	}
	rsp, err := tpm2.NVRead{
		AuthHandle: withAuth(index.handle, name, noAuth()),
		NVIndex:    named(index.handle, name),
		Size:       8,
	}.Execute(t.transport)
	if err != nil {
		return 0, fmt.Errorf("tpm: read counter %#x: %w", uint32(index.handle), err)
	}
	if len(rsp.Data.Buffer) != 8 {
		return 0, fmt.Errorf("tpm: counter %#x of %d bytes", uint32(index.handle), len(rsp.Data.Buffer))
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), nil
}

func (t *TPM) indexName(index tpm2.TPMHandle) (n Name, err error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.transport)
	if err != nil {
		return n, fmt.Errorf("tpm: NV index %#x: %w", uint32(index), err)
	}
	copyName(&n, rsp.NVName.Buffer)
	return n, nil
}

// absent reports whether there is no index, or nothing in it to read.
func absent(err error) bool {
	return errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCNVUninitialized)
}
