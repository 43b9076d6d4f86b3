package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

func (a *app) witnessCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "witness",
		Short: "Cosign other coordinators' logs, on a machine of its own",
		Long: `A witness cosigns the checkpoints of a fleet's logs, each only if it continues
the one that it cosigned before. A coordinator that shows different logs to
different people does not get its signature for both. So a witness is to run on
a machine that the coordinator's operators cannot reach: that is where its
security is. It needs no data directory, no token and no secret of the fleet.

Any program that speaks C2SP tlog-witness may ask it.`,
	}
	var dir witnessDir
	c.PersistentFlags().StringVar((*string)(&dir), "dir", "", "the witness's directory (required)")
	c.MarkPersistentFlagRequired("dir")

	var identity witnessIdentity
	create := &cobra.Command{
		Use:   "init",
		Short: "Make a witness and print its verifier keys",
		Long: `init makes two keys: an Ed25519 key, which whoever follows logs understands,
and an ECDSA key with a trust anchor ID, whose signatures certificates carry.
The fleets' operators name both in their [[witness]] tables.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.witnessInit(dir, identity) },
	}
	create.Flags().StringVar(&identity.Name, "name", "", "name of the witness, as in witness.example/w1 (required)")
	create.Flags().StringVar(&identity.ID, "id", "", "trust anchor ID of the witness, as in 32473.9 (required)")
	create.MarkFlagRequired("name")
	create.MarkFlagRequired("id")

	var pin string
	add := &cobra.Command{
		Use:   "add POINTER-FILE",
		Short: "Cosign the logs of a fleet, or take its newer pointer record",
		Long: `add takes the keys and numbers of a fleet's logs from its pointer record, which
the pin verifies. After a rollover of the CA key it is to be given the new
record; a witness that runs has to be started again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.witnessAdd(dir, pin, args[0]) },
	}
	add.Flags().StringVar(&pin, "pin", "", "pin of the fleet, from its operator (required)")
	add.MarkFlagRequired("pin")

	var server witnessServer
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Answer coordinators and whoever wants to see what was cosigned",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return a.witnessServe(c.Context(), dir, &server) },
	}
	serve.Flags().StringVar(&server.listen, "listen", ":8444", "address to listen on")
	serve.Flags().StringVar(&server.cert, "cert", "", "PEM file with a TLS certificate; without one it is plain HTTP, which loses nothing but privacy")
	serve.Flags().StringVar(&server.key, "key", "", "PEM file with the certificate's private key")
	serve.Flags().Float64Var(&server.rate, "rate", 10, "how many requests a second one network address may make on average; 0 is no limit")

	show := &cobra.Command{
		Use:   "show",
		Short: "Show the witness's keys, its logs and what it cosigned last",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return a.witnessShow(c.Context(), dir) },
	}
	c.AddCommand(create, add, serve, show)
	return c
}

// A witnessInfo is what witness init, add and show print with -o json.
type witnessInfo struct {
	Name string       `json:"name"`
	ID   string       `json:"id"`
	Keys []string     `json:"keys" doc:"verifier keys, for [[witness]] tables"`
	Logs []witnessLog `json:"logs"`
}

// A witnessLog is a log of a fleet.
type witnessLog struct {
	Origin   string     `json:"origin"`
	Size     uint64     `json:"size" doc:"of what was cosigned last"`
	Root     string     `json:"root,omitempty"`
	Cosigned *time.Time `json:"cosigned,omitempty" doc:"absent if nothing was"`
	Problem  string     `json:"problem,omitempty" doc:"why the witness cannot go on with this log"`
}

func (s *witnessState) info(ctx context.Context) witnessInfo {
	w := witnessInfo{Name: s.Name, ID: s.ID, Logs: []witnessLog{}}
	var keys []*tlog.Key
	for _, signer := range s.signers {
		keys = append(keys, signer.Key())
		w.Keys = append(w.Keys, signer.Key().String())
	}
	for _, p := range s.policies {
		l := witnessLog{Origin: p.Origin()}
		switch record, err := s.records.Load(ctx, p.Origin()); {
		case err != nil:
			l.Problem = err.Error()
		case record.Checkpoint != nil:
			at := cosignedAt(&record, p.Origin(), keys)
			l.Size, l.Root, l.Cosigned = record.Size, record.Root.String(), &at
		}
		w.Logs = append(w.Logs, l)
	}
	return w
}

// cosignedAt returns the latest time in the witness's own signatures.
func cosignedAt(r *tlog.Record, origin string, keys []*tlog.Key) (at time.Time) {
	n, err := tlog.ParseNote(r.Checkpoint)
	if err != nil {
		return at
	}
	c := &tlog.Checkpoint{Origin: origin, Size: r.Size, Root: r.Root}
	for _, s := range n.Signatures {
		for _, k := range keys {
			if seconds, err := k.Verify(c, s); err == nil {
				at = time.Unix(int64(seconds), 0).UTC()
			}
		}
	}
	return at
}

func (a *app) witnessInit(dir witnessDir, identity witnessIdentity) error {
	signers, err := dir.create(identity)
	if err != nil {
		return err
	}
	s := &witnessState{witnessIdentity: identity, signers: signers}
	w := s.info(context.Background())
	return a.out.Print(w, func(out io.Writer) {
		printWitness(out, &w)
		fmt.Fprintf(os.Stderr, "next: chancery witness add --dir %s --pin PIN POINTER-FILE, and give the keys to the fleet's operators\n", dir)
	})
}

