package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

// The keys in the token. CA:SK is the first; its successor is made with it,
// because the genesis commits to it.
const (
	labelCA       = "chancery-ca-1"
	labelNextCA   = "chancery-ca-2"
	labelApproval = "chancery-approval"
	labelX509     = "chancery-x509"
)

const (
	pointerLife = 2 * 365 * 24 * time.Hour
	maxCertLife = 31 * 24 * time.Hour
)

type initFlags struct {
	token, url, listen, trustDomain string
	simulator, existingKeys         bool
	ekRoots, simulatorRoots         []string
}

// An initResult is what init prints with -o json.
type initResult struct {
	Pin         string    `json:"pin"`
	Token       string    `json:"token"`
	Simulator   bool      `json:"simulator"`
	CA          string    `json:"ca_key" doc:"fingerprint of CA:PK"`
	CAID        string    `json:"ca_id"`
	URL         string    `json:"url"`
	TrustDomain string    `json:"trust_domain"`
	Created     time.Time `json:"created"`
	Next        []string  `json:"next"`
}

func (a *app) initCommand() *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use:   "init",
		Short: "Generate CA:SK in the token and publish the first pointer record",
		Long: `init makes a coordinator in the data directory: it generates CA:SK, the key after
it, the approval key and the X.509 issuer key in a PKCS#11 token, signs CA:S and
the first pointer record, and prints the pin that nodes need.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.init(c.Context(), &f) },
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	c.Flags().StringVar(&f.token, "hsm", "", "PKCS#11 URI of the token, as in pkcs11:token=NAME?module-path=FILE&pin-source=file:FILE")
	c.Flags().BoolVar(&f.simulator, "simulator", false, "make a SoftHSM token in the data directory: for trials, CA:SK is in a file")
	c.Flags().BoolVar(&f.existingKeys, "existing-keys", false, "go on with the keys that an earlier init left in the token")
	c.Flags().StringVar(&f.url, "url", "https://"+strings.ToLower(host)+":8443", "where nodes reach this coordinator")
	c.Flags().StringVar(&f.listen, "listen", "", "address to listen on (default: the port of --url on all interfaces)")
	c.Flags().StringVar(&f.trustDomain, "trust-domain", "chancery.internal", "SPIFFE trust domain of node names")
	c.Flags().StringSliceVar(&f.ekRoots, "ek-roots", nil, "PEM files of TPM manufacturers")
	c.Flags().StringSliceVar(&f.simulatorRoots, "simulator-roots", nil, "PEM files of makers of simulators; allows simulators")
	return c
}

func (a *app) init(ctx context.Context, f *initFlags) error {
	endpoint, err := url.Parse(f.url)
	if err != nil || endpoint.Scheme != "https" || endpoint.Host == "" || len(f.url) > 255 {
		return cli.Usage("as in https://coordinator.example:8443", "%q is not an https URL", f.url)
	}
	if f.simulator == (f.token != "") {
		return noTokenChosen(f)
	}
	if err := os.MkdirAll(string(a.data), 0o700); err != nil {
		return cli.Failure("choose another directory with --data, or run as its owner", "%v", err)
	}
	if _, err := os.Stat(a.data.config()); !errors.Is(err, fs.ErrNotExist) {
		return cli.Failure("start it with: chancery serve", "there is a coordinator in %s already; nothing was changed", a.data)
	}
	config := defaultConfig()
	config.EKRoots, config.SimulatorRoots, config.AllowSimulator = f.ekRoots, f.simulatorRoots, len(f.simulatorRoots) > 0
	config.Listen = f.listen
	if config.Listen == "" {
		config.Listen = ":" + portOf(endpoint)
	}
	if _, _, err := loadRoots(&config); err != nil {
		return err
	}
	config.Token = f.token
	if f.simulator {
		if _, err := os.Stat(a.data.softhsm()); !errors.Is(err, fs.ErrNotExist) {
			return cli.Failure("it is a trial and has issued nothing: remove "+string(a.data)+" and repeat", "an earlier init was interrupted and left a token in %s", a.data.softhsm())
		}
		i, err := softhsm.New(string(a.data.softhsm()), "chancery-trial")
		if err != nil {
			return cli.WithCode(cli.ExitNoToken, err)
		}
		config.Token = i.URI.String()
		config.TokenEnvironment = map[string]string{"SOFTHSM2_CONF": i.Conf}
	}
	if err := config.setEnvironment(); err != nil {
		return err
	}
	result, err := a.ceremony(ctx, f, &config)
	if err != nil {
		return err
	}
	return a.out.Print(result, func(w io.Writer) { printInit(w, result) })
}

func noTokenChosen(f *initFlags) error {
	if f.simulator {
		return cli.Usage("", "--hsm and --simulator exclude each other")
	}
	hint := "for a trial: chancery init --simulator"
	if modules := hsm.FindModules(); len(modules) > 0 {
		hint += "\n      PKCS#11 modules on this machine: " + strings.Join(modules, ", ")
	}
	return cli.Usage(hint, "name the token that shall hold CA:SK with --hsm")
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return "443"
}

func (c *Config) setEnvironment() error {
	for name, value := range c.TokenEnvironment {
		if err := os.Setenv(name, value); err != nil {
			return cli.Usage("", "token_environment: %s: %v", name, err)
		}
	}
	return nil
}

// parseToken reads the URI of a token, which must name a module too.
func parseToken(s string) (hsm.URI, error) {
	uri, err := hsm.ParseURI(s)
	if err != nil {
		return uri, cli.WithCode(cli.ExitUsage, err)
	}
	if uri.ModulePath == "" && uri.ModuleName == "" {
		return uri, cli.Usage("add ?module-path=/path/to/module.so", "the token's uri names no PKCS#11 module")
	}
	return uri, nil
}

// ceremony generates the keys, signs the first pointer record and writes the
// data directory. The configuration is written last: with it the coordinator
// exists, without it init may be repeated (with --existing-keys).
func (a *app) ceremony(ctx context.Context, f *initFlags, config *Config) (*initResult, error) {
	uri, err := parseToken(config.Token)
	if err != nil {
		return nil, err
	}
	for _, label := range []string{labelCA, labelNextCA, labelApproval, labelX509} {
		switch err := hsm.Generate(uri, label); {
		case is[*hsm.KeyExistsError](err) && f.existingKeys: // and those that are missing are made
		case is[*hsm.KeyExistsError](err):
			return nil, cli.Failure("if an earlier init made it, repeat with --existing-keys", "%v", err)
		case err != nil:
			return nil, err
		}
	}
	token, err := hsm.Open(uri, hsm.Options{Sessions: 1})
	if err != nil {
		return nil, err
	}
	defer token.Close()
	keys := map[string]*hsm.Key{}
	for _, label := range []string{labelCA, labelNextCA, labelApproval, labelX509} {
		keys[label], err = token.Key(label)
		if is[*hsm.KeyNotFoundError](err) { // Generate found it, so half of it is there
			return nil, &cli.Error{Code: cli.ExitNoToken, Err: err, Tip: "an earlier init was interrupted while the token made it; delete the half that is there and repeat: " +
				"pkcs11-tool --module MODULE --token-label LABEL --login --delete-object --type pubkey --label " + label}
		}
		if err != nil {
			return nil, err
		}
	}
	if suite := keys[labelApproval].PublicKey().Suite(); suite != chancery.P256 {
		return nil, cli.Usage("TPMs verify approvals, and are asked for P-256 only", "the key %s has suite %s, want %s", labelApproval, suite, chancery.P256)
	}
	pair, pin, err := makeTLSKey(f.url)
	if err != nil {
		return nil, err
	}
	now := time.Unix(time.Now().Unix(), 0).UTC()
	ca := keys[labelCA]
	p := &chancery.Pointer{
		Genesis:     chancery.Genesis{CA: ca.PublicKey(), NextCA: keys[labelNextCA].PublicKey().Fingerprint(), Created: now},
		Seq:         1,
		Issued:      now,
		Expires:     now.Add(pointerLife),
		TrustDomain: f.trustDomain,
		Endpoints:   []chancery.Endpoint{{URL: f.url, Pins: [][32]byte{pin}}},
		MinSuite:    chancery.P256,
		MaxLife:     maxCertLife,
		Approval:    keys[labelApproval].PublicKey(),
		X509Issuer:  keys[labelX509].PublicKey(),
	}
	fleet := p.FleetID()
	key := chancery.CAKey{Key: ca.PublicKey(), State: chancery.CAKeyCurrent, Created: now, ID: chancery.DefaultCAID(ca.PublicKey()), Logs: []uint16{1}}
	if key.CAS, err = ca.Sign(ctx, fleet, chancery.CASelf{Key: key.Key, Created: key.Created}); err != nil {
		return nil, err
	}
	p.Keys = []chancery.CAKey{key}
	if p.Signature, err = ca.Sign(ctx, fleet, p); err != nil {
		return nil, err
	}
	if err := p.Verify(fleet); err != nil {
		return nil, cli.Usage("", "%v", err)
	}
	if err := a.writeData(ctx, config, p, pair); err != nil {
		return nil, err
	}
	return &initResult{
		Pin: fleet.Pin(), Token: token.Info().Label, Simulator: token.Info().Simulator, CA: ca.PublicKey().String(), CAID: key.ID.String(),
		URL: f.url, TrustDomain: f.trustDomain, Created: now,
		Next: []string{"chancery serve", "chancery token create --name 'edge-*'"},
	}, nil
}

func (a *app) writeData(ctx context.Context, config *Config, p *chancery.Pointer, pair []byte) error {
	s, err := store.Open(ctx, a.data.store())
	if err != nil {
		return err
	}
	defer s.Close()
	err = s.Update(ctx, func(tx *store.Tx) error { return tx.InsertPointer(p) })
	if err != nil {
		return cli.Failure("an earlier init was interrupted: remove "+a.data.store()+" and repeat", "%v", err)
	}
	if err := durable.WriteFile(a.data.tlsKey(), pair); err != nil {
		return err
	}
	if err := durable.WriteFile(a.data.pointer(), p.Marshal()); err != nil {
		return err
	}
	return config.write(a.data.config())
}

// makeTLSKey makes the coordinator's TLS key and a certificate around it, in
// PEM, and the pin of the key. Nodes look at nothing but the pin. The key is a
// file, not in the token: it protects transport only, and a handshake should
// not wait for CA:SK.
func makeTLSKey(endpoint string) (pair []byte, pin [32]byte, err error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, pin, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, pin, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Chancery coordinator"},
		DNSNames: []string{u.Hostname()}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(20, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, pin, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, pin, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, pin, err
	}
	pair = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pair = append(pair, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	return pair, sha256.Sum256(spki), nil
}

func loadTLSKey(file string) (tls.Certificate, error) { return tls.LoadX509KeyPair(file, file) }

// loadRoots reads the PEM files of the configuration.
func loadRoots(c *Config) (ek, simulators *x509.CertPool, err error) {
	if ek, err = readPool(c.EKRoots); err != nil {
		return nil, nil, err
	}
	simulators, err = readPool(c.SimulatorRoots)
	return ek, simulators, err
}

func readPool(files []string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, cli.Usage("", "%v", err)
		}
		if !pool.AppendCertsFromPEM(b) {
			return nil, cli.Usage("", "%s holds no PEM certificate", file)
		}
	}
	return pool, nil
}

func printInit(w io.Writer, r *initResult) {
	simulated := ""
	if r.Simulator {
		simulated = "   SIMULATOR: the key is in a file"
	}
	fmt.Fprintf(w, "token          %s%s\n", r.Token, simulated)
	fmt.Fprintf(w, "CA:SK          P-256, sensitive, not extractable, signs only\n")
	fmt.Fprintf(w, "CA:PK          %s\n", r.CA)
	fmt.Fprintf(w, "CA id          %s\n", r.CAID)
	fmt.Fprintf(w, "pointer record number 1, %s, trust domain %s\n", r.URL, r.TrustDomain)
	fmt.Fprintf(w, "pin            %s\n", r.Pin)
	for _, next := range r.Next {
		fmt.Fprintf(w, "next: %s\n", next)
	}
}

// caOf returns the CA of a pointer record in the draft's own form.
func caOf(k *chancery.CAKey) (*merkle.CA, error) {
	first, err := merkle.NewSerial(k.Logs[0], 0)
	if err != nil {
		return nil, err
	}
	last, err := merkle.NewSerial(k.Log(), 1<<48-1)
	if err != nil {
		return nil, err
	}
	return &merkle.CA{ID: k.ID, PublicKey: k.Key.ECDSA(), MinSerial: first, MaxSerial: last,
		NotBefore: k.Created, NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}, nil // RFC 5280 section 4.1.2.5: no well-defined expiration
}
