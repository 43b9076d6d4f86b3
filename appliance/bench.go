package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/merkle"
)

// A sizing is what bench prints with -o json: what this machine does with this
// token and this disk, and what that is enough for.
type sizing struct {
	Token         string   `json:"token"`
	Simulator     bool     `json:"simulator"`
	Processors    int      `json:"processors"`
	Signatures    benchRun `json:"signatures"`
	Verifications float64  `json:"verifications_per_second" doc:"P-256, on all processors"`
	Commits       float64  `json:"commits_per_second" doc:"one after the other, each on disk"`
	Certificates  float64  `json:"certificates_per_second" doc:"by the ledger, with this token and disk"`
	Enrolments    float64  `json:"enrolments_per_second" doc:"estimate: what the processors have room for, and the ledger"`

	Nodes     int      `json:"nodes"`
	Life      string   `json:"life"`
	Renewals  float64  `json:"renewals_per_second" doc:"of so many nodes, each at half of its certificate's life"`
	NodesMost int      `json:"nodes_most" doc:"estimate: whose renewals fill this machine"`
	CRL       benchCRL `json:"crl"`
}

// A benchCRL is the list of the fleet with one certificate in a hundred revoked.
type benchCRL struct {
	Revoked int     `json:"revoked"`
	Bytes   int     `json:"bytes"`
	NextMS  float64 `json:"next_ms" doc:"to make the next one, without the signature"`
}

// enrolmentCost is how many P-256 verifications take the CPU of a whole
// enrolment over HTTPS: go run ./benchmarks enrol-https proof.
const enrolmentCost = 45

func (a *app) benchCommand() *cobra.Command {
	var choice tokenChoice
	var nodes int
	var life, each time.Duration
	var model string
	c := &cobra.Command{Use: "bench", Short: "Measure this machine, token and disk: how large a fleet they carry", Long: `bench measures for some seconds each what an appliance spends its time on: the
token signs challenges, which say nothing; the processors verify signatures; the
disk of the data directory commits; and a ledger with a scratch database there
issues certificates of a scratch key, each batch of which waits for the token as
CA:SK's would. Then it tells what that is enough for. It competes with a
coordinator that runs, and leaves nothing behind.`, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) (err error) {
		switch {
		case nodes < 1000 || nodes > 1_000_000_000:
			return cli.Usage("", "--nodes %d must be 1000 to 1000000000", nodes)
		case life < time.Hour:
			return cli.Usage("", "--life %s must be an hour at least", life)
		case each <= 0:
			return cli.Usage("", "--time %s must be above 0", each)
		}
		config, remove, err := a.benched(&choice, model, keyX509)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove()) }()
		s, err := a.measure(c.Context(), &config, nodes, life, each)
		if err != nil {
			return err
		}
		return a.out.Print(s, func(w io.Writer) { printSizing(w, s) })
	}}
	choice.flag(c)
	c.Flags().IntVar(&nodes, "nodes", 1_000_000, "of the fleet")
	c.Flags().DurationVar(&life, "life", 7*24*time.Hour, "of its certificates")
	c.Flags().DurationVar(&each, "time", 3*time.Second, "how long to measure the token and the disk each; the ledger twice as long")
	c.Flags().StringVar(&model, "device-model", "", "measure with a SoftHSM that has the speed of a device, and the disk of the directory for temporary files: "+deviceModels())
	return c
}

// measure measures one thing after the other.
func (a *app) measure(ctx context.Context, config *Config, nodes int, life, each time.Duration) (s *sizing, err error) {
	dir, err := os.MkdirTemp(string(a.data), "bench-")
	if err != nil {
		return nil, cli.Failure("bench writes a scratch database to the data directory, whose disk it measures", "%w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	one := *config
	one.HSM = slices.Clone(config.HSM)
	one.HSM[0].Wrappable = true // a challenge says nothing, so that any key may sign it
	pool, err := openTokens(ctx, &one, chancery.FleetID{}, a.data.latch(), slog.New(slog.DiscardHandler), map[string]chancery.PublicKey{keyX509: {}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	info := pool.Status()[0].Info
	s = &sizing{Token: info.Label, Simulator: info.Simulator, Processors: runtime.GOMAXPROCS(0), Nodes: nodes, Life: life.String()}
	fmt.Fprintln(os.Stderr, "the token signs ...")
	if s.Signatures, err = benchSessions(ctx, pool, keyX509, info.Sessions, each); err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stderr, "the processors verify ...")
	if s.Verifications, err = verifications(each / 3); err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stderr, "the disk commits ...")
	if s.Commits, err = commits(ctx, filepath.Join(dir, "commits.db"), each); err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stderr, "the ledger issues ...")
	token, err := pool.Key(keyX509)
	if err != nil {
		return nil, err
	}
	if s.Certificates, err = certificates(ctx, filepath.Join(dir, "ledger.db"), token, 2*each); err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stderr, "the next CRL is made ...")
	if s.CRL, err = nextCRL(nodes); err != nil {
		return nil, err
	}
	s.Enrolments = min(s.Verifications/enrolmentCost, s.Certificates)
	s.Renewals = float64(nodes) / (life.Seconds() / 2)
	s.NodesMost = int(s.Enrolments * life.Seconds() / 2)
	return s, nil
}

