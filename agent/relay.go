package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/agent/forward"
	"github.com/chancery-pki/chancery/agent/run"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
)

func forwardCommand(f *flags) *cobra.Command {
	var r state.Relay
	c := &cobra.Command{
		Use:   "forward --listen ADDRESS --to NODE:PORT",
		Short: "carry connections of local programs to what a peer exposes",
		Long: `Forward has the running agent listen for local programs and carry each
connection to the node NODE, which exposes something at PORT, until it ends by
SIGTERM or SIGINT: connections that are open then have --drain-timeout to end.
Forwards that are to be there always are in agent.toml.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return runRelay(c, f, &run.RelayRequest{Forward: &r}, r.CheckForward)
		},
	}
	relayFlags(c, &r)
	c.Flags().Lookup("listen").Usage = "where programs connect, HOST:PORT or unix:PATH (required)"
	c.Flags().Lookup("to").Usage = "NODE:PORT (required)"
	return c
}

func exposeCommand(f *flags) *cobra.Command {
	var r state.Relay
	c := &cobra.Command{
		Use:   "expose --listen ADDRESS --to ADDRESS --allow RULE...",
		Short: "let peers reach a local program",
		Long: `Expose has the running agent listen for peers and carry the connections of
those that a rule allows to a local program. Nobody is allowed without a rule. A
rule has terms with spaces between them, all of which have to hold:

  role:ROLE        a role in the peer's certificate
  name:GLOB        its name
  assurance:LEVEL  at least tpm, ek-verified or quote-matched
  hardware         its chip is no simulator
  any              every node of the fleet

It ends with SIGTERM or SIGINT: connections that are open then have
--drain-timeout to end. What is to be exposed always is in agent.toml.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(r.Allow) == 0 {
				return cli.Usage("--allow any is every node of the fleet", "--allow is missing: nobody would be let in")
			}
			return runRelay(c, f, &run.RelayRequest{Expose: &r}, r.CheckExpose)
		},
	}
	relayFlags(c, &r)
	c.Flags().Lookup("listen").Usage = "where peers connect, HOST:PORT (required)"
	c.Flags().Lookup("to").Usage = "the program's address, HOST:PORT or unix:PATH (required)"
	c.Flags().StringArrayVar(&r.Allow, "allow", nil, "whom to let in; may be given more than once (required)")
	c.Flags().BoolVar(&r.ProxyProtocol, "proxy-protocol", false, "tell the program the peer's address and name by a PROXY protocol header, version 2")
	return c
}

func relayFlags(c *cobra.Command, r *state.Relay) {
	v := c.Flags()
	v.StringVar(&r.Listen, "listen", "", "")
	v.StringVar(&r.To, "to", "", "")
	v.IntVar(&r.MaxConnections, "max-connections", forward.DefaultConnections, "at a time; more are reset")
	v.DurationVar((*time.Duration)(&r.ConnectTimeout), "connect-timeout", forward.DefaultConnect, "for the way to the other side")
	v.DurationVar((*time.Duration)(&r.IdleTimeout), "idle-timeout", 0, "without a byte in either direction; 0: for ever")
	v.DurationVar((*time.Duration)(&r.DrainTimeout), "drain-timeout", forward.DefaultDrain, "for connections to end when this one is to")
}

// runRelay has the agent relay until the command is told to end.
func runRelay(c *cobra.Command, f *flags, request *run.RelayRequest, check func() error) error {
	for _, flag := range []string{"listen", "to"} {
		if !c.Flags().Changed(flag) {
			return cli.Usage("see "+c.CommandPath()+" --help", "--%s is missing", flag)
		}
	}
	if err := check(); err != nil {
		return cli.Usage("see "+c.CommandPath()+" --help", "%w", err)
	}
	return f.client(func(client *run.Client) error {
		var end *run.RelayEvent
		err := client.Relay(c.Context(), request, func(e run.RelayEvent) {
			if e.Event == run.EventEnd {
				end = &e
			}
			if f.output == cli.JSON {
				json.NewEncoder(os.Stdout).Encode(e) // a line each
			} else if e.Event == run.EventListening {
				fmt.Println(e.Relay)
			}
		})
		switch {
		case c.Context().Err() != nil:
			return nil // stopped by the one who asked
		case err != nil:
			return err
		case end == nil || end.Error == "":
			return errors.New("the agent has stopped")
		}
		return &cli.Error{Code: cli.ExitFailure, Err: errors.New(end.Error), Tip: end.Hint}
	})
}

// client calls do with a client of the running agent.
func (f *flags) client(do func(*run.Client) error) error {
	dir, err := f.look()
	if err != nil {
		return err
	}
	defer dir.Close()
	client := run.Connect(dir)
	defer client.Close()
	return do(client)
}

func sessionsCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "sessions",
		Short: "live sessions with peers, and what is carried over them",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return f.client(func(client *run.Client) error {
				l, err := client.Live(c.Context())
				if err != nil {
					return err
				}
				return f.output.Print(l, func(w io.Writer) { printLive(w, l) })
			})
		},
	}
}

func printLive(w io.Writer, l *run.Live) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintln(t, "PEER\tSERIAL\tDIRECTION\tREMOTE\tSINCE\tUNTIL AT MOST")
	for _, s := range l.Sessions {
		direction := "dialled"
		if s.Inbound {
			direction = "accepted"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Peer, s.Serial, direction, s.Remote, s.Opened.Format(time.RFC3339), s.Ends.Format(time.RFC3339))
	}
	if len(l.Relayed) == 0 {
		return
	}
	fmt.Fprintln(t, "\nRELAY\tPEER\tPROGRAM\tSINCE\tBYTES IN\tBYTES OUT")
	for _, r := range l.Relayed {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\n", r.Relay, r.Peer, r.Program, r.Opened.Format(time.RFC3339), r.In, r.Out)
	}
}

func reloadCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "have the agent read addresses, programs, forwards and exposes in agent.toml again",
		Long: `Reload has the running agent read addresses, rules for programs, forwards and
exposes in agent.toml again. Relays that are gone drain, new ones are started, and rules that changed
count at once: the connections of peers that none allows any more are cut.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return f.client(func(client *run.Client) error {
				changed, err := client.Reload(c.Context())
				if err != nil {
					return err
				}
				return f.output.Print(changed, func(w io.Writer) {
					for _, line := range changed {
						fmt.Fprintln(w, line)
					}
					if len(changed) == 0 {
						fmt.Fprintln(w, "nothing has changed")
					}
				})
			})
		},
	}
}
