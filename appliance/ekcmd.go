package main

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/ekroots"
	"github.com/chancery-pki/chancery/internal/cli"
)

func (a *app) ekRootsCommand() *cobra.Command {
	c := &cobra.Command{Use: "ek-roots", Short: "Whose word for an endorsement key is believed"}
	c.AddCommand(a.ekRootsListCommand(), a.ekRootsAddCommand(), a.ekRootsRemoveCommand())
	return c
}

// An ekRoot is a certificate as ek-roots prints it with -o json.
type ekRoot struct {
	Fingerprint string    `json:"sha256"`
	Origin      string    `json:"origin"`
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Root        bool      `json:"root" doc:"false: an intermediate"`
	NotAfter    time.Time `json:"not_after"`
	Notes       []string  `json:"notes,omitempty"`
}

func (a *app) printRoots(list []ekroots.Certificate) error {
	roots := []ekRoot{}
	for _, c := range list {
		roots = append(roots, ekRoot{c.Fingerprint(), c.Origin(), c.Subject(), c.Issuer(), c.Root(), c.NotAfter(), c.Notes(time.Now())})
	}
	return a.out.Print(roots, func(w io.Writer) {
		table(w, "SHA-256\tORIGIN\tKIND\tUNTIL\tSUBJECT", func(row func(...any)) {
			for _, r := range roots {
				row(r.Fingerprint[:16], r.Origin, map[bool]string{true: "root", false: "intermediate"}[r.Root], r.NotAfter.Format(time.DateOnly), r.Subject)
			}
		})
		for _, r := range roots {
			for _, n := range r.Notes {
				fmt.Fprintf(w, "note: %s: %s\n", r.Fingerprint[:16], n)
			}
		}
	})
}

// withoutVendors are the vendors that the configuration leaves out, if there is
// one.
func (a *app) withoutVendors() []string {
	config, err := a.data.loadConfig()
	if err != nil {
		return nil
	}
	return config.WithoutVendors
}

func (a *app) ekRootsListCommand() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the certificates of those who make TPMs", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		set, err := ekroots.Load(a.data.ekRoots(), a.withoutVendors()...)
		if err != nil {
			return cli.WithCode(cli.ExitUsage, err)
		}
		return a.printRoots(set.List())
	}}
}

func (a *app) ekRootsAddCommand() *cobra.Command {
	return &cobra.Command{Use: "add FILE", Short: "Believe a maker of TPMs", Long: `add puts the certificates in a file, PEM or DER, into DATA/ek-roots. A coordinator
takes them up when it is started again.`, Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		if _, err := a.data.loadConfig(); err != nil {
			return err
		}
		if err := os.MkdirAll(a.data.ekRoots(), 0o700); err != nil {
			return err
		}
		added, err := ekroots.AddFile(a.data.ekRoots(), args[0], time.Now(), a.withoutVendors()...)
		if err != nil {
			return cli.WithCode(cli.ExitUsage, err)
		}
		return a.printRoots(added)
	}}
}

func (a *app) ekRootsRemoveCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "remove SHA-256", Short: "Believe a maker of TPMs no longer", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if !yes {
			if err := confirm(c.Context(), "take the certificate "+args[0]+" away; chips that need it are refused when they renew"); err != nil {
				return err
			}
		}
		removed, err := ekroots.Remove(a.data.ekRoots(), args[0])
		if err != nil {
			return cli.WithCode(cli.ExitUsage, err)
		}
		return a.printRoots(removed)
	}}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) ekCommand() *cobra.Command {
	c := &cobra.Command{Use: "ek", Short: "Chips that the operator knows: lists of endorsement keys"}
	c.AddCommand(a.ekImportCommand(), a.ekListCommand(), a.ekRemoveCommand())
	return c
}

func (a *app) ekImportCommand() *cobra.Command {
	c := &cobra.Command{Use: "import LIST FILE", Short: "Put the chips of a purchase manifest on a list", Long: `import reads CSV with a header. One of the columns says which chip: ek_sha256 (the
digest that chancery-agent identify prints), ek_public (the key, DER or PEM) or
ek_certificate (DER or PEM); DER is in base64 or hexadecimal. A column note is
kept; others are not looked at. Rules of the policy refer to the list by ek_list.
Nothing is imported if a line is wrong.`, Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
		f, err := os.Open(args[1])
		if err != nil {
			return cli.Usage("", "%v", err)
		}
		defer f.Close()
		chips, err := readManifest(f)
		if err != nil {
			return cli.Usage(cli.HintOf(err), "%s: %v", args[1], err)
		}
		var r api.EKListInfo
		if err := a.call(c.Context(), "POST", "/v1/eks/"+url.PathEscape(args[0]), chips, &r); err != nil {
			return err
		}
		return a.out.Print(r, func(w io.Writer) { fmt.Fprintf(w, "%s: %d chips, %d of them new\n", r.List, r.Chips, r.New) })
	}}
	return c
}

func (a *app) ekListCommand() *cobra.Command {
	return &cobra.Command{Use: "list [LIST]", Short: "Show the lists, or the chips on one", Args: cobra.MaximumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			counts := map[string]int{}
			if err := a.call(c.Context(), "GET", "/v1/eks", nil, &counts); err != nil {
				return err
			}
			return a.out.Print(counts, func(w io.Writer) {
				for _, list := range slices.Sorted(maps.Keys(counts)) {
					fmt.Fprintf(w, "%-20s %d chips\n", list, counts[list])
				}
			})
		}
		var chips []api.EKInfo
		if err := a.call(c.Context(), "GET", "/v1/eks/"+url.PathEscape(args[0]), nil, &chips); err != nil {
			return err
		}
		return a.out.Print(chips, func(w io.Writer) {
			for _, e := range chips {
				fmt.Fprintln(w, strings.TrimSpace(e.EK+"  "+e.Note))
			}
		})
	}}
}

func (a *app) ekRemoveCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "remove LIST", Short: "Remove a list", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if !yes {
			if err := confirm(c.Context(), "remove the list "+args[0]+"; nodes that are enrolled by it are refused when they renew"); err != nil {
				return err
			}
		}
		var r api.EKListInfo
		if err := a.call(c.Context(), "DELETE", "/v1/eks/"+url.PathEscape(args[0]), nil, &r); err != nil {
			return err
		}
		return a.out.Print(r, func(w io.Writer) { fmt.Fprintf(w, "removed %s with %d chips\n", r.List, r.Chips) })
	}}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
