package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/internal/cli"
)

// table prints rows in columns.
func table(w io.Writer, header string, rows func(row func(cells ...any))) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, header)
	rows(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			if when, ok := c.(time.Time); ok {
				c = stamp(when)
			}
			fmt.Fprint(t, c)
		}
		fmt.Fprintln(t)
	})
	t.Flush()
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// simulated marks what comes from a simulator, wherever it is shown.
func simulated(yes bool) string {
	if yes {
		return " SIMULATOR"
	}
	return ""
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show the coordinator at a glance", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		var s api.Status
		if err := a.call(c.Context(), "GET", "/v1/status", nil, &s); err != nil {
			if is[*notRunningError](err) {
				err = cmp.Or(a.stopped(c.Context()), err)
			}
			return err
		}
		err := a.out.Print(s, func(w io.Writer) {
			fmt.Fprintf(w, "fleet    %s\n", s.Fleet)
			for _, t := range s.Tokens {
				name := t.URI // of one that was never up
				if t.Label != "" {
					name = fmt.Sprintf("%s (%s, serial %s)", t.Label, t.Model, t.Serial)
				}
				fmt.Fprintf(w, "token    %s%s, %s\n", name, simulated(t.Simulator), t.State)
			}
			fmt.Fprintf(w, "nodes    %d enrolled", s.Nodes)
			if s.Simulators > 0 {
				fmt.Fprintf(w, " (%d on SIMULATOR chips)", s.Simulators)
			}
			fmt.Fprintf(w, ", %d revoked, %d waiting for approval, %d waiting for a boot state's approval\n", s.Revoked, s.Pending, s.Reseals)
			fmt.Fprintf(w, "log      %d entries\n", s.LogSize)
			fmt.Fprintf(w, "CRL      number %d of %s, good until %s, %d revoked, %d bytes\n", s.CRL.Number, stamp(s.CRL.ThisUpdate), stamp(s.CRL.NextUpdate), s.CRL.Revoked, s.CRL.Bytes)
			fmt.Fprintf(w, "pointer  number %d, expires %s\n", s.Pointer.Seq, stamp(s.Pointer.Expires))
			fmt.Fprintf(w, "anchor   %s\n", s.Anchor)
			for _, p := range s.Problems {
				fmt.Fprintf(w, "problem  %s\n", p)
			}
		})
		if err == nil && len(s.Problems) > 0 {
			return cli.WithCode(cli.ExitDegraded, fmt.Errorf("%d problems", len(s.Problems)))
		}
		return err
	}}
}

func (a *app) tokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Join tokens"}
	in := api.TokenInput{}
	var life time.Duration
	create := &cobra.Command{
		Use:   "create",
		Short: "Make a join token and print it: a secret",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			in.Seconds = int64(life / time.Second)
			var t api.TokenOutput
			if err := a.call(c.Context(), "POST", "/v1/tokens", in, &t); err != nil {
				return err
			}
			return a.out.Print(t, func(w io.Writer) { fmt.Fprintln(w, t.Token) })
		},
	}
	create.Flags().StringVar(&in.Names, "name", "", "names that it is good for, as in 'edge-*' (required)")
	create.Flags().StringSliceVar(&in.Roles, "role", nil, "roles that nodes get")
	create.Flags().IntVar(&in.Uses, "uses", 1, "how many nodes may join with it")
	create.Flags().DurationVar(&life, "life", time.Hour, "how long it is good for")
	create.Flags().BoolVar(&in.Approve, "approve", false, "have an operator approve each node")
	create.MarkFlagRequired("name")
	c.AddCommand(create)
	return c
}

