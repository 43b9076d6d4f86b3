package tpm

import (
	"fmt"
	"strings"
)

// A Weakness is a published flaw by which keys of a chip can be computed by
// others. Firmware with one is no protection, whatever its certificate says.
type Weakness struct {
	Name   string // what it is called, such as "ROCA"
	ID     string // CVE, or where there is none the publication
	What   string // which keys, and how
	Source string // where the range of versions is from
}

func (w Weakness) String() string { return fmt.Sprintf("%s (%s): %s", w.Name, w.ID, w.What) }

var (
	roca = Weakness{"ROCA", "CVE-2017-15361", "the RSA keys that the chip makes, its EK may be one, can be factored",
		"https://portal.msrc.microsoft.com/en-us/security-guidance/advisory/ADV170012"}
	tpmFailST = Weakness{"TPM-FAIL", "CVE-2019-16863", "the time of ECDSA signatures gives the key away",
		"https://www.st.com/content/st_com/en/campaigns/tpm-update.html"}
	tpmFailIntel = Weakness{"TPM-FAIL", "CVE-2019-11090", "the time of ECDSA signatures gives the key away",
		"https://www.intel.com/content/www/us/en/security-center/advisory/intel-sa-00241.html"}
	nineSignatures = Weakness{"nine signatures", "TPMScan, CHES 2024", "nine ECDSA signatures give the key away",
		"https://doi.org/10.46586/tches.v2024.i2.714-734"}
)

// A version is the vendor's firmware version as the chip reports it, four
// numbers of 16 bits.
type version uint64

func v(a, b, c, d uint16) version {
	return version(a)<<48 | version(b)<<32 | version(c)<<16 | version(d)
}

// weakFirmware are the ranges, first and last version included. Vendors number
// their chips' firmware by lines; a line that is not listed is not known to be
// affected.
var weakFirmware = []struct {
	manufacturer string
	from, to     version
	weakness     Weakness
}{
	// Infineon: SLB 9665 up to 5.61, SLB 9670 up to 7.61. Lines below are TPM 1.2.
	{"IFX", v(5, 0, 0, 0), v(5, 61, 0xffff, 0xffff), roca},
	{"IFX", v(7, 0, 0, 0), v(7, 61, 0xffff, 0xffff), roca},

	// STMicroelectronics: ST33TPHF2E and ST33TPHF20, the versions that ST lists.
	{"STM", v(71, 0, 0, 0), v(71, 0, 0xffff, 0xffff), tpmFailST},
	{"STM", v(71, 4, 0, 0), v(71, 4, 0xffff, 0xffff), tpmFailST},
	{"STM", v(71, 12, 0, 0), v(71, 12, 0xffff, 0xffff), tpmFailST},
	{"STM", v(73, 0, 0, 0), v(73, 0, 0xffff, 0xffff), tpmFailST},
	{"STM", v(73, 4, 0, 0), v(73, 4, 0xffff, 0xffff), tpmFailST},
	{"STM", v(73, 5, 0, 0), v(73, 5, 0xffff, 0xffff), tpmFailST},
	{"STM", v(73, 8, 0, 0), v(73, 8, 0xffff, 0xffff), tpmFailST},
	{"STM", v(73, 9, 0, 0), v(73, 9, 0xffff, 0xffff), tpmFailST},
	{"STM", v(74, 0, 0, 0), v(74, 0, 0xffff, 0xffff), tpmFailST},
	{"STM", v(74, 4, 0, 0), v(74, 4, 0xffff, 0xffff), tpmFailST},
	{"STM", v(74, 5, 0, 0), v(74, 5, 0xffff, 0xffff), tpmFailST},
	{"STM", v(74, 8, 0, 0), v(74, 8, 0xffff, 0xffff), tpmFailST},
	{"STM", v(74, 9, 0, 0), v(74, 9, 0xffff, 0xffff), tpmFailST},
	{"STM", v(74, 16, 0, 0), v(74, 16, 0xffff, 0xffff), tpmFailST},

	// Intel PTT has the version of its CSME: before 11.8.70, 11.11.70, 11.22.70,
	// 12.0.45 and 14.0.10; or of its TXE: before 3.1.70 and 4.0.20.
	{"INTC", v(11, 0, 0, 0), v(11, 8, 69, 0xffff), tpmFailIntel},
	{"INTC", v(11, 10, 0, 0), v(11, 11, 69, 0xffff), tpmFailIntel},
	{"INTC", v(11, 20, 0, 0), v(11, 22, 69, 0xffff), tpmFailIntel},
	{"INTC", v(12, 0, 0, 0), v(12, 0, 44, 0xffff), tpmFailIntel},
	{"INTC", v(14, 0, 0, 0), v(14, 0, 9, 0xffff), tpmFailIntel},
	{"INTC", v(3, 0, 0, 0), v(3, 1, 69, 0xffff), tpmFailIntel},
	{"INTC", v(4, 0, 0, 0), v(4, 0, 19, 0xffff), tpmFailIntel},
	// The versions with which the authors did it.
	{"INTC", v(11, 5, 0, 1058), v(11, 6, 10, 1196), nineSignatures},
	{"INTC", v(303, 12, 0, 0), v(303, 12, 0, 0), nineSignatures},
}

// Weaknesses returns the published flaws of a chip's firmware, nil if none is
// known. manufacturer is the TCG vendor identifier and firmware the vendor's
// version, as [Info] has them; they are the chip's own words, so a lie can hide
// a flaw, and an honest chip tells it.
func Weaknesses(manufacturer string, firmware uint64) (list []Weakness) {
	for _, w := range weakFirmware {
		if strings.TrimSpace(manufacturer) == w.manufacturer && version(firmware) >= w.from && version(firmware) <= w.to {
			list = append(list, w.weakness)
		}
	}
	return list
}

// Weaknesses returns the published flaws of the chip's firmware.
func (i Info) Weaknesses() []Weakness { return Weaknesses(i.Manufacturer, i.Firmware) }
