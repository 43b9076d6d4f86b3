package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
)

// A benchResult is what hsm bench prints with -o json.
type benchResult struct {
	Token     string     `json:"token"`
	Device    string     `json:"device"`
	Simulator bool       `json:"simulator"`
	Key       string     `json:"key"`
	Runs      []benchRun `json:"runs"`
	// Sessions is the least number that reaches 95 % of the best rate.
	Sessions int `json:"sessions" doc:"what to put into the configuration"`
	// Enrolments says what the rate at that number means.
	Enrolments []benchBatch `json:"enrolments"`
}

type benchRun struct {
	Sessions  int     `json:"sessions"`
	PerSecond float64 `json:"signatures_per_second"`
	MedianMS  float64 `json:"median_ms"`
	P90MS     float64 `json:"p90_ms"`
	P99MS     float64 `json:"p99_ms"`
	MaxMS     float64 `json:"max_ms"`
	Retries   uint64  `json:"retries"`
	Faults    uint64  `json:"faults"`
}

// A benchBatch says how many enrolments a second the token has signatures for
// if so many nodes wait at a time. An enrolment takes two: CA:N:S and N:C.
type benchBatch struct {
	Batch     int     `json:"batch"`
	PerSecond float64 `json:"per_second"`
}

func (a *app) hsmBenchCommand() *cobra.Command {
	var choice tokenChoice
	var name, model string
	var counts []int
	var each time.Duration
	c := &cobra.Command{Use: "bench", Short: "Measure a token: signatures a second, and what they mean", Long: `bench has the token sign challenges, which say nothing, through a signer process
as serve has it, with more and more sessions. It tells how many to configure, and
how many enrolments a second the token is good for when one signature certifies
all that wait. It competes with a coordinator that runs.`, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) (err error) {
		if slices.Min(append([]int{1}, counts...)) < 1 || len(counts) == 0 || each <= 0 { // where TokenConfig takes 0 for its default
			return cli.Usage("", "sessions %v and time %s must be above 0", counts, each)
		}
		for _, n := range counts {
			if err := (hsm.TokenConfig{Sessions: n}).Check(); err != nil {
				return cli.Usage("", "--sessions: %v", err)
			}
		}
		key := name
		if strings.HasPrefix(name, "pkcs11:") {
			key = keyX509 // any will do, in whose place the named one is
		} else if !slices.Contains(keyNames, key) {
			return cli.Usage("keys are "+strings.Join(keyNames, ", ")+", and all that a URI names: --key pkcs11:object=LABEL", "--key: no key is called %q", key)
		}
		config, remove, err := a.benched(&choice, model, key)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove()) }()
		if key != name {
			if model != "" {
				return cli.Usage("", "--key with a URI and --device-model exclude each other")
			}
			config.Keys.X509 = name
			if _, err := config.Keys.uri(key); err != nil {
				return err
			}
		}
		r, err := a.bench(c.Context(), &config, key, counts, each)
		if err != nil {
			return err
		}
		r.Key = name
		return a.out.Print(r, func(w io.Writer) { printBench(w, r) })
	}}
	choice.flag(c)
	c.Flags().StringVar(&name, "key", keyX509, "which key signs: "+strings.Join(keyNames, ", ")+", or the URI of one, as in pkcs11:object=LABEL")
	c.Flags().IntSliceVar(&counts, "sessions", []int{1, 2, 4, 8, 16}, "numbers of sessions to measure with")
	c.Flags().DurationVar(&each, "time", 3*time.Second, "how long to measure with each")
	c.Flags().StringVar(&model, "device-model", "", "measure a SoftHSM with the speed of a device: "+deviceModels())
	return c
}

// benched is the token that is to be measured: the chosen one, or with a model
// one that remove removes.
func (a *app) benched(choice *tokenChoice, model, key string) (config Config, remove func() error, err error) {
	if model == "" {
		config, err = choice.one(a.data, key)
		return config, func() error { return nil }, err
	}
	if choice.uri != "" {
		return config, nil, cli.Usage("", "--hsm and --device-model exclude each other")
	}
	config, a.data, remove, err = trialDevice(model, key)
	return config, remove, err
}