func (a *app) nodeCommand() *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "Nodes"}
	c.AddCommand(&cobra.Command{Use: "list", Short: "List nodes, and who waits to become one", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		list := []api.NodeInfo{}
		for after, page := (api.NodeInfo{}), []api.NodeInfo(nil); ; after = page[len(page)-1] {
			page = nil
			query := url.Values{"after": {after.Name}, "id": {after.NodeID}}
			if err := a.call(c.Context(), "GET", "/v1/nodes?"+query.Encode(), nil, &page); err != nil {
				return err
			}
			if list = append(list, page...); len(page) < api.PageSize {
				break
			}
		}
		var pending []api.NodeInfo
		if err := a.call(c.Context(), "GET", "/v1/pending", nil, &pending); err != nil {
			return err
		}
		list = append(list, pending...)
		return a.out.Print(list, func(w io.Writer) {
			table(w, "NAME\tSTATE\tASSURANCE\tCHIP\tENROLLED\tADDRESS", func(row func(...any)) {
				for _, n := range list {
					row(n.Name, n.State, n.Assurance+simulated(n.Simulator), n.Chip.Manufacturer+" "+n.Chip.Firmware, n.Enrolled, n.Address)
				}
			})
		})
	}})
	c.AddCommand(&cobra.Command{Use: "show NAME", Short: "Show all of a node", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		var list []api.NodeInfo
		if err := a.call(c.Context(), "GET", "/v1/nodes/"+url.PathEscape(args[0]), nil, &list); err != nil {
			return err
		}
		return a.out.Print(list, func(w io.Writer) {
			for _, n := range list {
				printNode(w, &n)
			}
		})
	}})
	c.AddCommand(&cobra.Command{Use: "approve NAME", Short: "Issue what a node waits for", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		var v api.ApproveOutput
		if err := a.call(c.Context(), "POST", "/v1/nodes/"+url.PathEscape(args[0])+"/approve", struct{}{}, &v); err != nil {
			return err
		}
		if v.Left > 0 {
			return a.out.Print(v, func(w io.Writer) { fmt.Fprintf(w, "noted; %d more operators have to approve %s\n", v.Left, args[0]) })
		}
		if v.Status != chancery.VerdictIssued {
			return cli.WithCode(cli.ExitRefused, fmt.Errorf("%s: %s: %s", args[0], v.Status, v.Reason))
		}
		return a.out.Print(v, func(w io.Writer) { fmt.Fprintf(w, "%s is enrolled\n", args[0]) })
	}})
	c.AddCommand(a.evidenceCommand(), a.attestCommand())
	c.AddCommand(&cobra.Command{Use: "release NAME", Short: "Renew a node again that is held", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if err := a.call(c.Context(), "POST", "/v1/nodes/"+url.PathEscape(args[0])+"/release", struct{}{}, nil); err != nil {
			return err
		}
		return a.out.Print(map[string]string{"name": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "%s is renewed again\n", args[0]) })
	}})
	c.AddCommand(a.refuseCommand())
	c.AddCommand(a.revokeCommand(authority.Nodes))
	return c
}

func printNode(w io.Writer, n *api.NodeInfo) {
	fmt.Fprintf(w, "%s\n", n.Name)
	fmt.Fprintf(w, "  state      %s\n", n.State)
	fmt.Fprintf(w, "  node id    %s\n", n.NodeID)
	fmt.Fprintf(w, "  assurance  %s%s\n", n.Assurance, simulated(n.Simulator))
	fmt.Fprintf(w, "  chip       %s %s, firmware %s\n", n.Chip.Manufacturer, n.Chip.Model, n.Chip.Firmware)
	fmt.Fprintf(w, "  EK         sha256:%s\n", n.EK)
	fmt.Fprintf(w, "  N:SK       %s\n", map[bool]string{true: "sealed to the boot state", false: "not sealed"}[n.Sealed])
	fmt.Fprintf(w, "  roles      %s\n", strings.Join(n.Roles, ", "))
	if n.Rule != "" {
		fmt.Fprintf(w, "  rule       %s\n", n.Rule)
	}
	if n.Held != "" {
		fmt.Fprintf(w, "  HELD       %s; it is not renewed\n", n.Held)
	}
	if !n.Attested.IsZero() {
		fmt.Fprintf(w, "  attested   %s\n", stamp(n.Attested))
	}
	if n.Sealed && n.Epoch > 0 {
		fmt.Fprintf(w, "  epoch      %d%s\n", n.Epoch, map[string]string{"wanted": ", to be raised with its next attestation", "raised": ", raised; older approvals are gone after its next reboot"}[n.Retire])
	}
	if n.Replaces != "" {
		fmt.Fprintf(w, "  replaces   node %s, which is revoked by an approval\n", n.Replaces)
	}
	if n.Wanted > 0 {
		fmt.Fprintf(w, "  approvals  %d of %d: %s\n", len(n.Approvals), n.Wanted, strings.Join(n.Approvals, ", "))
	}
	fmt.Fprintf(w, "  enrolled   %s\n", stamp(n.Enrolled))
	if !n.Revoked.IsZero() {
		fmt.Fprintf(w, "  revoked    %s: %s", stamp(n.Revoked), n.Reason)
		if n.ReasonCode != chancery.ReasonUnspecified {
			fmt.Fprintf(w, " (%s)", n.ReasonCode)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "  serials    %s\n", strings.Join(n.Serials, " "))
}

// refuseCommand cannot be taken back: it says what it will do, asks, and takes
// a reason.
func (a *app) refuseCommand() *cobra.Command {
	var in api.RevokeInput
	var yes bool
	c := &cobra.Command{Use: "refuse NAME", Short: "Turn down a node that waits for approval", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if !yes {
			if err := confirm(c.Context(), fmt.Sprintf("turn down %s, which waits for approval", args[0])); err != nil {
				return err
			}
		}
		if err := a.call(c.Context(), "POST", "/v1/nodes/"+url.PathEscape(args[0])+"/refuse", in, nil); err != nil {
			return err
		}
		return a.out.Print(struct{}{}, func(w io.Writer) { fmt.Fprintln(w, "done") })
	}}
	c.Flags().StringVar(&in.Reason, "reason", "", "why, for the record")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// confirm asks on standard input.
func confirm(ctx context.Context, what string) error { return cli.Confirm(ctx, os.Stdin, what) }
