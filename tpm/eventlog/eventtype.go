package eventlog

import "fmt"

// An EventType says what an event is about (PFP section 10.4.1).
type EventType uint32

// Types that this package knows more of than the name, and those of an
// ordinary boot.
const (
	PostCode                   EventType = 0x00000001
	NoAction                   EventType = 0x00000003 // for the log's reader, extends nothing
	Separator                  EventType = 0x00000004 // firmware is done with the PCR
	Action                     EventType = 0x00000005
	SCRTMContents              EventType = 0x00000007
	SCRTMVersion               EventType = 0x00000008
	IPL                        EventType = 0x0000000d // boot loaders: shim, GRUB, systemd-boot
	OmitBootDeviceEvents       EventType = 0x00000012
	EFIVariableDriverConfig    EventType = 0x80000001
	EFIVariableBoot            EventType = 0x80000002
	EFIBootServicesApplication EventType = 0x80000003
	EFIBootServicesDriver      EventType = 0x80000004
	EFIGPTEvent                EventType = 0x80000006
	EFIAction                  EventType = 0x80000007
	EFIPlatformFirmwareBlob    EventType = 0x80000008
	EFIVariableBoot2           EventType = 0x8000000c
	EFIHCRTMEvent              EventType = 0x80000010
	EFIVariableAuthority       EventType = 0x800000e0
	EFISPDMDevicePolicy        EventType = 0x800000e3
	EFISPDMDeviceAuthority     EventType = 0x800000e4
)

var typeNames = map[EventType]string{
	0x00000000:                 "EV_PREBOOT_CERT",
	PostCode:                   "EV_POST_CODE",
	0x00000002:                 "EV_UNUSED",
	NoAction:                   "EV_NO_ACTION",
	Separator:                  "EV_SEPARATOR",
	Action:                     "EV_ACTION",
	0x00000006:                 "EV_EVENT_TAG",
	SCRTMContents:              "EV_S_CRTM_CONTENTS",
	SCRTMVersion:               "EV_S_CRTM_VERSION",
	0x00000009:                 "EV_CPU_MICROCODE",
	0x0000000a:                 "EV_PLATFORM_CONFIG_FLAGS",
	0x0000000b:                 "EV_TABLE_OF_DEVICES",
	0x0000000c:                 "EV_COMPACT_HASH",
	IPL:                        "EV_IPL",
	0x0000000e:                 "EV_IPL_PARTITION_DATA",
	0x0000000f:                 "EV_NONHOST_CODE",
	0x00000010:                 "EV_NONHOST_CONFIG",
	0x00000011:                 "EV_NONHOST_INFO",
	OmitBootDeviceEvents:       "EV_OMIT_BOOT_DEVICE_EVENTS",
	0x00000013:                 "EV_POST_CODE2",
	EFIVariableDriverConfig:    "EV_EFI_VARIABLE_DRIVER_CONFIG",
	EFIVariableBoot:            "EV_EFI_VARIABLE_BOOT",
	EFIBootServicesApplication: "EV_EFI_BOOT_SERVICES_APPLICATION",
	EFIBootServicesDriver:      "EV_EFI_BOOT_SERVICES_DRIVER",
	0x80000005:                 "EV_EFI_RUNTIME_SERVICES_DRIVER",
	EFIGPTEvent:                "EV_EFI_GPT_EVENT",
	EFIAction:                  "EV_EFI_ACTION",
	EFIPlatformFirmwareBlob:    "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	0x80000009:                 "EV_EFI_HANDOFF_TABLES",
	0x8000000a:                 "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	0x8000000b:                 "EV_EFI_HANDOFF_TABLES2",
	EFIVariableBoot2:           "EV_EFI_VARIABLE_BOOT2",
	0x8000000d:                 "EV_EFI_GPT_EVENT2",
	EFIHCRTMEvent:              "EV_EFI_HCRTM_EVENT",
	EFIVariableAuthority:       "EV_EFI_VARIABLE_AUTHORITY",
	0x800000e1:                 "EV_EFI_SPDM_FIRMWARE_BLOB",
	0x800000e2:                 "EV_EFI_SPDM_FIRMWARE_CONFIG",
	EFISPDMDevicePolicy:        "EV_EFI_SPDM_DEVICE_POLICY",
	EFISPDMDeviceAuthority:     "EV_EFI_SPDM_DEVICE_AUTHORITY",
}

// String returns the specification's name, such as EV_SEPARATOR, or the
// number of a type that it does not name.
func (t EventType) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("%#08x", uint32(t))
}

// HashesData reports whether the specification has an event's digest be the
// hash of its data. Not among them are EV_EFI_VARIABLE_BOOT, of which only the
// variable's value is hashed; EV_IPL, of which each boot loader hashes
// something else; EV_EVENT_TAG, which Linux and systemd use for files; and
// EV_EFI_GPT_EVENT2, of which serial numbers are left out.
func (t EventType) HashesData() bool {
	switch t {
	case Separator, Action, SCRTMVersion, OmitBootDeviceEvents,
		EFIVariableDriverConfig, EFIVariableBoot2, EFIVariableAuthority,
		EFIGPTEvent, EFIAction, EFISPDMDevicePolicy, EFISPDMDeviceAuthority:
		return true
	}
	return false
}
