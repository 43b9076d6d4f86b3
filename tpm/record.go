package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// RecordSize is how many bytes a record has.
const RecordSize = 128

// The record is where a coordinator notes, outside of its database, how far it
// has come. Whoever reaches the chip may write it, with the empty password: it is
// against what an operator restores, not against who is on the machine.
const (
	recordHandle     = 0x01800103
	recordAttributes = nvAuthWrite | nvAuthRead | nvNoDA
)

var recordIndex = nvPublic{handle: recordHandle, attributes: recordAttributes | nvWritten, size: RecordSize}

// Record returns the record. It is [ErrNoRecord] for a chip that has none, and
// [ErrRecordIndex] for one that has something else in its place.
func (t *TPM) Record() ([]byte, error) {
	end, err := t.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	name, err := steady(func() (Name, error) { return t.indexName(recordHandle) }, same[Name])
	if err == nil && name == recordIndex.unwritten().name() {
		err = tpm2.TPMRCNVUninitialized
	}
	switch {
	case absent(err):
		return nil, fmt.Errorf("%w: %w", ErrNoRecord, err)
	case err != nil:
		return nil, err
	case name != recordIndex.name():
		return nil, fmt.Errorf("%w: Name %v, want %v", ErrRecordIndex, name, recordIndex.name())
	}
	b, err := steady(func() ([RecordSize]byte, error) {
		var b [RecordSize]byte
		got, err := t.readNV(recordHandle)
		if err == nil && copy(b[:], got) != len(b) {
			err = errors.New("tpm: short record")
		}
		return b, err
	}, same[[RecordSize]byte])
	return b[:], err
}

// SetRecord replaces the record, of RecordSize bytes, in one command: it has its
// old content or its new one. It makes the index first if the chip has none,
// which takes the owner's authorization.
func (t *TPM) SetRecord(b []byte) error {
	if len(b) != RecordSize {
		return fmt.Errorf("tpm: record of %d bytes, want %d", len(b), RecordSize)
	}
	end, err := t.begin()
	if err != nil {
		return err
	}
	defer end()
	name, err := t.ensureIndex(recordIndex)
	if err != nil {
		return err
	}
	if name != recordIndex.name() && name != recordIndex.unwritten().name() {
		return fmt.Errorf("%w: Name %v, want %v", ErrRecordIndex, name, recordIndex.name())
	}
	_, err = tpm2.NVWrite{
		AuthHandle: withAuth(recordHandle, name, noAuth()),
		NVIndex:    named(recordHandle, name),
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: b},
	}.Execute(t.transport)
	if err != nil {
		return fmt.Errorf("tpm: write record: %w", err)
	}
	return nil
}