func printWitness(out io.Writer, w *witnessInfo) {
	fmt.Fprintf(out, "witness  %s, in certificates %s\n", w.Name, w.ID)
	for _, k := range w.Keys {
		fmt.Fprintf(out, "key      %s\n", k)
	}
}

func (a *app) witnessAdd(dir witnessDir, pin, file string) error {
	fleet, err := chancery.ParsePin(pin)
	if err != nil {
		return cli.Usage("the fleet's operator has it from: chancery pointer show", "%v", err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return cli.Usage("a pointer record is DATA/pointer on a coordinator", "%v", err)
	}
	s, err := dir.load()
	if err != nil {
		return err
	}
	p, err := dir.take(fleet, b, s.pointers, time.Now())
	if err != nil {
		return err
	}
	if s, err = dir.load(); err != nil {
		return err
	}
	w := s.info(context.Background())
	return a.out.Print(w, func(out io.Writer) {
		fmt.Fprintf(out, "fleet %s, pointer record %d: the witness knows %d logs now\n", fleet.Pin(), p.Seq, len(w.Logs))
		fmt.Fprintln(os.Stderr, "a witness that runs has to be started again")
	})
}

func (a *app) witnessShow(ctx context.Context, dir witnessDir) error {
	s, err := dir.load()
	if err != nil {
		return err
	}
	w, problems := s.info(ctx), 0
	err = a.out.Print(w, func(out io.Writer) {
		printWitness(out, &w)
		table(out, "LOG\tSIZE\tCOSIGNED", func(row func(...any)) {
			for _, l := range w.Logs {
				var at time.Time
				if l.Cosigned != nil {
					at = *l.Cosigned
				}
				row(l.Origin, l.Size, at)
			}
		})
		for _, l := range w.Logs {
			if l.Problem != "" {
				fmt.Fprintf(out, "problem  %s: %s\n", l.Origin, l.Problem)
			}
		}
	})
	for _, l := range w.Logs {
		if l.Problem != "" {
			problems++
		}
	}
	if err == nil && problems > 0 {
		return &cli.Error{Code: cli.ExitDegraded, Err: fmt.Errorf("%d logs have lost their record", problems), Tip: new(tlog.RecordError).Hint()}
	}
	return err
}

// A witnessServer is how a witness is reached.
type witnessServer struct {
	listen, cert, key string
	rate              float64
}

func (a *app) witnessServe(ctx context.Context, dir witnessDir, server *witnessServer) error {
	logger := a.logger()
	s, err := dir.load()
	if err != nil {
		return err
	}
	if server.rate < 0 {
		return cli.Usage("0 is no limit", "--rate %v must not be below 0", server.rate)
	}
	if (server.cert == "") != (server.key == "") {
		return cli.Usage("give both, or neither", "--cert and --key belong together")
	}
	if len(s.policies) == 0 {
		return cli.Failure("run: chancery witness add", "the witness knows no fleet")
	}
	w, err := tlog.NewWitness(tlog.WitnessConfig{Signers: s.signers, Logs: s.policies, Records: s.records, Now: time.Now, Logger: logger})
	if err != nil {
		return err
	}
	for _, l := range s.info(ctx).Logs {
		if l.Problem != "" {
			logger.Error("a log is not cosigned any more", "origin", l.Origin, "error", l.Problem, "hint", new(tlog.RecordError).Hint())
		}
	}
	listener, err := net.Listen("tcp", server.listen)
	if err != nil {
		return cli.Failure("choose another --listen", "%v", err)
	}
	hs := &http.Server{
		Handler:           limited(w.Handler(), server.rate),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	serve := func() error { return hs.Serve(listener) }
	if server.cert != "" {
		pair, err := tls.LoadX509KeyPair(server.cert, server.key)
		if err != nil {
			listener.Close()
			return cli.Usage("two PEM files that belong together", "--cert, --key: %v", err)
		}
		hs.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
		serve = func() error { return hs.ServeTLS(listener, "", "") }
	}
	logger.Info("witnessing", "listen", listener.Addr().String(), "logs", len(s.policies), "name", s.Name, "id", s.ID)
	daemon.SdNotify(false, daemon.SdNotifyReady) // of no interest to anybody but systemd
	return serveUntil(ctx, hs, serve)
}

const (
	// maxWitnessBody is above what the witness reads of a request.
	maxWitnessBody = 256 << 10

	// maxWitnessRequests is how many requests are worked on at a time: each may
	// wait for the disk.
	maxWitnessRequests = 64

	// maxWitnessAddresses bounds the memory that strangers can make the limiter
	// use. When it is full all addresses start anew.
	maxWitnessAddresses = 1 << 14
)

// limited keeps one network address from taking the witness for itself, and all
// of them together from more than it can do.
func limited(h http.Handler, perSecond float64) http.Handler {
	var mu sync.Mutex // guards buckets
	buckets := map[string]*rate.Limiter{}
	allow := func(address string) bool {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		mu.Lock()
		defer mu.Unlock()
		b := buckets[host]
		if b == nil {
			if len(buckets) >= maxWitnessAddresses {
				clear(buckets)
			}
			b = rate.NewLimiter(rate.Limit(perSecond), max(1, int(10*perSecond)))
			buckets[host] = b
		}
		return b.Allow()
	}
	room := make(chan struct{}, maxWitnessRequests)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if perSecond > 0 && !allow(r.RemoteAddr) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
		// Whoever sends slowly does not take room while he does.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxWitnessBody))
		if err != nil {
			http.Error(w, "too large, or cut off", http.StatusRequestEntityTooLarge)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
			h.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "busy", http.StatusServiceUnavailable)
		}
	})
}
