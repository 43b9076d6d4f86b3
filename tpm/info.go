package tpm

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Info is what a chip says about itself. Nothing of it is proven; the EK
// certificate is.
type Info struct {
	Manufacturer string // TCG vendor identifier, such as "IFX" or "IBM"
	Vendor       string // vendor string, such as "SLB9670"
	Model        uint32 // vendor's TPM type
	Firmware     uint64 // vendor's version
	Simulator    bool   // a TPM in software: a test's, or a virtual machine's
}

// String returns manufacturer, vendor string and firmware version for people.
func (i Info) String() string {
	vendor := strings.Join(strings.Fields(i.Vendor), " ") // it comes in four padded pieces
	s := fmt.Sprintf("%s %s, firmware %s", i.Manufacturer, vendor, i.FirmwareVersion())
	if i.Simulator {
		s += " (in software)"
	}
	return s
}

// FirmwareVersion returns the firmware's version as vendors write it: four
// numbers.
func (i Info) FirmwareVersion() string {
	return fmt.Sprintf("%d.%d.%d.%d", i.Firmware>>48, i.Firmware>>32&0xffff, i.Firmware>>16&0xffff, i.Firmware&0xffff)
}

// Info returns what the chip said when it was opened.
func (t *TPM) Info() Info { return t.info }

// readInfo reads the fixed properties (TPM 2.0 Part 2, section 6.13).
func (t *TPM) readInfo() error {
	rsp, err := tpm2.GetCapability{
		Capability:    tpm2.TPMCapTPMProperties,
		Property:      uint32(tpm2.TPMPTManufacturer),
		PropertyCount: uint32(tpm2.TPMPTModes - tpm2.TPMPTManufacturer),
	}.Execute(t.transport)
	if err != nil {
		return fmt.Errorf("tpm: read properties: %w", err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return fmt.Errorf("tpm: read properties: %w", err)
	}
	p := map[tpm2.TPMPT]uint32{}
	for _, v := range list.TPMProperty {
		p[v.Property] = v.Value
	}
	t.info = Info{
		Manufacturer: letters(p[tpm2.TPMPTManufacturer]),
		Vendor: letters(p[tpm2.TPMPTVendorString1], p[tpm2.TPMPTVendorString2],
			p[tpm2.TPMPTVendorString3], p[tpm2.TPMPTVendorString4]),
		Model:    p[tpm2.TPMPTVendorTPMType],
		Firmware: uint64(p[tpm2.TPMPTFirmwareVersion1])<<32 | uint64(p[tpm2.TPMPTFirmwareVersion2]),
	}
	// libtpms and the reference implementation, which is also what clouds run.
	t.info.Simulator = t.simulated || strings.HasPrefix(t.info.Vendor, "SW ") || strings.Contains(t.info.Vendor, "xCG fTPM")
	// 512 is the least that the PC Client profile allows.
	t.nvBuffer = 512
	if max := int(p[tpm2.TPMPTNVBufferMax]); max > 0 {
		t.nvBuffer = min(max, 2048)
	}
	return nil
}

// letters decodes words of four characters and drops padding and whatever a
// terminal might act on.
func letters(words ...uint32) string {
	var raw []byte
	for _, w := range words {
		raw = binary.BigEndian.AppendUint32(raw, w)
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, string(raw)))
}
