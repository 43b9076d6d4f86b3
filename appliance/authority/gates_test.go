package authority_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// wantShut checks that an initial connection is refused with the code, that
// nothing was stored of it, and that CA:SK was not asked.
func (w *world) wantShut(what string, a *authority.Authority, ch authority.Channel, req *chancery.InitialConnection, code string) {
	w.t.Helper()
	w.WantSpent(0, func() {
		w.t.Helper()
		answer, err := a.Connect(w.t.Context(), ch, req)
		wantRefusal(w.t, what, err, code)
		if answer != nil {
			w.t.Errorf("%s: there is an answer beside the refusal", what)
		}
	})
}

// point is a SubjectPublicKeyInfo of P-256 around any bytes for a point.
func point(t *testing.T, b []byte) []byte {
	t.Helper()
	type algorithm struct{ Algorithm, Curve asn1.ObjectIdentifier }
	return must(asn1.Marshal(struct {
		Algorithm algorithm
		Key       asn1.BitString
	}{
		algorithm{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}},
		asn1.BitString{Bytes: b, BitLength: 8 * len(b)},
	}))(t)
}

// twin is the other signature (r, n-s) that the same key's owner, or anybody,
// can make of one.
func twin(sig chancery.Signature) chancery.Signature {
	n := elliptic.P256().Params().N
	s := new(big.Int).Sub(n, new(big.Int).SetBytes(sig[32:]))
	return append(bytes.Clone(sig[:32]), s.FillBytes(make([]byte, 32))...)
}

