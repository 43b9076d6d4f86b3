package hsm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// Info describes a token, from C_GetTokenInfo and C_GetInfo (PKCS#11 2.40
// sections 5.4 and 5.5).
type Info struct {
	Label        string
	Serial       string
	Manufacturer string
	Model        string
	Hardware     string // version, "2.6"
	Firmware     string // version
	Library      string // description and version of the PKCS#11 library
	Simulator    bool   // a token in software: fit for trials, protects nothing
	Sessions     int    // pinned sessions; 0 if the token is not open. Fewer than wanted if the token has no more
}

// slot is a token as seen before login.
type slot struct {
	id          uint
	info        Info
	flags       uint // CKF_* of CK_TOKEN_INFO
	maxSessions uint
}

// slots lists the initialised tokens of the module.
func (m module) slots() ([]slot, error) {
	library, err := m.GetInfo()
	if err != nil {
		return nil, failed("C_GetInfo", err)
	}
	ids, err := m.GetSlotList(true)
	if err != nil {
		return nil, failed("C_GetSlotList", err)
	}
	var list []slot
	for _, id := range ids {
		t, err := m.GetTokenInfo(id)
		if err != nil {
			return nil, fmt.Errorf("slot %d: %w", id, failed("C_GetTokenInfo", err))
		}
		if t.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		list = append(list, slot{
			id: id, flags: t.Flags, maxSessions: t.MaxSessionCount,
			info: Info{
				Label:        padded(t.Label),
				Serial:       padded(t.SerialNumber),
				Manufacturer: padded(t.ManufacturerID),
				Model:        padded(t.Model),
				Hardware:     fmt.Sprintf("%d.%d", t.HardwareVersion.Major, t.HardwareVersion.Minor),
				Firmware:     fmt.Sprintf("%d.%d", t.FirmwareVersion.Major, t.FirmwareVersion.Minor),
				Library:      fmt.Sprintf("%s %d.%d", library.LibraryDescription, library.LibraryVersion.Major, library.LibraryVersion.Minor),
				Simulator:    inSoftware(padded(t.ManufacturerID), padded(t.Model)),
			},
		})
	}
	return list, nil
}

// Look finds the token that the URI names and describes it, without logging
// in. The error is a [*PINError] if the token's flags say that a login would
// be refused, or could be one of the last; else those of [Open].
func Look(uri URI) (info Info, err error) {
	path, release, err := claim(uri)
	if err != nil {
		return info, err
	}
	defer release()
	m, err := load(path, uri.InitReserved)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, m.unload()) }()
	s, err := m.slot(uri)
	if err != nil {
		return info, err
	}
	if s.loginRequired() {
		err = s.mayLogin(false, false)
	}
	return s.info, err
}

// inSoftware tells the modules that keep keys in files, by what they say of
// themselves: SoftHSM, NSS, and tpm2-pkcs11 on a TPM that is a program. What
// claims to be hardware is taken at its word.
func inSoftware(manufacturer, model string) bool {
	return manufacturer == "SoftHSM project" || manufacturer == "Mozilla Foundation" || model == "SW   TPM"
}

// padded takes the padding off a text of CK_TOKEN_INFO: blanks, as the
// standard has it, or NULs. What is not UTF-8 within, as the standard wants it,
// becomes a question mark: such a text could be in no URI, no JSON and no log
// line, and who compares it has to find it as it was written down.
func padded(s string) string {
	s = strings.TrimRight(s, "\x00 ")
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "?"), "?")
}

// slot returns the one token that the URI names, or a [*TokenError].
func (m module) slot(uri URI) (slot, error) {
	list, err := m.slots()
	if err != nil {
		return slot{}, err
	}
	var match []slot
	e := &TokenError{URI: uri}
	for _, s := range list {
		e.Seen = append(e.Seen, s.info)
		if uri.matches(s) {
			match = append(match, s)
		}
	}
	if e.Matches = len(match); e.Matches != 1 {
		return slot{}, e
	}
	return match[0], nil
}

// matches reports whether the URI names the token (RFC 7512 section 2.3: an
// attribute that is absent matches).
func (u URI) matches(s slot) bool {
	same := func(want, have string) bool { return want == "" || want == have }
	return same(u.Token, s.info.Label) && same(u.Serial, s.info.Serial) &&
		same(u.Manufacturer, s.info.Manufacturer) && same(u.Model, s.info.Model) &&
		(u.SlotID == nil || *u.SlotID == s.id)
}

// loginRequired reports whether the token has a PIN at all. Cloud key stores
// that know the caller by other means have none.
func (s slot) loginRequired() bool { return s.flags&pkcs11.CKF_LOGIN_REQUIRED != 0 }

// mayLogin refuses a login that could be one of the last tries. Whoever
// restarts in a loop with a wrong PIN must not lock the token. released is
// somebody's word that the PIN is right now; finalTry is that he means it.
func (s slot) mayLogin(released, finalTry bool) error {
	if s.flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0 {
		return &PINError{Token: s.info.Label, Serial: s.info.Serial, Name: "CKF_USER_PIN_INITIALIZED"}
	}
	for _, f := range []struct {
		flag    uint
		name    string
		allowed bool
	}{
		{pkcs11.CKF_USER_PIN_LOCKED, "CKF_USER_PIN_LOCKED", false},
		{pkcs11.CKF_USER_PIN_FINAL_TRY, "CKF_USER_PIN_FINAL_TRY", released && finalTry},
		{pkcs11.CKF_USER_PIN_COUNT_LOW, "CKF_USER_PIN_COUNT_LOW", released},
	} {
		if s.flags&f.flag != 0 && !f.allowed {
			return &PINError{Token: s.info.Label, Serial: s.info.Serial, Name: f.name}
		}
	}
	return nil
}

// loginFailed tells what an answer to C_Login means: success, a [*PINError], or
// a failure on the way to the token. Of a PIN that the token took before only
// codes that blame it do; of one that is new all that may, also those that
// nobody has seen yet, for the token may have counted a try.
func (s slot) loginFailed(err error, trusted bool) error {
	e, ok := err.(*Error)
	if !ok {
		return err
	}
	switch e.Code {
	case pkcs11.CKR_USER_ALREADY_LOGGED_IN:
		return nil
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED,
		pkcs11.CKR_USER_PIN_NOT_INITIALIZED:
	default:
		if trusted || e.transport() {
			return err
		}
	}
	name := e.Name
	if name == "" {
		name = fmt.Sprintf("code 0x%x", e.Code)
	}
	return &PINError{Token: s.info.Label, Serial: s.info.Serial, Name: name}
}
