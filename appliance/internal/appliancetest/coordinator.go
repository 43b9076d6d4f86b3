package appliancetest

import (
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/policy"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
)

// CRLLife is the life of the lists of this package's ledgers.
const CRLLife = time.Hour

// A Coordinator is a coordinator at work, with CA:SK in a SoftHSM token.
type Coordinator struct {
	Clock     *Clock
	CA        *Signer
	Approval  *Signer
	Pointer   *chancery.Pointer
	Store     *store.Store
	File      string // of the store
	Ledger    *ledger.Ledger
	Authority *authority.Authority
	Config    authority.Config // of Authority

	t      testing.TB
	holder *Holder
}

// New makes the coordinator of a new fleet, which works until the test ends.
// It takes chips of the makers in simulators, and asks for an EK certificate;
// edit changes that. The clock is ahead of the machine's, so that the
// certificate of a chip that is made during the test is good already.
func New(t testing.TB, simulators *x509.CertPool, edit ...func(*authority.Config)) *Coordinator {
	t.Helper()
	c := &Coordinator{t: t, Clock: NewClock(time.Now().Add(time.Hour))}
	token := hsmtest.Open(t, "ca", "approval", "x509")
	c.CA, c.Approval = NewSigner(key(t, token, "ca")), NewSigner(key(t, token, "approval"))
	x509 := key(t, token, "x509")
	c.Pointer = Pointer(t, c.CA, c.Approval.PublicKey(), c.Clock.Now(), func(p *chancery.Pointer) { p.X509Issuer = x509.PublicKey() })
	c.holder = NewHolder(t, c.Pointer)
	var err error
	c.File = filepath.Join(t.TempDir(), "store.db")
	if c.Store, err = store.Open(t.Context(), c.File); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Store.Close(); err != nil {
			t.Error(err)
		}
	})
	c.Ledger, err = ledger.Open(t.Context(), ledger.Config{
		Store: c.Store, Signer: c.CA, Pointer: c.Pointer, CRLLife: CRLLife, DNSSuffix: DNSSuffix, Now: c.Clock.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Ledger.Close)
	third, err := issuer.New(issuer.Config{Store: c.Store, Pointer: c.Pointer, Signer: x509, Current: c.Ledger.CRL})
	if err != nil {
		t.Fatal(err)
	}
	c.Config = authority.Config{
		Store: c.Store, Ledger: c.Ledger, Pointer: c.Pointer, Approval: c.Approval, X509: third, Now: c.Clock.Now,
		Roots: evidence.Roots{Simulators: simulators}, Policy: Policy(t, Trial), Life: MaxLife, Logger: slog.New(slog.DiscardHandler),
	}
	c.Authority = c.With(edit...)
	return c
}

// Trial is the policy of this package's coordinators: simulators with an EK
// certificate may enrol.
const Trial = `version = 1
[[rule]]
name = "trial"
decide = "auto"
simulators = true
`

// Policy parses a policy.
func Policy(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func key(t testing.TB, token *hsm.Token, label string) *hsm.Key {
	t.Helper()
	k, err := token.Key(label)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// With returns an authority with other rules over the same ledger.
func (c *Coordinator) With(edit ...func(*authority.Config)) *authority.Authority {
	c.t.Helper()
	config := c.Config
	for _, e := range edit {
		e(&config)
	}
	a, err := authority.New(config)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// Token makes a join token for one node.
func (c *Coordinator) Token(names string, edit ...func(*authority.TokenRequest)) *chancery.Token {
	c.t.Helper()
	r := authority.TokenRequest{Names: names, Roles: []string{"web"}, Uses: 1, Life: 24 * time.Hour}
	for _, e := range edit {
		e(&r)
	}
	token, _, err := c.Authority.CreateToken(c.t.Context(), "op", r)
	if err != nil {
		c.t.Fatal(err)
	}
	return &token
}

// Check holds the coordinator's log against what it promises, see
// [Holder.Check].
func (c *Coordinator) Check() {
	c.t.Helper()
	c.holder.Check(c.Store, c.Ledger, c.Clock.Now())
}

// WantSpent runs a step that must cost so many signatures of CA:SK.
func (c *Coordinator) WantSpent(n int, step func()) {
	c.t.Helper()
	before := c.CA.Total()
	step()
	if spent := c.CA.Total() - before; spent != n {
		c.t.Errorf("CA:SK signed %d times, want %d", spent, n)
	}
}

// View reads the store.
func (c *Coordinator) View(f func(*store.Tx) error) {
	c.t.Helper()
	view(c.t, c.Store, f)
}
