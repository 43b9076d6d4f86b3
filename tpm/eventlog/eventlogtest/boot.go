package eventlogtest

import (
	"crypto/sha256"
	"encoding/binary"
	"unicode/utf16"

	"github.com/chancery-pki/chancery/tpm/eventlog"
)

// imageSecurity is the GUID of the variables db and dbx (UEFI 2.10, section
// 32.6.1): d719b2cb-3d3a-4596-a3bc-dad00e67656f.
var imageSecurity = [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}

// StartupLocality adds the event that says from where PCR 0 started (PFP
// section 10.4.5.3): 0, 3, or 4 after an H-CRTM sequence.
func (b *Builder) StartupLocality(locality byte) *Builder {
	return b.Add(0, eventlog.NoAction, append([]byte("StartupLocality\x00"), locality))
}

// SecureBoot adds what firmware measures into PCR 7: the Secure Boot policy
// and the separator (PFP section 3.3.4.8). The keys are made up.
func (b *Builder) SecureBoot(enabled bool) *Builder {
	value := []byte{0}
	if enabled {
		value[0] = 1
	}
	for _, v := range []eventlog.Variable{
		{GUID: eventlog.GlobalVariable, Name: "SecureBoot", Value: value},
		{GUID: eventlog.GlobalVariable, Name: "PK"},
		{GUID: eventlog.GlobalVariable, Name: "KEK"},
		{GUID: imageSecurity, Name: "db"},
		{GUID: imageSecurity, Name: "dbx"},
	} {
		b.Add(7, eventlog.EFIVariableDriverConfig, v.Marshal())
	}
	return b.Separator(7)
}

// Separator adds what firmware measures into a PCR when it is done with it.
func (b *Builder) Separator(pcr int) *Builder {
	return b.Add(pcr, eventlog.Separator, make([]byte, 4))
}

// Boot is the log of a machine that starts this boot loader under this
// version of its firmware. The digests of code are those of the two strings.
func Boot(firmware, loader string, secureBoot bool) *Builder {
	b := NewBuilder()
	b.Add(0, eventlog.SCRTMVersion, toUTF16(firmware+"\x00"))
	b.AddDigest(0, eventlog.EFIPlatformFirmwareBlob, sha256.Sum256([]byte(firmware)), make([]byte, 16)) // address and length
	b.SecureBoot(secureBoot)
	b.Add(4, eventlog.EFIAction, []byte("Calling EFI Application from Boot Option"))
	for pcr := range 7 {
		b.Separator(pcr)
	}
	b.AddDigest(4, eventlog.EFIBootServicesApplication, sha256.Sum256([]byte(loader)), make([]byte, 32)) // UEFI_IMAGE_LOAD_EVENT without a path
	b.Add(5, eventlog.EFIAction, []byte("Exit Boot Services Invocation"))
	b.Add(5, eventlog.EFIAction, []byte("Exit Boot Services Returned with Success"))
	return b
}

func toUTF16(s string) []byte {
	var b []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b
}
