package chip

import (
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// recorder is a chip that does nothing but remember what it was told.
type recorder struct{ command []byte }

var errNothing = errors.New("recorded")

// do sends a command of go-tpm's to a recorder.
func do[R any](c interface {
	Execute(transport.TPM, ...tpm2.Session) (*R, error)
}) func(*recorder) error {
	return func(r *recorder) error {
		_, err := c.Execute(r)
		return err
	}
}

func (r *recorder) Send(command []byte) ([]byte, error) {
	r.command = command
	return nil, errNothing
}

// Every kind of command has its own time here, so that the table tells them
// apart.
func TestLatencyOf(t *testing.T) {
	l := Latency{
		RSAKey: 1, ECCKey: 2, Create: 3, Sign: 4, Verify: 5, ECDH: 6,
		Load: 7, Attest: 8, NVRead: 9, NVWrite: 10, Activate: 11, Other: 12,
	}
	names := []string{1: "RSAKey", "ECCKey", "Create", "Sign", "Verify", "ECDH", "Load", "Attest", "NVRead", "NVWrite", "Activate", "Other"}

	// Passwords and data are before the template, so it is found by their sizes.
	name := tpm2.TPM2BName{Buffer: []byte("name")}
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth([]byte("password"))}
	key := tpm2.AuthHandle{Handle: 0x81000001, Name: name, Auth: tpm2.PasswordAuth([]byte("another password"))}
	index := tpm2.NamedHandle{Handle: 0x01800101, Name: name}
	sensitive := tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("pin")}}}
	rsa, ecc := tpm2.New2B(tpm2.RSASRKTemplate), tpm2.New2B(tpm2.ECCSRKTemplate)
	scheme, none := tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull}
	for _, test := range []struct {
		name string
		run  func(r *recorder) error
		want string
	}{
		{"primary RSA", do(tpm2.CreatePrimary{PrimaryHandle: owner, InSensitive: sensitive, InPublic: rsa}), "RSAKey"},
		{"primary ECC", do(tpm2.CreatePrimary{PrimaryHandle: owner, InSensitive: sensitive, InPublic: ecc}), "ECCKey"},
		{"primary without authorization", do(tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHNull, InPublic: rsa}), "RSAKey"},
		{"create RSA", do(tpm2.Create{ParentHandle: key, InSensitive: sensitive, InPublic: rsa}), "RSAKey"},
		{"create ECC", do(tpm2.Create{ParentHandle: key, InPublic: ecc}), "Create"},
		{"create loaded RSA", do(tpm2.CreateLoaded{ParentHandle: key, InPublic: tpm2.New2BTemplate(&tpm2.RSASRKTemplate)}), "RSAKey"},
		{"create loaded ECC", do(tpm2.CreateLoaded{ParentHandle: key, InPublic: tpm2.New2BTemplate(&tpm2.ECCSRKTemplate)}), "Create"},
		{"sign", do(tpm2.Sign{KeyHandle: key, InScheme: scheme, Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}), "Sign"},
		{"load", do(tpm2.Load{ParentHandle: key, InPublic: ecc}), "Load"},
		{"load external", do(tpm2.LoadExternal{InPublic: ecc, Hierarchy: tpm2.TPMRHOwner}), "Other"},
		{"quote", do(tpm2.Quote{SignHandle: key, InScheme: scheme}), "Attest"},
		{"certify NV", do(tpm2.NVCertify{SignHandle: key, AuthHandle: owner, NVIndex: index, InScheme: scheme}), "Attest"},
		{"read NV", do(tpm2.NVRead{AuthHandle: owner, NVIndex: index}), "NVRead"},
		{"policy NV", do(tpm2.PolicyNV{AuthHandle: owner, NVIndex: index, PolicySession: tpm2.TPMHandle(0x03000000)}), "NVRead"},
		{"increment", do(tpm2.NVIncrement{AuthHandle: owner, NVIndex: index}), "NVWrite"},
		{"persist", do(tpm2.EvictControl{Auth: owner, ObjectHandle: index, PersistentHandle: 0x81000001}), "NVWrite"},
		{"shutdown", do(tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}), "NVWrite"},
		{"activate", do(tpm2.ActivateCredential{ActivateHandle: key, KeyHandle: key}), "Activate"},
		{"read PCRs", do(tpm2.PCRRead{}), "Other"},
		{"bare session", do(tpm2.StartAuthSession{TPMKey: tpm2.TPMRHNull, Bind: key.Handle, SessionType: tpm2.TPMSEHMAC, Symmetric: none, AuthHash: tpm2.TPMAlgSHA256}), "Other"},
		{"salted session", do(tpm2.StartAuthSession{TPMKey: key.Handle, Bind: tpm2.TPMRHNull, SessionType: tpm2.TPMSEPolicy, Symmetric: none, AuthHash: tpm2.TPMAlgSHA256}), "ECDH"},
	} {
		var r recorder
		if err := test.run(&r); !errors.Is(err, errNothing) {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := names[l.of(r.command)]; got != test.want {
			t.Errorf("%s takes the time of %s, want %s", test.name, got, test.want)
		}
		// A command that is cut short, as a test may send it, is still one.
		for n := range r.command {
			l.of(r.command[:n])
		}
	}
}
