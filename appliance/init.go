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
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
)

const (
	pointerLife = 2 * 365 * 24 * time.Hour
	maxCertLife = 31 * 24 * time.Hour
)

type initFlags struct {
	Plan
	token, ceremony string
	model           string
	simulator, yes  bool
	keys            map[string]string
}

// An initResult is what init prints with -o json.
type initResult struct {
	Pin         string    `json:"pin"`
	Token       string    `json:"token"`
	Simulator   bool      `json:"simulator"`
	KeyKind     string    `json:"key_kind" doc:"what the token says of CA:SK"`
	CA          string    `json:"ca_key" doc:"fingerprint of CA:PK"`
	CAID        string    `json:"ca_id"`
	URL         string    `json:"url"`
	TrustDomain string    `json:"trust_domain"`
	Created     time.Time `json:"created"`
	Transcript  string    `json:"transcript" doc:"file"`
	Shares      []string  `json:"shares,omitempty" doc:"files with shares of the PIN"`
	Warnings    []string  `json:"warnings,omitempty"`
	Next        []string  `json:"next"`
}

func (a *app) initCommand() *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use:   "init",
		Short: "Generate CA:SK in the token and publish the first pointer record",
		Long: `init makes a coordinator in the data directory: it generates CA:SK, the key after
it, the approval key and the X.509 issuer key in a PKCS#11 token, signs CA:S and
the first pointer record, and prints the pin that nodes need.

With --ceremony all of that is in one file, which people can agree on before the
day; init says what it will do, asks, and leaves a transcript that CA:SK signed.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.ceremony != "" {
				var given []string
				c.Flags().Visit(func(f *pflag.Flag) {
					if f.Name != "ceremony" && f.Name != "yes" && c.InheritedFlags().Lookup(f.Name) == nil {
						given = append(given, "--"+f.Name)
					}
				})
				if len(given) > 0 {
					return cli.Usage("say it in the file", "%s and --ceremony exclude each other", strings.Join(given, ", "))
				}
			}
			return a.init(c.Context(), &f)
		},
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	c.Flags().StringVar(&f.ceremony, "ceremony", "", "file that says all of it: see docs/hsm.md")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask before a ceremony")
	c.Flags().StringVar(&f.token, "hsm", "", "PKCS#11 URI of the token, as in pkcs11:token=NAME?module-path=FILE&pin-source=file:FILE")
	c.Flags().BoolVar(&f.simulator, "simulator", false, "make a SoftHSM token in the data directory: for trials, CA:SK is in a file")
	c.Flags().StringVar(&f.model, "device-model", "", "with --simulator: give it the speed and the limits of a device: "+deviceModels())
	c.Flags().BoolVar(&f.ExistingKeys, "existing-keys", false, "go on with the keys that are in the token already, and generate those that are missing")
	c.Flags().StringToStringVar(&f.keys, "key", nil, "name of a key in the token, as in ca=pkcs11:object=LABEL or approval=pkcs11:id=%01 (keys: "+strings.Join(keyNames, ", ")+")")
	c.Flags().StringVar(&f.URL, "url", "https://"+strings.ToLower(host)+":8443", "where nodes reach this coordinator")
	c.Flags().StringVar(&f.Listen, "listen", "", "address to listen on (default: the port of --url on all interfaces)")
	c.Flags().StringVar(&f.TrustDomain, "trust-domain", "chancery.internal", "SPIFFE trust domain of node names")
	c.Flags().StringSliceVar(&f.EKRoots, "ek-roots", nil, "files with certificates of TPM vendors, beside those that the program carries")
	c.Flags().StringSliceVar(&f.SimulatorRoots, "simulator-roots", nil, "PEM files of makers of simulators; allows simulators")
	return c
}

// plan turns the flags into a plan; the token of a simulator is not in it yet.
func (f *initFlags) plan() (*Plan, error) {
	if f.ceremony != "" {
		return loadPlan(f.ceremony)
	}
	if f.simulator == (f.token != "") {
		return nil, noTokenChosen(f)
	}
	if f.model != "" && !f.simulator {
		return nil, cli.Usage("", "--device-model is for --simulator")
	}
	p := f.Plan
	p.Title = "chancery init"
	p.HSM = []HSMConfig{{URI: f.token}}
	for name, uri := range f.keys {
		switch name {
		case keyCA:
			p.Keys.CA = uri
		case keyNextCA:
			p.Keys.NextCA = uri
		case keyApproval:
			p.Keys.Approval = uri
		case keyX509:
			p.Keys.X509 = uri
		default:
			return nil, cli.Usage("keys are "+strings.Join(keyNames, ", "), "--key: no key is called %q", name)
		}
	}
	if f.simulator { // checked with the rest, and made when all is well
		p.HSM[0].URI = "pkcs11:token=" + simulatorToken + "?module-name=softhsm2"
	}
	return &p, nil
}

func (a *app) init(ctx context.Context, f *initFlags) error {
	plan, err := f.plan()
	if err != nil {
		return err
	}
	config, err := plan.config()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(a.data), 0o700); err != nil {
		return cli.Failure("choose another directory with --data, or run as its owner", "%v", err)
	}
	unlock, err := a.data.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(a.data.config()); !errors.Is(err, fs.ErrNotExist) {
		return cli.Failure("start it with: chancery serve", "there is a coordinator in %s already; nothing was changed", a.data)
	}
	if f.simulator {
		if _, err := os.Stat(a.data.softhsm()); !errors.Is(err, fs.ErrNotExist) {
			return cli.Failure("it is a trial and has issued nothing: remove "+string(a.data)+" and repeat", "an earlier init was interrupted and left a token in %s", a.data.softhsm())
		}
	}
	if _, err := os.Stat(a.data.store()); !errors.Is(err, fs.ErrNotExist) {
		return cli.Failure("it has issued nothing: remove "+a.data.store()+" and repeat", "an earlier init was interrupted and left %s; nothing was changed", a.data.store())
	}
	if f.ceremony != "" && !f.yes {
		if err := confirm(ctx, plan.summary(string(a.data), config)); err != nil {
			return err
		}
	}
	if f.simulator {
		if config.HSM[0], err = trialToken(string(a.data.softhsm()), f.model); err != nil {
			return err
		}
	}
	result, err := a.perform(ctx, plan, config)
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

// perform does what the plan says: it generates the keys, signs the first
// pointer record and writes the data directory. The configuration is written
// last: with it the coordinator exists, without it init may be repeated (with
// existing keys).
func (a *app) perform(ctx context.Context, plan *Plan, config *Config) (*initResult, error) {
	began := time.Now()
	public, made, err := a.generate(plan, config)
	if err != nil {
		return nil, err
	}
	if err := checkKeys(config, public); err != nil {
		return nil, err
	}
	pool, err := openTokens(ctx, config, chancery.FleetID{}, a.data.latch(), slog.New(slog.DiscardHandler), public)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	keys := map[string]*hsm.PoolKey{}
	for _, name := range keyNames {
		if keys[name], err = pool.Key(name); err != nil {
			return nil, err
		}
	}
	pair, tlsPin, err := makeTLSKey(plan.URL)
	if err != nil {
		return nil, err
	}
	p, err := firstPointer(ctx, plan, keys, tlsPin)
	if err != nil {
		return nil, err
	}
	if err := pool.Settle(ctx); err != nil {
		return nil, err
	}
	shares, err := splitPIN(plan, config)
	if err != nil {
		return nil, err
	}
	defer wipe(shares)
	t := writeTranscript(plan, began, pool, p, made, shares)
	sig, err := keys[keyCA].Sign(ctx, p.FleetID(), chancery.NewCeremony(t.Bytes()))
	if err != nil {
		return nil, err
	}
	r := &initResult{
		Pin: p.FleetID().Pin(), CA: p.Current().Key.String(), CAID: p.Current().ID.String(),
		URL: plan.URL, TrustDomain: plan.TrustDomain, Created: p.Issued, Transcript: a.data.transcript(),
		Next: []string{"chancery serve", "chancery token create --name 'edge-*'"},
	}
	for i, s := range pool.Status() {
		r.take(s)
		if err := config.HSM[i].identify(s); err != nil {
			return nil, err
		}
	}
	if err := a.writeData(ctx, p, pair, t.sign(sig)); err != nil {
		return nil, err
	}
	if err := a.writeRules(plan); err != nil {
		return nil, err
	}
	if r.Shares, err = writeShares(plan.PIN.Directory, shares); err != nil {
		return nil, err
	}
	if err := config.write(a.data.config()); err != nil {
		removeAll(r.Shares) // of a coordinator that is not
		return nil, err
	}
	return r, nil
}

// take notes what is to be told of a token. The first one that holds CA:SK is
// the one that the result names.
func (r *initResult) take(s hsm.Status) {
	r.Warnings = append(r.Warnings, warnings(s)...)
	for _, k := range s.Keys {
		if k.Name == keyCA && r.Token == "" && s.State == hsm.Up {
			r.Token, r.Simulator, r.KeyKind = s.Info.Label, s.Info.Simulator, kind(k)
		}
	}
}

// kind tells in words what sort of key it is.
func kind(k hsm.KeyStatus) string {
	text := k.Public.Suite().String()
	if k.Attributes.Sensitive == hsm.Yes {
		text += ", sensitive"
	}
	if k.Attributes.Extractable == hsm.Yes {
		text += ", WRAPPABLE"
	} else {
		text += ", not extractable"
	}
	if len(k.Attributes.Beyond) == 0 {
		text += ", signs only"
	}
	return text
}

// firstPointer signs CA:S and the first pointer record.
func firstPointer(ctx context.Context, plan *Plan, keys map[string]*hsm.PoolKey, tlsPin [32]byte) (*chancery.Pointer, error) {
	now := time.Unix(time.Now().Unix(), 0).UTC()
	ca := keys[keyCA]
	p := &chancery.Pointer{
		Genesis:     chancery.Genesis{CA: ca.PublicKey(), NextCA: keys[keyNextCA].PublicKey().Fingerprint(), Created: now},
		Seq:         1,
		Issued:      now,
		Expires:     now.Add(pointerLife),
		TrustDomain: plan.TrustDomain,
		Endpoints:   []chancery.Endpoint{{URL: plan.URL, Pins: [][32]byte{tlsPin}}},
		MinSuite:    chancery.P256,
		MaxLife:     maxCertLife,
		Approval:    keys[keyApproval].PublicKey(),
		X509Issuer:  keys[keyX509].PublicKey(),
	}
	fleet := p.FleetID()
	key := chancery.CAKey{Key: ca.PublicKey(), State: chancery.CAKeyCurrent, Created: now, ID: chancery.DefaultCAID(ca.PublicKey()), Logs: []uint16{1}}
	var err error
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
	return p, nil
}

// warnings tells what a person should know of a token before he relies on it.
func warnings(s hsm.Status) (list []string) {
	if s.State != hsm.Up {
		return []string{fmt.Sprintf("token %s is %s: %v", s.URI, s.State, s.Err)}
	}
	for _, k := range s.Keys {
		if k.Attributes.Local == hsm.No {
			list = append(list, fmt.Sprintf("the key %s was not generated in the token %q: whoever brought it there may have it still", k.Name, s.Info.Label))
		}
		if len(k.Attributes.Beyond) > 0 {
			list = append(list, fmt.Sprintf("the key %s may be used for more than signatures: %s", k.Name, strings.Join(k.Attributes.Beyond, ", ")))
		}
		if k.Attributes.Extractable == hsm.Yes {
			list = append(list, fmt.Sprintf("the key %s can leave the token %q, wrapped: whoever has the PINs of its user and its security officer can take it", k.Name, s.Info.Label))
		}
	}
	return list
}

// writeData writes what there is before the configuration.
func (a *app) writeData(ctx context.Context, p *chancery.Pointer, pair, transcript []byte) error {
	s, err := store.Open(ctx, a.data.store())
	if err != nil {
		return err
	}
	defer s.Close()
	err = s.Update(ctx, func(tx *store.Tx) error {
		if err := tx.InsertPointer(p); err != nil {
			return err
		}
		record := sha256.Sum256(p.Marshal())
		return tx.AppendAudit(p.Current().ID.String(), &chancery.AuditEntry{At: p.Issued, Operator: chancery.AuditText(api.UserName(os.Getuid()), 255), Action: "pointer.publish",
			Subject: "seq " + strconv.FormatUint(p.Seq, 10), Details: []chancery.AuditDetail{{Name: "sha256", Value: hex.EncodeToString(record[:])}}})
	})
	if err != nil {
		return err
	}
	if err := durable.WriteFile(a.data.tlsKey(), pair); err != nil {
		return err
	}
	if err := durable.WriteFile(a.data.pointer(), p.Marshal()); err != nil {
		return err
	}
	return durable.WriteFile(a.data.transcript(), transcript)
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

// readPool reads PEM files.
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
	fmt.Fprintf(w, "CA:SK          %s\n", r.KeyKind)
	fmt.Fprintf(w, "CA:PK          %s\n", r.CA)
	fmt.Fprintf(w, "CA id          %s\n", r.CAID)
	fmt.Fprintf(w, "pointer record number 1, %s, trust domain %s\n", r.URL, r.TrustDomain)
	fmt.Fprintf(w, "pin            %s\n", r.Pin)
	fmt.Fprintf(w, "transcript     %s\n", r.Transcript)
	for _, s := range r.Shares {
		fmt.Fprintf(w, "share of PIN   %s\n", s)
	}
	for _, text := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
	for _, next := range r.Next {
		fmt.Fprintf(w, "next: %s\n", next)
	}
}
