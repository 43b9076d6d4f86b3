package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/ping"
	"github.com/chancery-pki/chancery/agent/run"
	"github.com/chancery-pki/chancery/internal/cli"
)

// Intervals between pings. The longest is below the time after which a peer
// takes a silent session for dead.
const (
	leastInterval   = 10 * time.Millisecond
	longestInterval = time.Minute
)

func pingCommand(f *flags) *cobra.Command {
	var r run.PingRequest
	c := &cobra.Command{
		Use:   "ping NAME",
		Short: "open a session to a peer and say what both ends think",
		Long: `Ping has the running agent open a session to the node NAME and prints whom each
end accepted, how long the handshake took and how long each round trip.

With --keep it holds the session until one end cuts it, and says why.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Name = args[0]
			if err := checkPing(&r); err != nil {
				return err
			}
			if r.Keep && c.Flags().Changed("count") {
				return cli.Usage("give one of them", "--keep pings until the session ends, --count so many times")
			}
			return runPing(c, f, &r)
		},
	}
	c.Flags().StringVar(&r.Address, "addr", "", "where the peer is, HOST:PORT (default: ask the coordinator)")
	c.Flags().IntVar(&r.Count, "count", 3, "how many pings")
	c.Flags().DurationVar(&r.Interval, "interval", time.Second, "time between two pings")
	c.Flags().BoolVar(&r.Keep, "keep", false, "ping until the session is cut, and say why it was")
	return c
}

func checkPing(r *run.PingRequest) error {
	if err := chancery.ValidateName(r.Name); err != nil {
		return cli.Usage("give the peer's name; its address goes into --addr", "%w", err)
	}
	if r.Address != "" {
		if _, _, err := net.SplitHostPort(r.Address); err != nil {
			return cli.Usage("it has the form HOST:PORT", "--addr: %w", err)
		}
	}
	if r.Count < 1 {
		return cli.Usage("", "--count %d: want at least 1", r.Count)
	}
	if r.Interval < leastInterval || r.Interval > longestInterval {
		return cli.Usage("", "--interval %s: want %s to %s", r.Interval, leastInterval, longestInterval)
	}
	return nil
}

func runPing(c *cobra.Command, f *flags, r *run.PingRequest) error {
	show := func(e run.PingEvent) { printPing(r.Name, e) }
	if f.output == cli.JSON {
		out := json.NewEncoder(os.Stdout) // a line each
		show = func(e run.PingEvent) { out.Encode(e) }
	}
	var end *run.PingEvent
	err := f.client(func(client *run.Client) error {
		return client.Ping(c.Context(), r, func(e run.PingEvent) {
			if e.Event == run.EventEnd {
				end = &e
			}
			show(e)
		})
	})
	switch {
	case c.Context().Err() != nil:
		return nil // stopped by the one who asked
	case err != nil:
		return err
	case end == nil:
		return errors.New("the agent stopped before the ping was over")
	case end.Error == "":
		return nil
	}
	failure := &cli.Error{Code: cli.ExitFailure, Err: errors.New(end.Error), Tip: end.Hint}
	if end.Refused {
		failure.Code = cli.ExitRefused
	}
	return failure
}

func printPing(name string, e run.PingEvent) {
	switch e.Event {
	case run.EventSession:
		fmt.Printf("session with %s at %s, handshake %.1f ms\n", name, e.Address, e.MS)
		fmt.Printf("  %s accepted %s: %s\n", e.Self.Name, e.Peer.Name, describe(e.Peer))
		fmt.Printf("  %s accepted %s: %s\n", e.Peer.Name, e.Self.Name, describe(e.Self))
	case run.EventPong:
		fmt.Printf("ping %d: %.2f ms\n", e.Seq, e.MS)
	}
}

func describe(p *ping.Peer) string {
	return fmt.Sprintf("serial %s, assurance %s", p.Serial, join.Assurance(p.Assurance, p.Simulator))
}