// Whatever is wrong with an initial connection is found before CA:SK is asked
// for anything.
func TestGates(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	sealed := w.node("edge-1", true)
	other := w.other("edge-1")
	good := func() *chancery.InitialConnection { return n.Connection(channel.Exporter) }

	raw := must(n.Key.PublicKey().ECDSA().Bytes())(t)
	off := bytes.Clone(raw)
	off[64] ^= 1
	hash := sha256.Sum256([]byte("N:S of somebody else"))
	p384 := must(x509.MarshalPKIXPublicKey(must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t).Public()))(t)
	for _, test := range []struct {
		what, code string
		change     func(*chancery.InitialConnection)
	}{
		{"no nonce", "malformed", func(c *chancery.InitialConnection) { c.Nonce = nil }},
		{"a long nonce", "malformed", func(c *chancery.InitialConnection) { c.Nonce = make([]byte, 33) }},
		{"no name", "bad-name", func(c *chancery.InitialConnection) { c.Name = "" }},
		{"a name with a slash", "bad-name", func(c *chancery.InitialConnection) { c.Name = "edge/1" }},

		{"a chip that writes on the operator's terminal", "malformed", func(c *chancery.InitialConnection) { c.Chip.Model = "\x1b[2J" }},
		{"a chip with a long name", "malformed", func(c *chancery.InitialConnection) { c.Chip.Manufacturer = strings.Repeat("x", 256) }},
		{"firmware in another script", "malformed", func(c *chancery.InitialConnection) { c.Chip.Firmware = "７" }},

		{"no key", "bad-key", func(c *chancery.InitialConnection) { c.NodeKey = nil }},
		{"a hash for a key", "bad-key", func(c *chancery.InitialConnection) { c.NodeKey = hash[:] }},
		{"a hash for a point", "bad-key", func(c *chancery.InitialConnection) { c.NodeKey = point(t, hash[:]) }},
		{"a point off the curve", "bad-key", func(c *chancery.InitialConnection) { c.NodeKey = point(t, off) }},
		{"a compressed point", "bad-key", func(c *chancery.InitialConnection) { c.NodeKey = point(t, append([]byte{2 + raw[64]&1}, raw[1:33]...)) }},
		{"the point at infinity", "bad-key", func(c *chancery.InitialConnection) { c.NodeKey = point(t, []byte{0}) }},
		{"a key of another suite", "bad-key", func(c *chancery.InitialConnection) { c.NodeKey = p384 }},
		{"a byte after the key", "bad-key", func(c *chancery.InitialConnection) { c.NodeKey = append(c.NodeKey, 0) }},

		{"an AK that is not restricted: N:SK itself", "evidence-ak", func(c *chancery.InitialConnection) { c.AKPublic = n.File.Public }},
		{"no AK", "evidence-ak", func(c *chancery.InitialConnection) { c.AKPublic = nil }},
		{"an EK that signs: the AK", "evidence-ek", func(c *chancery.InitialConnection) { c.EKPublic = n.AK.Public }},
		{"no EK", "evidence-ek", func(c *chancery.InitialConnection) { c.EKPublic = nil }},
		// pop and the token's proof are over these too.
		{"the AK of another chip", "no-token", func(c *chancery.InitialConnection) { c.AKPublic = other.AK.Public }},
		{"the EK of another chip", "no-token", func(c *chancery.InitialConnection) { c.EKPublic = other.EK.Public }},
		{"the key of another chip", "no-token", func(c *chancery.InitialConnection) { c.NodeKey = other.Key.PublicKey().SPKI() }},
		{"another nonce", "no-token", func(c *chancery.InitialConnection) { c.Nonce = bytes.Repeat([]byte{1}, 32) }},

		{"a pop with high s", "bad-pop", func(c *chancery.InitialConnection) { c.PoP = twin(c.PoP) }},
		{"no pop", "bad-pop", func(c *chancery.InitialConnection) { c.PoP = nil }},
		{"the pop of another connection", "bad-pop", func(c *chancery.InitialConnection) { c.PoP = n.Sign(n.PoP([32]byte{9})) }},
		{"a pop under another key", "bad-pop", func(c *chancery.InitialConnection) { c.PoP = other.Sign(n.PoP(channel.Exporter)) }},

		{"the public area of another key", "evidence-node-key", func(c *chancery.InitialConnection) { c.NodePublic = other.File.Public }},
		{"a public area that is the AK's", "evidence-node-key", func(c *chancery.InitialConnection) { c.NodePublic = n.AK.Public }},
		{"no public area", "evidence-node-key", func(c *chancery.InitialConnection) { c.NodePublic = nil }},
		{"an unsealed key that claims a seal", "malformed", func(c *chancery.InitialConnection) { c.Sealing = sealed.Connection(channel.Exporter).Sealing }},

		{"no DER for an EK certificate", "evidence-ek-certificate", func(c *chancery.InitialConnection) { c.EKCertificate = []byte{1} }},
		{"the EK certificate of another chip", "evidence-ek-certificate", func(c *chancery.InitialConnection) { c.EKCertificate = other.EK.Certificate }},
		{"a chain that is none", "evidence-ek-certificate", func(c *chancery.InitialConnection) { c.EKChain = [][]byte{{1}} }},
		{"an endless chain", "evidence-ek-certificate", func(c *chancery.InitialConnection) { c.EKChain = make([][]byte, 100) }},
		{"no EK certificate", "assurance", func(c *chancery.InitialConnection) { c.EKCertificate = nil }},
	} {
		req := good()
		test.change(req)
		w.wantShut(test.what, w.Authority, channel, req, test.code)
	}

	// The whole request of one connection, on another one.
	w.wantShut("another connection", w.Authority, authority.Channel{Exporter: [32]byte{9}}, good(), "no-token")

	for _, test := range []struct {
		what, code string
		change     func(*chancery.Sealing)
	}{
		{"a lie about the epoch", "evidence-sealing", func(s *chancery.Sealing) { s.Epoch++ }},
		{"a lie about the digest of the PCRs", "evidence-sealing", func(s *chancery.Sealing) { s.PCRDigest = make([]byte, 32) }},
		{"a lie about the PCRs", "evidence-sealing", func(s *chancery.Sealing) { s.PCRs = []int{0} }},
		{"PCRs that anybody can reset", "evidence-sealing", func(s *chancery.Sealing) { s.PCRs = []int{16} }},
		{"no PCRs", "evidence-sealing", func(s *chancery.Sealing) { s.PCRs = nil }},
		{"a lie about the nonce", "evidence-sealing", func(s *chancery.Sealing) { s.Nonce = make([]byte, 32) }},
		{"a nonce that is too short", "malformed", func(s *chancery.Sealing) { s.Nonce = s.Nonce[:31] }},
		{"a digest that is too short", "malformed", func(s *chancery.Sealing) { s.PCRDigest = nil }},
	} {
		req := sealed.Connection(channel.Exporter)
		s := *req.Sealing
		req.Sealing = &s
		test.change(req.Sealing)
		w.wantShut(test.what, w.Authority, channel, req, test.code)
	}
	req := sealed.Connection(channel.Exporter)
	req.Sealing = nil
	w.wantShut("a sealed key that claims none", w.Authority, channel, req, "malformed")

	// What was changed was all that was wrong.
	w.WantSpent(2, func() { w.connect(n); w.connect(sealed) })
	w.Check()
}

