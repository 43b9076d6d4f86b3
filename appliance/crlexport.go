package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
)

// An exported is what crl export prints with -o json.
type exported struct {
	Number  uint64 `json:"number"`
	Revoked uint64 `json:"revoked"`
	Bytes   int    `json:"bytes"`
	File    string `json:"file,omitempty"`
	List    []byte `json:"list,omitempty" doc:"without --out"`
}

func (a *app) crlExportCommand() *cobra.Command {
	var x509, der bool
	var partition, out string
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the current list to a file: ours, or as an X.509 CRL",
		Long: `export writes the current list, signed. With --x509 it is an RFC 5280 CRL of the
same certificates for software that does not know ours, signed by the X.509
issuer, as PEM unless --der is given. Nodes get their list without it.

An X.509 CRL takes some 40 bytes for each certificate. One of more than 1048576
is not made; --partition N is of the 65536 indexes from N times as many on. The
coordinator serves them to everybody under the URL that is in each.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			path := "/v1/crl"
			switch {
			case x509:
				path += "/x509"
			case der || partition != "":
				return cli.Usage("", "--der and --partition are for --x509")
			}
			if partition != "" {
				if _, err := strconv.ParseUint(partition, 10, 32); err != nil {
					return cli.Usage("0 is the first", "--partition: %q is no number of a partition", partition)
				}
				path += "?partition=" + partition
			}
			resp, err := a.request(c.Context(), "GET", path, "", nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			list, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			e := exported{List: list}
			if x509 {
				e.Number, _ = strconv.ParseUint(resp.Header.Get(api.NumberHeader), 10, 64)
				e.Revoked, _ = strconv.ParseUint(resp.Header.Get(api.RevokedHeader), 10, 64)
				if !der {
					e.List = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list})
				}
			} else {
				ours, err := chancery.RestoreCRL(list)
				if err != nil {
					return err
				}
				e.Number, e.Revoked = ours.Head().Number, ours.Revoked()
			}
			return a.export(&e, out)
		},
	}
	c.Flags().BoolVar(&x509, "x509", false, "as an RFC 5280 CRL")
	c.Flags().BoolVar(&der, "der", false, "with --x509: DER, not PEM")
	c.Flags().StringVar(&partition, "partition", "", "with --x509: one partition")
	c.Flags().StringVar(&out, "out", "", "file (default: standard output)")
	return c
}

func (a *app) export(e *exported, out string) error {
	e.Bytes = len(e.List)
	if out == "" {
		return a.out.Print(e, func(w io.Writer) { io.Copy(w, bytes.NewReader(e.List)) })
	}
	// Whole, or not at all: servers read it while it is replaced. And by
	// everybody: a list is public, whatever the umask.
	err := durable.WriteFile(out, e.List)
	if err == nil {
		err = os.Chmod(out, 0o644)
	}
	if err != nil {
		return cli.Failure("", "%v", err)
	}
	e.File, e.List = out, nil
	return a.out.Print(e, func(w io.Writer) {
		fmt.Fprintf(w, "%s: CRL number %d, %d revoked, %d bytes\n", e.File, e.Number, e.Revoked, e.Bytes)
	})
}
