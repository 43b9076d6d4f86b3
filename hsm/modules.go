package hsm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// wellKnown are the places where vendors and distributions install PKCS#11
// modules. A pattern is relative to no directory; hardware comes first.
var wellKnown = []string{
	"/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
	"/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
	"/opt/nfast/toolkits/pkcs11/libcknfast.so",
	"/opt/utimaco/lib/libcs_pkcs11_R3.so",
	"/usr/lib/*/pkcs11/yubihsm_pkcs11.so",
	"/usr/lib*/pkcs11/yubihsm_pkcs11.so",
	"/usr/lib/*/pkcs11/libtpm2_pkcs11.so",
	"/usr/lib/*/libtpm2_pkcs11.so*",
	"/usr/lib*/pkcs11/libtpm2_pkcs11.so",
	"/usr/lib/*/pkcs11/opensc-pkcs11.so",
	"/usr/lib*/pkcs11/opensc-pkcs11.so",
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/*/softhsm/libsofthsm2.so",
	"/usr/lib*/pkcs11/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// FindModules returns the absolute paths of the PKCS#11 modules that are
// installed in well-known places, each library once, hardware before
// simulators. It loads none of them.
func FindModules() []string {
	var found []string
	seen := map[string]bool{}
	for _, pattern := range wellKnown {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			panic("hsm: internal error: " + pattern + ": " + err.Error())
		}
		for _, path := range paths {
			real, err := filepath.EvalSymlinks(path)
			if err != nil || seen[real] {
				continue
			}
			seen[real] = true
			found = append(found, path)
		}
	}
	return found
}

// module returns the path of the library that the URI names.
func (u URI) module() (string, error) {
	if u.ModulePath != "" {
		if !filepath.IsAbs(u.ModulePath) {
			return "", &URIError{Attribute: "module-path", Problem: "is not an absolute path"}
		}
		if _, err := os.Stat(u.ModulePath); err != nil {
			return "", &URIError{Attribute: "module-path", Problem: "cannot be used: " + err.Error(), hint: "install the vendor's PKCS#11 module, or correct the path"}
		}
		return u.ModulePath, nil
	}
	if u.ModuleName == "" {
		return "", &URIError{Attribute: "module-path", Problem: "is missing", hint: "add ?module-path=/path/to/module.so"}
	}
	modules := FindModules()
	for _, path := range modules {
		name, _, _ := strings.Cut(filepath.Base(path), ".so")
		if name == u.ModuleName || name == "lib"+u.ModuleName {
			return path, nil
		}
	}
	return "", &URIError{Attribute: "module-name", Problem: fmt.Sprintf("%q is none of the modules found on this machine (%s)", u.ModuleName, strings.Join(modules, ", ")),
		hint: "install the vendor's PKCS#11 module, or give module-path"}
}