// Join tokens. Until its proof is right a token is like any other.
func TestTokens(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	fleet := w.Pointer.FleetID()
	with := func(token *chancery.Token) *chancery.InitialConnection {
		n.Token = token
		return n.Connection(channel.Exporter)
	}
	good := w.Token("edge-*")

	unknown := chancery.NewToken(fleet)
	wrong := chancery.NewToken(fleet)
	wrong.ID = good.ID
	var told *authority.Refusal
	for what, req := range map[string]*chancery.InitialConnection{
		"an unknown token": with(&unknown),
		"a wrong secret":   with(&wrong),
		"no token":         with(nil),
		"an id that is none": func() *chancery.InitialConnection {
			c := with(good)
			c.TokenID = "xyz"
			return c
		}(),
		"a short id": func() *chancery.InitialConnection {
			c := with(good)
			c.TokenID = c.TokenID[2:]
			return c
		}(),
		"no proof": func() *chancery.InitialConnection {
			c := with(good)
			c.TokenProof = nil
			return c
		}(),
		"a proof for another name": func() *chancery.InitialConnection {
			c := with(good)
			c.Name = "edge-2"
			return c
		}(),
	} {
		w.wantShut(what, w.Authority, channel, req, "no-token")
		_, err := w.Authority.Connect(t.Context(), channel, req)
		r, _ := err.(*authority.Refusal)
		if req.Name == "edge-2" {
			continue // the hint repeats the name
		}
		if told != nil && r != nil && *told != *r {
			t.Errorf("%s is told apart from the others: %+v, %+v", what, r, told)
		}
		told = r
	}

	w.wantShut("another name", w.Authority, channel, with(w.Token("core-*")), "token-name")
	short := w.Token("edge-*", func(r *authority.TokenRequest) { r.Life = time.Minute })
	w.Clock.Advance(time.Minute)
	w.WantSpent(1, func() { n.Token = short; w.connect(n) }) // its last second
	w.Clock.Advance(time.Second)
	w.wantShut("an expired token", w.Authority, channel, with(short), "token-expired")

	// Uses are taken by submissions. Two that were let in by the same use
	// compete for it.
	n.Token = good
	first, second := w.connect(n), w.connect(n)
	sub := n.Submission(second)
	w.issued(w.submit(first, n.Submission(first)))
	w.WantSpent(0, func() {
		_, err := w.Authority.Submit(t.Context(), w.intake(second), sub)
		wantRefusal(t, "the second use", err, "token-used")
	})
	w.wantShut("a token that is used up", w.Authority, channel, with(good), "token-used")
	w.Check()
}

func TestCreateTokenRefuses(t *testing.T) {
	c := appliancetest.New(t, nil)
	for _, test := range []struct {
		code string
		r    authority.TokenRequest
	}{
		{"bad-glob", authority.TokenRequest{Names: "", Uses: 1, Life: time.Hour}},
		{"bad-glob", authority.TokenRequest{Names: "edge-[", Uses: 1, Life: time.Hour}},
		{"bad-token", authority.TokenRequest{Names: "*", Uses: 0, Life: time.Hour}},
		{"bad-token", authority.TokenRequest{Names: "*", Uses: 1}},
		{"bad-role", authority.TokenRequest{Names: "*", Uses: 1, Life: time.Hour, Roles: []string{"Web"}}},
		{"bad-role", authority.TokenRequest{Names: "*", Uses: 1, Life: time.Hour, Roles: numbered(chancery.MaxRoles + 1)}},
	} {
		_, _, err := c.Authority.CreateToken(t.Context(), "op", test.r)
		wantRefusal(t, test.r.Names, err, test.code)
	}
}

// numbered returns so many names.
func numbered(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("role-%d", i))
	}
	return names
}

// Roles come out of the token in the one order that a certificate has.
func TestTokenRoles(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	n.Token = w.Token("edge-1", func(r *authority.TokenRequest) { r.Roles = []string{"web", "db", "web"} })
	if nc := w.enrol(n); strings.Join(nc.Roles, " ") != "db web" {
		t.Errorf("roles %q", nc.Roles)
	}
}

// withPolicy has an authority work under a policy of one rule with these lines.
func withPolicy(t *testing.T, lines string) func(*authority.Config) {
	p := appliancetest.Policy(t, "version = 1\n[[rule]]\nname = \"rule\"\ndecide = \"auto\"\n"+lines)
	return func(c *authority.Config) { c.Policy = p }
}