func (a *app) bench(ctx context.Context, config *Config, key string, counts []int, each time.Duration) (*benchResult, error) {
	slices.Sort(counts)
	r := &benchResult{}
	for _, n := range slices.Compact(counts) {
		h := config.HSM[0]
		h.Sessions = n
		h.Wrappable = true // a challenge says nothing, so that any key may sign it
		one := *config
		one.HSM = []HSMConfig{h}
		pool, err := openTokens(ctx, &one, chancery.FleetID{}, a.data.latch(), slog.New(slog.DiscardHandler), map[string]chancery.PublicKey{key: {}})
		if err != nil {
			return nil, err
		}
		info := pool.Status()[0].Info
		r.Token, r.Device, r.Simulator = info.Label, fmt.Sprintf("%s %s, firmware %s", info.Manufacturer, info.Model, info.Firmware), info.Simulator
		if info.Sessions < n {
			fmt.Fprintf(os.Stderr, "the token has %d sessions, not %d\n", info.Sessions, n)
		}
		if len(r.Runs) > 0 && r.Runs[len(r.Runs)-1].Sessions == info.Sessions {
			pool.Close() // no more than before
			break
		}
		fmt.Fprintf(os.Stderr, "%d sessions, %s ...\n", info.Sessions, each)
		run, err := benchSessions(ctx, pool, key, info.Sessions, each)
		if err = errors.Join(err, pool.Close()); err != nil {
			return nil, err
		}
		r.Runs = append(r.Runs, run)
	}
	best := slices.MaxFunc(r.Runs, func(a, b benchRun) int { return cmp.Compare(a.PerSecond, b.PerSecond) })
	i := slices.IndexFunc(r.Runs, func(run benchRun) bool { return run.PerSecond >= 0.95*best.PerSecond })
	r.Sessions = r.Runs[i].Sessions
	for _, batch := range []int{1, 10, 100, 1000} {
		r.Enrolments = append(r.Enrolments, benchBatch{batch, r.Runs[i].PerSecond / 2 * float64(batch)})
	}
	return r, nil
}

// benchSessions signs with as many callers as there are sessions.
func benchSessions(ctx context.Context, pool *hsm.Pool, name string, n int, each time.Duration) (run benchRun, err error) {
	key, err := pool.Key(name)
	if err != nil {
		return run, err
	}
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	var mu sync.Mutex
	var all []time.Duration
	var group sync.WaitGroup
	start := time.Now()
	for range n {
		group.Go(func() {
			var mine []time.Duration
			for {
				var c chancery.Challenge
				rand.Read(c.Nonce[:])
				began := time.Now()
				_, signErr := key.Sign(ctx, chancery.FleetID{}, c)
				if signErr != nil {
					mu.Lock()
					if ctx.Err() == nil {
						err = signErr
					}
					all = append(all, mine...)
					mu.Unlock()
					return
				}
				mine = append(mine, time.Since(began))
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	if err == nil && len(all) == 0 {
		err = cli.Failure("use a longer --time", "the token signed nothing within %s", each)
	}
	if err != nil {
		return run, err
	}
	slices.Sort(all)
	at := func(percent int) float64 {
		return float64(all[(len(all)-1)*percent/100].Microseconds()) / 1000
	}
	s := pool.Status()[0]
	return benchRun{Sessions: n, PerSecond: float64(len(all)) / took.Seconds(), MedianMS: at(50), P90MS: at(90), P99MS: at(99), MaxMS: at(100), Retries: s.Retries, Faults: s.Faults}, nil
}

// tokenNoLimit is a number of enrolments a second above which no coordinator is
// held up by its token.
const tokenNoLimit = 20_000

func printBench(w io.Writer, r *benchResult) {
	fmt.Fprintf(w, "%s (%s)%s\n", r.Token, r.Device, simulated(r.Simulator))
	table(w, "SESSIONS\tSIGNATURES/S\tMEDIAN MS\t90 %\t99 %\tMAX\tRETRIES\tFAULTS", func(row func(...any)) {
		for _, run := range r.Runs {
			row(run.Sessions, fmt.Sprintf("%.1f", run.PerSecond), fmt.Sprintf("%.2f", run.MedianMS), fmt.Sprintf("%.2f", run.P90MS), fmt.Sprintf("%.2f", run.P99MS), fmt.Sprintf("%.2f", run.MaxMS), run.Retries, run.Faults)
		}
	})
	fmt.Fprintf(w, "\nsessions = %d: more gain less than 5 %%\n", r.Sessions)
	fmt.Fprintf(w, "An enrolment takes two signatures, each of which serves all nodes that wait at the moment:\n")
	for _, b := range r.Enrolments {
		if b.PerSecond > tokenNoLimit {
			fmt.Fprintf(w, "  %5d waiting: the coordinator's CPU and disk are the limit, not the token\n", b.Batch)
			continue
		}
		fmt.Fprintf(w, "  %5d waiting: the token has signatures for %.0f enrolments/s\n", b.Batch, b.PerSecond)
	}
}
