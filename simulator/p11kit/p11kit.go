// Package p11kit puts a PKCS#11 token behind a socket, as network HSMs are: a
// p11-kit server has the token's module loaded, and p11-kit-client.so is the
// module that programs load instead and that carries every call to the server.
// Between the two a test can cut, stop and mend what it likes. The token gains
// no protection by it.
//
// Start with [New]. The client finds the server by an environment variable
// when it is loaded, which is before it is initialised; so every process that
// uses the token needs [Server.Env], and a process uses one server at a time.
//
// # Faults
//
// [Server.Kill] is the network HSM gone: every call is CKR_DEVICE_ERROR, and
// remains so after [Server.Restart], until the client is finalised and
// initialised again. [Server.Suspend] is the one that hangs: calls do not
// return, for PKCS#11 has no timeouts, until [Server.Resume].
//
// # Processes
//
// The server starts a process for each connection, that is for each program
// between C_Initialize and C_Finalize. They are in one process group with the
// server, and share its faults. None outlives the process that called New,
// however that one ends.
package p11kit

import (
	"fmt"
	"os/exec"

	"github.com/chancery-pki/chancery/simulator/internal/p11"
)

// A NotInstalledError is a machine without a part of p11-kit.
type NotInstalledError struct {
	Missing string // a file's name
	Package string // the Debian package that has it
}

func (e *NotInstalledError) Error() string { return fmt.Sprintf("%s is not installed", e.Missing) }

// Hint tells how to install it.
func (e *NotInstalledError) Hint() string {
	return fmt.Sprintf("install %s: apt-get install %[1]s", e.Package)
}

// wellKnown are the places where distributions install the client.
var wellKnown = []string{
	"/usr/lib/*/pkcs11/p11-kit-client.so",
	"/usr/lib*/pkcs11/p11-kit-client.so",
}

// Locate returns the path of the client and of the p11-kit program, or a
// [*NotInstalledError].
func Locate() (client, program string, err error) {
	program, err = exec.LookPath("p11-kit")
	if err != nil {
		return "", "", &NotInstalledError{Missing: "p11-kit", Package: "p11-kit"}
	}
	if client = p11.Locate(wellKnown); client == "" {
		return "", "", &NotInstalledError{Missing: "p11-kit-client.so", Package: "p11-kit-modules"}
	}
	return client, program, nil
}
