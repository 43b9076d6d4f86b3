package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/internal/cli"
)

func (a *app) pcrCommand() *cobra.Command {
	c := &cobra.Command{Use: "pcr", Short: "Boot states that keys are sealed to"}
	c.AddCommand(a.pcrListCommand(), a.pcrApproveCommand(), a.pcrRemoveCommand(), a.pcrRetireCommand())
	return c
}

func (a *app) pcrListCommand() *cobra.Command {
	var ahead bool
	c := &cobra.Command{Use: "list", Short: "List the boot states that nodes asked to have approved", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		if ahead {
			var list []api.BootStateInfo
			if err := a.call(c.Context(), "GET", "/v1/boot-states", nil, &list); err != nil {
				return err
			}
			return a.out.Print(list, func(w io.Writer) {
				table(w, "ID\tNODES\tSINCE\tOPERATOR\tPCRS", func(row func(...any)) {
					for _, b := range list {
						row(b.ID, b.Names, b.At, b.Operator, values(b.Values))
					}
				})
			})
		}
		var list []api.ResealInfo
		if err := a.call(c.Context(), "GET", "/v1/reseals", nil, &list); err != nil {
			return err
		}
		return a.out.Print(list, func(w io.Writer) {
			table(w, "NAME\tASKED\tSTATE\tPCRS", func(row func(...any)) {
				for _, r := range list {
					row(r.Name, r.Asked, map[bool]string{true: "approved", false: "waiting"}[r.Approved], values(r.Values))
				}
			})
		})
	}}
	c.Flags().BoolVar(&ahead, "ahead", false, "list those that were approved ahead of time")
	return c
}

func (a *app) pcrApproveCommand() *cobra.Command {
	var pcrs []string
	c := &cobra.Command{Use: "approve NAME", Short: "Approve the boot state that a node quoted, or one that is to come", Long: `approve lets a node's key sign in the boot state that its chip has quoted and that
it waits in. With --pcr it approves values before any node has them, for all nodes
whose names fit the pattern NAME: before firmware is updated. They get the approval
with their next attestation, and boot into the new state without waiting.`,
		Example: `  chancery pcr approve edge-1
  chancery pcr approve 'edge-*' --pcr 7=65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e234eb3068`,
		Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			if len(pcrs) > 0 {
				return a.approveAhead(c, args[0], pcrs)
			}
			var r api.ResealInfo
			if err := a.call(c.Context(), "POST", "/v1/reseals/"+url.PathEscape(args[0])+"/approve", struct{}{}, &r); err != nil {
				return err
			}
			return a.out.Print(r, func(w io.Writer) { fmt.Fprintf(w, "approved for %s: %s\n", r.Name, values(r.Values)) })
		}}
	c.Flags().StringArrayVar(&pcrs, "pcr", nil, "a value that is to come, as in 7=HEX; once for each PCR that the keys are sealed to")
	return c
}

func (a *app) approveAhead(c *cobra.Command, names string, pcrs []string) error {
	in := api.BootStateInput{Names: names, Values: map[int][]byte{}}
	for _, text := range pcrs {
		number, value, _ := strings.Cut(text, "=")
		pcr, err := strconv.Atoi(number)
		b, err2 := hex.DecodeString(value)
		if err != nil || err2 != nil || len(b) != 32 || pcr < 0 || pcr > 23 {
			return cli.Usage("as in 7=HEX, with 64 hexadecimal digits", "--pcr %q is no PCR and value of the SHA-256 bank", text)
		}
		in.Values[pcr] = b
	}
	var r api.BootStateInfo
	if err := a.call(c.Context(), "POST", "/v1/boot-states", in, &r); err != nil {
		return err
	}
	return a.out.Print(r, func(w io.Writer) {
		fmt.Fprintf(w, "approved ahead for %s: %s; take it back with: chancery pcr remove %d\n", r.Names, values(r.Values), r.ID)
	})
}

func (a *app) pcrRemoveCommand() *cobra.Command {
	return &cobra.Command{Use: "remove ID", Short: "Take back a boot state that was approved ahead of time", Long: `remove keeps further nodes from getting the approval. Those that have it keep it,
until chancery pcr retire.`, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return cli.Usage("see: chancery pcr list --ahead", "%q is no number of a boot state", args[0])
		}
		if err := a.call(c.Context(), "DELETE", fmt.Sprintf("/v1/boot-states/%d", id), nil, nil); err != nil {
			return err
		}
		return a.out.Print(map[string]int64{"id": id}, func(w io.Writer) { fmt.Fprintln(w, "done") })
	}}
}

func (a *app) pcrRetireCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "retire NAME", Short: "Make all approvals of a node worthless but for its present state", Long: `retire raises the epoch counter in the node's chip with its next attestation. Every
approval for an older boot state dies, also the state that the key was made in: the
machine cannot be put back to old firmware and still be this node. It is done after
the reboot that follows; chancery node show tells.`, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if !yes {
			if err := confirm(c.Context(), "make all boot states of "+args[0]+" worthless but for the one that it is in when it attests next"); err != nil {
				return err
			}
		}
		if err := a.call(c.Context(), "POST", "/v1/nodes/"+url.PathEscape(args[0])+"/retire", struct{}{}, nil); err != nil {
			return err
		}
		return a.out.Print(map[string]string{"name": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "%s is told with its next attestation\n", args[0]) })
	}}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func values(m map[int][]byte) string {
	var b strings.Builder
	for pcr := range 24 {
		if v, ok := m[pcr]; ok {
			fmt.Fprintf(&b, "%d=%x ", pcr, v)
		}
	}
	return strings.TrimSpace(b.String())
}

func (a *app) attestCommand() *cobra.Command {
	var now bool
	var wait time.Duration
	c := &cobra.Command{Use: "attest NAME", Short: "Show what a node attested of its boot state, or have it attest now", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		path := "/v1/nodes/" + url.PathEscape(args[0])
		var list []api.AttestationInfo
		if now {
			var asked api.AskedOutput
			if err := a.call(c.Context(), "POST", path+"/attest", struct{}{}, &asked); err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "waiting for %s ...\n", args[0])
			for end := time.Now().Add(wait); ; {
				if err := a.call(c.Context(), "GET", path+"/attestations", nil, &list); err != nil {
					return err
				}
				if len(list) > 0 && list[0].ID > asked.After {
					list = list[:1]
					break
				}
				if time.Now().After(end) {
					return cli.Failure("it attests when it is back; see: chancery node attest "+args[0], "%s did not attest within %s", args[0], wait)
				}
				select {
				case <-time.After(200 * time.Millisecond):
				case <-c.Context().Done():
					return c.Context().Err()
				}
			}
		} else if err := a.call(c.Context(), "GET", path+"/attestations", nil, &list); err != nil {
			return err
		}
		err := a.out.Print(list, func(w io.Writer) {
			for _, at := range list {
				fmt.Fprintf(w, "%s  %s\n", stamp(at.At), map[bool]string{true: "good", false: "FAILED: " + at.Reason}[at.Good])
			}
		})
		if err == nil && now && !list[0].Good {
			return cli.WithCode(cli.ExitRefused, fmt.Errorf("%s: %s", args[0], list[0].Reason))
		}
		return err
	}}
	c.Flags().BoolVar(&now, "now", false, "have it attest now, and wait for it")
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait")
	return c
}
