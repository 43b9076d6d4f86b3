package lint_test

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/lint"
)

// accompanying is a certificate for third parties on its way to the issuer, beside an
// N:C that the world has issued.
type accompanying struct {
	*lint.X509
	world  *world
	linter *lint.Linter
	nc     *chancery.Certificate
	issuer chancery.Signer
}

func newX509(t testing.TB, key chancery.PublicKey) *accompanying {
	t.Helper()
	w, issuer := newWorld(t), newKey(t)
	w.rules.DNSSuffix = "nodes.example"
	w.pointer.X509Issuer = issuer.PublicKey()
	w.pointer.Endpoints = []chancery.Endpoint{{URL: "https://one.example:8443"}, {URL: "https://two.example"}}
	w.rules.Forbidden = lint.RulesOf(w.pointer).Forbidden
	x := &accompanying{world: w, linter: w.linter(), nc: w.issue(3, w.subject())[0], issuer: issuer}
	x.X509 = &lint.X509{NC: x.nc.Raw(), Serial: x.nc.Serial, SPKI: key.SPKI(), Issuer: issuer.PublicKey().SPKI(), Endpoints: []string{"https://one.example:8443", "https://two.example"}}
	x.TBS = x.encode(w.pointer, x.nc, key)
	return x
}

func (x *accompanying) encode(p *chancery.Pointer, nc *chancery.Certificate, key chancery.PublicKey) []byte {
	x.world.t.Helper()
	tbs, err := chancery.NewX509(p, nc, key)
	if err != nil {
		x.world.t.Fatal(err)
	}
	return chancery.Message(p.FleetID(), chancery.P256, tbs)
}

// What the encoder writes passes, for keys of both suites; and whatever byte of
// it is another one, it does not.
func TestX509EveryByte(t *testing.T) {
	for _, suite := range []chancery.Suite{chancery.P256, chancery.P384} {
		key, _ := newNodeKey(t, suite)
		x := newX509(t, key)
		if err := x.linter.CheckX509(x.X509); err != nil {
			t.Fatal(err)
		}
		good := x.TBS
		for i := range good {
			for _, flip := range []byte{1, 0x80} {
				x.TBS = bytes.Clone(good)
				x.TBS[i] ^= flip
				if err := x.linter.CheckX509(x.X509); err == nil {
					t.Errorf("byte %d of %d is %#x instead of %#x", i, len(good), x.TBS[i], good[i])
				} else if rule(err) == "" {
					t.Errorf("byte %d: %v is no *lint.Error", i, err)
				}
			}
		}
		for n := range good {
			if x.TBS = good[:n]; x.linter.CheckX509(x.X509) == nil {
				t.Errorf("the first %d bytes of %d pass", n, len(good))
			}
		}
		if x.TBS = append(bytes.Clone(good), 0x05, 0x00); x.linter.CheckX509(x.X509) == nil {
			t.Error("something behind it passes")
		}
	}
}

// What is well-formed and of something else is refused, each by its rule.
func TestX509Rules(t *testing.T) {
	key := newKey(t).PublicKey()
	for what, test := range map[string]struct {
		rule   lint.Rule
		change func(x *accompanying)
	}{
		"of another N:C":               {lint.Serial, func(x *accompanying) { x.TBS = x.encode(x.world.pointer, x.world.issue(7, x.world.subject())[0], key) }},
		"another serial number":        {lint.Serial, func(x *accompanying) { x.Serial++ }},
		"of another key than asked":    {lint.Key, func(x *accompanying) { x.TBS = x.encode(x.world.pointer, x.nc, newKey(t).PublicKey()) }},
		"under another issuer's key":   {lint.Extensions, func(x *accompanying) { x.Issuer = newKey(t).PublicKey().SPKI() }},
		"with its list elsewhere":      {lint.Extensions, func(x *accompanying) { x.Endpoints[1] = "https://evil.example" }},
		"with its list in two places":  {lint.Extensions, func(x *accompanying) { x.Endpoints = x.Endpoints[:1] }},
		"with no list":                 {lint.Extensions, func(x *accompanying) { x.elsewhere() }},
		"with a list, and none wanted": {lint.Extensions, func(x *accompanying) { x.Endpoints = nil }},
		"an N:C of another CA":         {lint.Issuer, func(x *accompanying) { x.NC = newX509(t, key).NC }},
		"no N:C":                       {lint.Encoding, func(x *accompanying) { x.NC = x.NC[:100] }},
		"no issuer":                    {lint.Issuer, func(x *accompanying) { x.Issuer = nil }},
		"of a P-384 issuer":            {lint.Encoding, func(x *accompanying) { k, _ := newNodeKey(t, chancery.P384); x.Issuer = k.SPKI() }},
		"below the floor":              {lint.Suite, func(x *accompanying) { x.world.rules.MinSuite = chancery.P384; x.linter = x.world.linter() }},
		"of the CA's own key":          {lint.KeyPurpose, func(x *accompanying) { x.of(x.world.ca.PublicKey()) }},
		"of the issuer's own key":      {lint.KeyPurpose, func(x *accompanying) { x.of(x.issuer.PublicKey()) }},
		"of a key that anybody knows": {lint.BadKey, func(x *accompanying) {
			g := elliptic.P256().Params()
			k, err := chancery.ParsePublicKey(point(t, elliptic.P256(), g.Gx, g.Gy))
			if err != nil {
				t.Fatal(err)
			}
			x.of(k)
		}},
	} {
		x := newX509(t, key)
		test.change(x)
		err := x.linter.CheckX509(x.X509)
		if e, ok := errors.AsType[*lint.Error](err); !ok || e.Rule != test.rule || e.Source == "" || e.Hint() == "" {
			t.Errorf("%s: %v, want rule %s", what, err, test.rule)
		}
	}
}

// of has the certificate be of a key, as it was asked for.
func (x *accompanying) of(k chancery.PublicKey) {
	x.SPKI, x.TBS = k.SPKI(), x.encode(x.world.pointer, x.nc, k)
}

// elsewhere writes it without a distribution point.
func (x *accompanying) elsewhere() {
	p := *x.world.pointer
	p.Endpoints = nil
	key, err := chancery.ParsePublicKey(x.SPKI)
	if err != nil {
		x.world.t.Fatal(err)
	}
	x.TBS = x.encode(&p, x.nc, key)
}