// verifications is how many signatures all processors together verify a second.
func verifications(d time.Duration) (float64, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	digest := sha256.Sum256([]byte("bench"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return 0, err
	}
	var done atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for time.Since(began) < d {
				if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
					return
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), nil
}

// commits is how many transactions a second end, one after the other, each with
// an audit entry.
func commits(ctx context.Context, file string, d time.Duration) (rate float64, err error) {
	s, err := store.Open(ctx, file)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	entry := &chancery.AuditEntry{At: time.Now().UTC().Truncate(time.Second), Operator: chancery.AuditCoordinator, Action: "bench.commit"}
	n, began := 0, time.Now()
	for time.Since(began) < d {
		if err := s.Update(ctx, func(tx *store.Tx) error { return tx.AppendAudit("bench", entry) }); err != nil {
			return 0, err
		}
		n++
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// A scratchKey is a CA key that is good for nothing, and as slow as the token:
// with each of its signatures the token signs a challenge.
type scratchKey struct {
	private *ecdsa.PrivateKey
	public  chancery.PublicKey
	token   *hsm.PoolKey
}

func newScratchKey(token *hsm.PoolKey) (*scratchKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	return &scratchKey{private, public, token}, err
}

func (k *scratchKey) PublicKey() chancery.PublicKey { return k.public }

func (k *scratchKey) Sign(ctx context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	if k.token != nil {
		var c chancery.Challenge
		rand.Read(c.Nonce[:])
		if _, err := k.token.Sign(ctx, chancery.FleetID{}, c); err != nil {
			return nil, err
		}
	}
	digest := sha256.Sum256(chancery.Message(fleet, chancery.P256, s))
	der, err := k.private.Sign(rand.Reader, digest[:], chancery.P256.Hash())
	if err != nil {
		return nil, err
	}
	return chancery.NewSignatureASN1(chancery.P256, der)
}

// pointer is the record of a fleet of which the key is the CA's.
func (k *scratchKey) pointer(ctx context.Context) (*chancery.Pointer, error) {
	now := time.Now().UTC().Truncate(time.Second)
	p := &chancery.Pointer{Genesis: chancery.Genesis{CA: k.public, Created: now}, Seq: 1, Issued: now, Expires: now.Add(time.Hour), TrustDomain: "bench",
		MinSuite: chancery.P256, MaxLife: 24 * time.Hour, Approval: k.public}
	ca := chancery.CAKey{Key: k.public, State: chancery.CAKeyCurrent, Created: now, ID: chancery.DefaultCAID(k.public), Logs: []uint16{1}}
	var err error
	if ca.CAS, err = k.Sign(ctx, p.FleetID(), chancery.CASelf{Key: k.public, Created: now}); err != nil {
		return nil, err
	}
	p.Keys = []chancery.CAKey{ca}
	p.Signature, err = k.Sign(ctx, p.FleetID(), p)
	return p, err
}

// A scratchRequest is a node that wants a certificate, with a key of its own.
type scratchRequest struct{ subject chancery.Subject }

func (r *scratchRequest) Prepare(_ *store.Tx, notBefore time.Time) (*chancery.Subject, error) {
	r.subject.NotBefore, r.subject.NotAfter = notBefore, notBefore.Add(time.Hour)
	return &r.subject, nil
}

func (r *scratchRequest) Appended(*store.Tx, string, merkle.Serial) error { return nil }

// certificates is how many a ledger issues a second while more than 2,000 nodes
// wait.
func certificates(ctx context.Context, file string, token *hsm.PoolKey, d time.Duration) (rate float64, err error) {
	const callers = 2048
	key, err := newScratchKey(token)
	if err != nil {
		return 0, err
	}
	pointer, err := key.pointer(ctx)
	if err != nil {
		return 0, err
	}
	s, err := store.Open(ctx, file)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	l, err := ledger.Open(ctx, ledger.Config{Store: s, Signer: key, Pointer: pointer, CRLLife: time.Hour, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	node, err := newScratchKey(nil)
	if err != nil {
		return 0, err
	}
	ns := &chancery.NS{Fleet: pointer.FleetID(), NodeKey: node.public, Created: pointer.Issued, Name: "bench"}
	rand.Read(ns.CANSHash[:])
	if ns.Signature, err = node.Sign(ctx, pointer.FleetID(), ns); err != nil {
		return 0, err
	}
	var issued atomic.Int64
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	began := time.Now()
	for caller := range callers {
		group.Go(func() {
			for n := 0; time.Since(began) < d && failed.Load() == nil; n++ {
				node, err := newScratchKey(nil)
				if err == nil {
					subject := chancery.Subject{
						Name: fmt.Sprintf("bench-%d-%d", caller, n), TrustDomain: pointer.TrustDomain, NodeKey: node.public, Roles: []string{"bench"},
						NS:        chancery.DetachedNS{CANSHash: ns.CANSHash, Created: ns.Created, Signature: ns.Signature},
						Assurance: chancery.Assurance{Level: chancery.AssuranceEK},
					}
					rand.Read(subject.Assurance.EKDigest[:])
					_, err = l.Issue(ctx, &scratchRequest{subject})
				}
				if err != nil {
					failed.Store(&err)
					return
				}
				issued.Add(1)
			}
		})
	}
	group.Wait()
	took := time.Since(began)
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(issued.Load()) / took.Seconds(), nil
}

// nextCRL makes the list of a fleet of so many, and the one after it.
func nextCRL(nodes int) (c benchCRL, err error) {
	key, err := newScratchKey(nil)
	if err != nil {
		return c, err
	}
	r := mathrand.New(mathrand.NewPCG(1, 2))
	revoked := map[uint64]bool{}
	for len(revoked) < nodes/100 {
		revoked[r.Uint64N(uint64(nodes))] = true
	}
	set := chancery.RevokedSet{CA: chancery.DefaultCAID(key.public), Log: 1, Size: uint64(nodes)}
	for v := range uint64(nodes) {
		if revoked[v] {
			set.Indexes = append(set.Indexes, v)
		}
	}
	now := time.Now().UTC().Truncate(time.Second)
	list, err := chancery.NextCRL(nil, []chancery.RevokedSet{set}, now, now.Add(time.Hour))
	if err != nil {
		return c, err
	}
	began := time.Now()
	next, err := chancery.NextCRL(list, []chancery.RevokedSet{set}, now.Add(time.Second), now.Add(time.Hour))
	if err != nil {
		return c, err
	}
	c.NextMS = float64(time.Since(began).Microseconds()) / 1000
	c.Revoked, c.Bytes = len(set.Indexes), len(next.Marshal())
	return c, nil
}

func printSizing(w io.Writer, s *sizing) {
	fmt.Fprintf(w, "%s%s, %d processors\n\n", s.Token, simulated(s.Simulator), s.Processors)
	table(w, "WHAT\tA SECOND", func(row func(...any)) {
		row("signatures of the token", fmt.Sprintf("%.1f (%d sessions, median %.2f ms)", s.Signatures.PerSecond, s.Signatures.Sessions, s.Signatures.MedianMS))
		row("verifications, P-256", fmt.Sprintf("%.0f", s.Verifications))
		row("commits, one after the other", fmt.Sprintf("%.0f", s.Commits))
		row("certificates by the ledger", fmt.Sprintf("%.0f", s.Certificates))
		row("whole enrolments", fmt.Sprintf("some %.0f, if nothing else runs here", s.Enrolments))
	})
	fmt.Fprintf(w, "\n%d nodes with certificates of %s renew %.1f times a second, at half of their life: ", s.Nodes, s.Life, s.Renewals)
	if s.Renewals <= s.Enrolments/2 {
		fmt.Fprintf(w, "this machine has room for that.\n")
	} else if s.Renewals <= s.Enrolments {
		fmt.Fprintf(w, "that is more than half of what this machine does.\n")
	} else {
		fmt.Fprintf(w, "MORE than this machine does; it carries some %d nodes, or these with a longer --life.\n", s.NodesMost)
	}
	fmt.Fprintf(w, "Their CRL with %d revoked has %d bytes, and the next one takes %.1f ms without the signature.\n", s.CRL.Revoked, s.CRL.Bytes, s.CRL.NextMS)
}
