// Package p11 is what the makers of tokens have in common, and their tests: it
// finds a PKCS#11 module, uses it for a moment, without the care that package
// hsm takes, and makes PINs.
package p11

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// Locate returns the first file that a pattern matches, or "".
func Locate(patterns []string) string {
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			panic("p11: internal error: " + pattern + ": " + err.Error())
		}
		if len(paths) > 0 {
			return paths[0]
		}
	}
	return ""
}

// A Module is a PKCS#11 library between C_Initialize and C_Finalize.
type Module struct {
	*pkcs11.Ctx
	Session pkcs11.SessionHandle // that Open has opened

	pinned runtime.Pinner
}

// Use runs f with the module, which [Load] loads for it, and the slot that has
// the token of the label.
func Use(path, reserved, label string, f func(m *Module, slot uint) error) (err error) {
	m, err := Load(path, reserved)
	if err != nil {
		return err
	}
	defer func() {
		if e := m.Close(); err == nil {
			err = e
		}
	}()
	slot, err := m.Slot(label)
	if err != nil {
		return err
	}
	return f(m, slot)
}

// Load loads and initialises the library at path, which is not in use in this
// process, with the text in pReserved unless it is empty. The caller closes
// the module.
func Load(path, reserved string) (*Module, error) {
	m := &Module{Ctx: pkcs11.New(path)}
	if m.Ctx == nil {
		return nil, errors.New("not a loadable PKCS#11 module: " + path)
	}
	var options []pkcs11.InitializeOption
	if reserved != "" {
		// A C string, in a place that it keeps while the module may look at it.
		text := append([]byte(reserved), 0)
		m.pinned.Pin(&text[0])
		options = append(options, pkcs11.InitializeWithReserved(unsafe.Pointer(&text[0])))
	}
	if err := m.Initialize(options...); err != nil {
		m.unload()
		return nil, fmt.Errorf("C_Initialize: %w", err)
	}
	return m, nil
}

// Close finalises and unloads the library.
func (m *Module) Close() error {
	defer m.unload()
	if err := m.Finalize(); err != nil {
		return fmt.Errorf("C_Finalize: %w", err)
	}
	return nil
}

func (m *Module) unload() {
	m.Destroy()
	m.pinned.Unpin()
}

// Slot returns the slot that has the token of the label.
func (m *Module) Slot(label string) (uint, error) {
	slots, err := m.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("C_GetSlotList: %w", err)
	}
	for _, slot := range slots {
		info, err := m.GetTokenInfo(slot)
		if err != nil {
			return 0, fmt.Errorf("C_GetTokenInfo: %w", err)
		}
		if info.Label == label {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("no token %q in %d slots", label, len(slots))
}

// Open opens a session with the token in the slot, in which objects can be
// made, and logs in nobody.
func (m *Module) Open(slot uint) (err error) {
	if m.Session, err = m.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		return fmt.Errorf("C_OpenSession: %w", err)
	}
	return nil
}
