package hsm

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// claims holds the modules that this process has in use, by their resolved
// path. C_Initialize is once per process and module, and C_Finalize ends it
// for everybody: two users would pull the module from under each other.
var claims = struct {
	sync.Mutex
	held map[string]bool
}{held: map[string]bool{}}

// claim reserves the module that the URI names and returns its path. The
// caller calls release after C_Finalize.
func claim(uri URI) (path string, release func(), err error) {
	path, err = uri.module()
	if err != nil {
		return "", nil, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", nil, fmt.Errorf("PKCS#11 module: %w", err)
	}
	claims.Lock()
	defer claims.Unlock()
	if claims.held[real] {
		return "", nil, fmt.Errorf("%w: %s", ErrModuleInUse, path)
	}
	claims.held[real] = true
	return path, func() {
		claims.Lock()
		defer claims.Unlock()
		delete(claims.held, real)
	}, nil
}

// module is a PKCS#11 library between C_Initialize and C_Finalize.
type module struct {
	*pkcs11.Ctx
	// reserved is what pReserved pointed to. A library may keep the pointer.
	reserved *runtime.Pinner
}

// load loads and initialises the library at path, which the caller claimed.
func load(path, reserved string) (module, error) {
	ctx := pkcs11.New(path)
	if ctx == nil {
		return module{}, &URIError{Attribute: "module-path", Problem: path + " is not a loadable PKCS#11 module",
			hint: "check with: pkcs11-tool --module " + path + " --show-info"}
	}
	m := module{ctx, new(runtime.Pinner)}
	var options []pkcs11.InitializeOption
	if reserved != "" {
		text := append([]byte(reserved), 0)
		m.reserved.Pin(&text[0])
		options = append(options, pkcs11.InitializeWithReserved(unsafe.Pointer(&text[0])))
	}
	if err := ctx.Initialize(options...); err != nil {
		m.reserved.Unpin()
		ctx.Destroy()
		return module{}, failed("C_Initialize", err)
	}
	return m, nil
}

// unload finalises the library. No call may be in flight: modules crash the
// process rather than refuse (PKCS#11 2.40 section 5.4 leaves it undefined).
func (m module) unload() error {
	err := m.Finalize()
	m.Destroy()
	m.reserved.Unpin()
	return failed("C_Finalize", err)
}

// attribute reads one attribute of an object. A module that does not know the
// attribute is not an error: known is false.
func (m module) attribute(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, t uint) (value []byte, known bool, err error) {
	got, err := m.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(t, nil)})
	if err == pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, failed("C_GetAttributeValue", err)
	}
	return got[0].Value, true, nil
}

// answer reads an attribute that is a CK_BBOOL.
func (m module) answer(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, t uint) (Answer, error) {
	value, known, err := m.attribute(s, o, t)
	switch {
	case err != nil:
		return Unknown, err
	case !known || len(value) != 1:
		return Unknown, nil
	case value[0] != 0:
		return Yes, nil
	}
	return No, nil
}

// find returns the objects that match the template.
func (m module) find(s pkcs11.SessionHandle, template ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := m.FindObjectsInit(s, template); err != nil {
		return nil, failed("C_FindObjectsInit", err)
	}
	var found []pkcs11.ObjectHandle
	for {
		some, _, err := m.FindObjects(s, 64)
		if err != nil {
			m.FindObjectsFinal(s)
			return nil, failed("C_FindObjects", err)
		}
		if len(some) == 0 {
			return found, failed("C_FindObjectsFinal", m.FindObjectsFinal(s))
		}
		if found = append(found, some...); len(found) > maxObjects {
			m.FindObjectsFinal(s)
			return nil, fmt.Errorf("C_FindObjects: more than %d objects", maxObjects)
		}
	}
}

// maxObjects bounds what a module may claim to have found.
const maxObjects = 100_000
