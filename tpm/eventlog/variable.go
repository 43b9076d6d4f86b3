package eventlog

import (
	"encoding/binary"
	"unicode/utf16"
)

// GlobalVariable is the GUID of the variables that UEFI itself defines, among
// them SecureBoot, PK and KEK (UEFI 2.10, section 3.3):
// 8be4df61-93ca-11d2-aa0d-00e098032b8c, as it is in memory.
var GlobalVariable = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}

// A Variable is a UEFI variable as the EV_EFI_VARIABLE events hold it: a
// UEFI_VARIABLE_DATA (PFP section 10.2.6).
type Variable struct {
	GUID  [16]byte
	Name  string
	Value []byte
}

// ParseVariable reads the data of an event of one of the EV_EFI_VARIABLE
// types. The value shares memory with the data.
func ParseVariable(data []byte) (Variable, bool) {
	r := &reader{rest: data}
	var v Variable
	copy(v.GUID[:], r.bytes(16))
	units, size := r.uint64(), r.uint64()
	if r.short || units > uint64(len(r.rest))/2 || size > uint64(len(r.rest)) {
		return Variable{}, false
	}
	name := r.bytes(2 * int(units))
	v.Value = r.bytes(int(size))
	if r.short || len(r.rest) != 0 {
		return Variable{}, false
	}
	v.Name = fromUTF16(name)
	return v, true
}

// Marshal returns the UEFI_VARIABLE_DATA.
func (v Variable) Marshal() []byte {
	name := utf16.Encode([]rune(v.Name))
	b := append([]byte(nil), v.GUID[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(name)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(v.Value)))
	for _, unit := range name {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return append(b, v.Value...)
}

func fromUTF16(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}