// What a coordinator asks of a chip is its operator's choice.
func TestChipRules(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	w.chip.Close()
	chip := dial(t, w.process)
	platform := chip.readNV(0x01c08000) // swtpm's manufacturer certifies the machine around the chip, too
	chip.Close()
	w.chip = w.process.Open(t)
	n.Chip = w.chip
	n.Use(n.File)
	good := n.Connection(channel.Exporter)
	without := n.Connection(channel.Exporter)
	without.EKCertificate, without.EKChain = nil, nil
	boast := n.Connection(channel.Exporter)
	boast.Chip.Simulator = false
	platformed := n.Connection(channel.Exporter)
	platformed.EKCertificate = platform

	weak := n.Connection(channel.Exporter)
	weak.Chip.Manufacturer, weak.Chip.Firmware = "STM", "0049000400000000" // 73.4, which ST lists
	unsaid := n.Connection(channel.Exporter)
	unsaid.Chip.Firmware = "73.4"

	unknown := func(c *authority.Config) { c.Roots.Simulators = nil }
	rule := func(lines string) func(*authority.Config) { return withPolicy(t, lines) }
	for _, test := range []struct {
		what, code string
		req        *chancery.InitialConnection
		rules      []func(*authority.Config)
	}{
		{"an unknown manufacturer", "evidence-ek-certificate", good, []func(*authority.Config){unknown}},
		{"a platform certificate for the EK's", "evidence-ek-certificate", platformed, nil},
		{"a simulator where none is allowed", "simulator", good, []func(*authority.Config){rule("")}},
		{"a simulator that says it is none", "simulator", boast, []func(*authority.Config){rule("")}},
		{"a simulator without certificate", "simulator", without, []func(*authority.Config){rule("require.assurance = 1")}},
		{"firmware that gives keys away", "weak-chip", weak, nil},
		{"the same, allowed, where more is asked", "assurance", weak, []func(*authority.Config){rule("simulators = true\nweak_chips = true")}},
		{"firmware of no version", "malformed", unsaid, nil},
		{"an EK certificate that has expired", "evidence-ek-certificate", good, []func(*authority.Config){func(c *authority.Config) {
			c.Now = func() time.Time { return w.Clock.Now().AddDate(-100, 0, 0) }
		}}},
	} {
		w.wantShut(test.what, w.With(test.rules...), channel, test.req, test.code)
	}

	// Whose root the certificate is under says what the chip is, not the chip.
	trusted := w.With(func(c *authority.Config) { c.Roots = evidence.Roots{Makers: tpmtest.Roots(t)} })
	if _, err := trusted.Connect(t.Context(), channel, boast); err != nil {
		t.Error(err)
	}
	modest := w.With(rule("simulators = true\nrequire.assurance = 1"))
	answer, err := modest.Connect(t.Context(), channel, without)
	if err != nil {
		t.Fatal(err)
	}
	v, err := modest.Submit(t.Context(), w.intake(answer), n.Submission(answer))
	if err != nil {
		t.Fatal(err)
	}
	if a := w.issued(v).Assurance; a.Level != chancery.AssuranceTPM || !a.Simulator {
		t.Errorf("without an EK certificate the assurance is %v, simulator %t", a.Level, a.Simulator)
	}

	// A chip that gives keys away proves no more than a file, certificate or not.
	lenient := w.With(rule("simulators = true\nweak_chips = true\nrequire.assurance = 0"))
	leaky := w.other("edge-2")
	request := leaky.Connection(channel.Exporter)
	request.Chip.Manufacturer, request.Chip.Firmware = weak.Chip.Manufacturer, weak.Chip.Firmware
	if answer, err = lenient.Connect(t.Context(), channel, request); err != nil {
		t.Fatal(err)
	}
	if v, err = lenient.Submit(t.Context(), w.intake(answer), leaky.Submission(answer)); err != nil {
		t.Fatal(err)
	}
	if a := w.issued(v).Assurance; a.Level != chancery.AssuranceSoftware {
		t.Errorf("with a chip that gives keys away the assurance is %v", a.Level)
	}
	w.Check()
}

// A credential is for one EK and one AK. Whoever shows another chip's EK,
// certificate and all, cannot answer.
func TestEKOfAnotherChip(t *testing.T) {
	w := newWorld(t)
	n := w.node("edge-1", false)
	n.EK = w.other("edge-2").EK
	answer := w.connect(n)
	if _, err := n.Chip.Activate(answer.CredentialBlob, answer.EncryptedSecret); err == nil {
		t.Error("a chip activated a credential for another one")
	}
	hash := n.CANS(answer).Hash()
	w.WantSpent(0, func() {
		_, err := w.Authority.Submit(t.Context(), w.intake(answer), &chancery.Submission{
			NS: n.NS(hash).Marshal(), CANS: answer.CANS, Activation: chancery.ActivationProof(make([]byte, 32), hash),
			Creation: n.Creation(n.File, hash), CreationData: n.File.CreationData, Quote: n.Quote(tpm.DefaultPCRs, hash),
		})
		wantRefusal(t, "a guessed secret", err, "evidence-activation")
	})
}
