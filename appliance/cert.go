package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/merkle"
)

func (a *app) certCommand() *cobra.Command {
	c := &cobra.Command{Use: "cert", Short: "Certificates"}
	var from uint64
	list := &cobra.Command{Use: "list", Short: "List the certificates in the log", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		all := []api.CertificateInfo{}
		for {
			var page []api.CertificateInfo
			if err := a.call(c.Context(), "GET", fmt.Sprintf("/v1/certificates?from=%d", from), nil, &page); err != nil {
				return err
			}
			all = append(all, page...)
			from += uint64(len(page))
			if len(page) < api.PageSize {
				break
			}
		}
		return a.out.Print(all, func(w io.Writer) {
			table(w, "SERIAL\tNAME\tNOT AFTER\tREVOKED\tREASON", func(row func(...any)) {
				for _, c := range all {
					row(c.Serial, c.Name, c.NotAfter, c.Revoked, c.Reason)
				}
			})
		})
	}}
	list.Flags().Uint64Var(&from, "from", 0, "first index")
	c.AddCommand(list)
	c.AddCommand(&cobra.Command{Use: "show SERIAL", Short: "Print a certificate, as PEM", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		var info api.CertificateInfo
		if err := a.call(c.Context(), "GET", "/v1/certificates/"+url.PathEscape(args[0]), nil, &info); err != nil {
			return err
		}
		return a.out.Print(info, func(w io.Writer) {
			pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: info.DER})
		})
	}})
	c.AddCommand(a.revokeCommand(authority.Certificates))
	c.AddCommand(a.certVerifyCommand())
	return c
}

// A verifyResult is what cert verify prints with -o json.
type verifyResult struct {
	Valid  bool   `json:"valid"`
	Serial string `json:"serial,omitempty"`
	CA     string `json:"ca,omitempty"`
	Reason string `json:"reason,omitempty"`
}

func (a *app) certVerifyCommand() *cobra.Command {
	var caFile, at string
	c := &cobra.Command{
		Use:   "verify --ca CA.pem CERT.pem",
		Short: "Verify any Merkle Tree Certificate against its CA's certificate",
		Long: `verify checks a standalone certificate of draft-ietf-plants-merkle-tree-certs,
ours or not: that the CA named in CA.pem issued it, its validity, its place in
the CA's log, and the CA cosigner's signature. Other cosigners are ignored.
Revocation is not looked at.

Exit codes: 0 it verifies, 1 it does not, 2 a file is not what it should be.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			when := time.Now()
			if at != "" {
				var err error
				if when, err = time.Parse(time.RFC3339, at); err != nil {
					return cli.Usage("as in 2026-01-31T12:00:00Z", "--at: %q is not a time", at)
				}
			}
			return a.verify(caFile, args[0], when)
		},
	}
	c.Flags().StringVar(&caFile, "ca", "", "the CA's certificate, PEM (required)")
	c.Flags().StringVar(&at, "at", "", "verify as of this time, RFC 3339 (default: now)")
	c.MarkFlagRequired("ca")
	return c
}

func (a *app) verify(caFile, certFile string, at time.Time) error {
	der, err := readPEM(caFile)
	if err != nil {
		return err
	}
	ca, err := merkle.ParseCA(der)
	if err != nil {
		return cli.Usage("chancery ca export writes one", "%s is not the certificate of a Merkle Tree CA: %v", caFile, err)
	}
	if der, err = readPEM(certFile); err != nil {
		return err
	}
	cert, err := merkle.ParseCertificate(der)
	if merkle.IsNotCertificate(err) {
		return cli.Usage("", "%s: %v", certFile, err)
	}
	r := verifyResult{CA: ca.ID.String()}
	if err == nil {
		r.Serial = cert.Serial.String()
		err = ca.Verify(cert, at)
	}
	r.Valid = err == nil
	if err != nil {
		r.Reason = err.Error()
	}
	// A verdict is a result, so it is printed like one; no says so again by
	// the exit code.
	printed := a.out.Print(r, func(w io.Writer) {
		if r.Valid {
			fmt.Fprintf(w, "%s: good: serial %s of CA %s\n", certFile, r.Serial, r.CA)
		}
	})
	if err != nil {
		return cli.WithCode(cli.ExitFailure, fmt.Errorf("%s does not verify: %w", certFile, err))
	}
	return printed
}

// readPEM reads a file that holds exactly one PEM certificate.
func readPEM(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, cli.Usage("", "%v", err)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, cli.Usage("", "%s holds no PEM certificate", file)
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, cli.Usage("verify one certificate at a time", "%s holds more than one PEM block", file)
	}
	return block.Bytes, nil
}
