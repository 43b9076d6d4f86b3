package hsm_test

import (
	"os"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/chancery-pki/chancery/hsm"
)

// rawSession is a session that a test opens behind the package's back, to put
// onto the token what the package would not.
type rawSession struct {
	*pkcs11.Ctx
	t *testing.T
	h pkcs11.SessionHandle
}

// behind runs f with the user logged in. No Token may be open.
func behind(t *testing.T, uri hsm.URI, f func(rawSession)) {
	t.Helper()
	p := pkcs11.New(uri.ModulePath)
	if p == nil {
		t.Fatalf("cannot load %s", uri.ModulePath)
	}
	defer p.Destroy()
	check(t, p.Initialize())
	defer func() { check(t, p.Finalize()) }()
	slots, err := p.GetSlotList(true)
	check(t, err)
	for _, slot := range slots {
		info, err := p.GetTokenInfo(slot)
		check(t, err)
		if info.SerialNumber != uri.Serial {
			continue
		}
		h, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		check(t, err)
		check(t, p.Login(h, pkcs11.CKU_USER, userPIN(t, uri)))
		f(rawSession{p, t, h})
		return
	}
	t.Fatalf("no token with serial %s", uri.Serial)
}

func userPIN(t *testing.T, uri hsm.URI) string {
	t.Helper()
	pin, err := hsm.ReadPIN(uri)
	check(t, err)
	return string(pin)
}

// The curves, as CKA_EC_PARAMS has them.
var (
	p256    = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	p384    = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
	p521    = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}
	ed25519 = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}
)

// Not in the header of PKCS#11 2.40 that the binding has.
const ckmEdwardsKeyPairGen = 0x1055

// ecPair generates a key pair fit for [hsm.Token.Key], but for the attributes
// given, which replace or join the private key's.
func (s rawSession) ecPair(label string, curve []byte, private ...*pkcs11.Attribute) (public pkcs11.ObjectHandle) {
	s.t.Helper()
	mechanism := uint(pkcs11.CKM_EC_KEY_PAIR_GEN)
	if &curve[0] == &ed25519[0] {
		mechanism = ckmEdwardsKeyPairGen
	}
	template := map[uint]*pkcs11.Attribute{}
	for _, a := range append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(label)),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}, private...) {
		template[a.Type] = a
	}
	var privateTemplate []*pkcs11.Attribute
	for _, a := range template {
		privateTemplate = append(privateTemplate, a)
	}
	public, _, err := s.GenerateKeyPair(s.h, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)},
		[]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curve),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
			pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(label)),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		}, privateTemplate)
	check(s.t, err)
	return public
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	check(t, os.WriteFile(path, []byte(text), 0o600))
	check(t, os.Chmod(path, mode)) // whatever the umask
}
