package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/merkle"
)

// loadPointer reads the pointer record from the data directory, where init
// put it; no coordinator needs to run.
func (a *app) loadPointer() (*chancery.Pointer, error) {
	b, err := os.ReadFile(a.data.pointer())
	if err != nil {
		return nil, cli.Failure("run chancery init, or name the data directory with --data", "%v", err)
	}
	return chancery.ParsePointer(b)
}

func (a *app) caCommand() *cobra.Command {
	c := &cobra.Command{Use: "ca", Short: "The CA"}
	var x509 bool
	export := &cobra.Command{
		Use:   "export",
		Short: "Print the CA's certificate: for Merkle Tree Certificates, or the X.509 issuer's",
		Long: `export prints the CA's certificate in the form of the Merkle Tree Certificates
draft. With --x509 it is the self-signed certificate of the fleet's X.509 issuer,
for software that knows nodes by X.509 certificates; a coordinator must run.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := a.loadPointer()
			if err != nil {
				return err
			}
			var der []byte
			if x509 {
				if err := a.call(c.Context(), "GET", "/v1/x509", nil, &der); err != nil {
					return err
				}
				err = chancery.VerifyX509CA(p, p.Current(), der)
			} else {
				var ca *merkle.CA
				if ca, err = p.Current().CA(); err == nil {
					der, err = ca.Marshal()
				}
			}
			if err != nil {
				return err
			}
			return a.out.Print(map[string]any{"ca_id": p.Current().ID.String(), "der": der}, func(w io.Writer) {
				pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: der})
			})
		},
	}
	export.Flags().BoolVar(&x509, "x509", false, "the X.509 issuer's")
	c.AddCommand(export)
	return c
}

func (a *app) pointerCommand() *cobra.Command {
	c := &cobra.Command{Use: "pointer", Short: "The pointer record"}
	c.AddCommand(&cobra.Command{Use: "show", Short: "Show the pointer record", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		p, err := a.loadPointer()
		if err != nil {
			return err
		}
		return a.show(describePointer(p))
	}})
	return c
}

func (a *app) crlCommand() *cobra.Command {
	c := &cobra.Command{Use: "crl", Short: "The certificate revocation list"}
	c.AddCommand(&cobra.Command{Use: "show", Short: "Show the current list", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		var b []byte
		if err := a.call(c.Context(), "GET", "/v1/crl", nil, &b); err != nil {
			return err
		}
		crl, err := chancery.RestoreCRL(b)
		if err != nil {
			return err
		}
		return a.show(describeCRL(crl, len(b)))
	}})
	c.AddCommand(a.crlExportCommand())
	return c
}

// A description is an artefact for people, and as JSON for programs: names and
// values in order.
type description struct {
	what   string
	fields []field
}

type field struct {
	name  string
	value any
	item  bool // one of a list, also where it is the only one
}

func (d *description) add(name string, value any) {
	d.fields = append(d.fields, field{name, value, false})
}

func (d *description) addItem(name string, value any) {
	d.fields = append(d.fields, field{name, value, true})
}

func (a *app) show(d *description) error {
	m := map[string]any{"artefact": d.what}
	for _, f := range d.fields {
		if f.item {
			list, _ := m[f.name].([]any)
			m[f.name] = append(list, f.value)
			continue
		}
		m[f.name] = f.value
	}
	return a.out.Print(m, func(w io.Writer) {
		fmt.Fprintln(w, d.what)
		for _, f := range d.fields {
			fmt.Fprintf(w, "  %-18s %v\n", strings.ReplaceAll(f.name, "_", " "), f.value)
		}
	})
}

func describePointer(p *chancery.Pointer) *description {
	d := &description{what: "pointer record"}
	fleet := p.FleetID()
	d.add("pin", fleet.Pin())
	d.add("sequence", p.Seq)
	d.add("issued", stamp(p.Issued))
	d.add("expires", stamp(p.Expires))
	d.add("trust_domain", p.TrustDomain)
	d.add("genesis", fmt.Sprintf("%s, CA:PK %s, next sha256:%x", stamp(p.Genesis.Created), p.Genesis.CA, p.Genesis.NextCA))
	for _, k := range p.Keys {
		d.addItem("ca_key", fmt.Sprintf("%s %s, CA id %s, logs %v", k.State, k.Key, k.ID, k.Logs))
	}
	d.add("rollovers", len(p.Rollovers))
	for _, e := range p.Endpoints {
		for _, pin := range e.Pins {
			d.addItem("endpoint", fmt.Sprintf("%s, TLS key sha256:%x", e.URL, pin))
		}
	}
	d.add("min_crl", p.MinCRL)
	d.add("min_suite", p.MinSuite.String())
	d.add("max_life", p.MaxLife.String())
	d.add("approval_key", p.Approval.String())
	d.add("x509_issuer", p.X509Issuer.String())
	d.add("verifies", verdict(p.Verify(fleet)))
	return d
}

func verdict(err error) string {
	if err == nil {
		return "yes"
	}
	return "NO: " + err.Error()
}

func describeCRL(c *chancery.CRL, size int) *description {
	d := &description{what: "CRL"}
	describeHead(d, c.Head())
	d.add("revoked", c.Revoked())
	d.add("bytes", size)
	return d
}

func describeHead(d *description, h *chancery.CRLHead) {
	d.add("number", h.Number)
	d.add("this_update", stamp(h.ThisUpdate))
	d.add("next_update", stamp(h.NextUpdate))
	for _, l := range h.Logs {
		d.addItem("log", fmt.Sprintf("%s/%d indexes %d to %d, %d revoked", l.CA, l.Log, l.First, l.Size, l.Revoked))
	}
}

func (a *app) inspectCommand() *cobra.Command {
	return &cobra.Command{Use: "inspect FILE", Short: "Print any artefact for people; nothing is verified against a pin", Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return cli.Usage("", "%v", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, 65<<20))
		if err != nil {
			return err
		}
		d, err := describe(b)
		if err != nil {
			return cli.Usage("it reads pointer records, CA:N:S, N:S, CRLs, deltas, N:C, session and CA certificates (PEM or DER), transcripts of ceremonies", "%s: %v", args[0], err)
		}
		return a.show(d)
	}}
}

// describe tells what b is.
func describe(b []byte) (*description, error) {
	if isTranscript(b) {
		ca, fleet, err := verifyTranscript(b)
		d := &description{what: "transcript of a key ceremony"}
		d.add("fleet", fleet.Pin())
		d.add("ca_key", ca.String())
		d.add("verifies", verdict(err))
		return d, nil
	}
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	switch chancery.Identify(b) {
	case "pointer":
		p, err := chancery.ParsePointer(b)
		if err != nil {
			return nil, err
		}
		return describePointer(p), nil
	case "ca-n-s":
		c, err := chancery.ParseCANS(b)
		if err != nil {
			return nil, err
		}
		d := &description{what: "CA:N:S"}
		d.add("node_key", c.NodeKey.String())
		d.add("node_id", c.NodeID.String())
		d.add("intake", c.IntakeID.String())
		d.add("issued", stamp(c.Issued))
		d.add("expires", stamp(c.Expires))
		d.add("batch", fmt.Sprintf("answer %d of %d", c.Index+1, c.Size))
		return d, nil
	case "n-s":
		n, err := chancery.ParseNS(b)
		if err != nil {
			return nil, err
		}
		d := &description{what: "N:S"}
		d.add("name", n.Name)
		d.add("fleet", n.Fleet.Pin())
		d.add("node_key", n.NodeKey.String())
		d.add("created", stamp(n.Created))
		d.add("answers_ca_n_s", fmt.Sprintf("sha256:%x", n.CANSHash))
		d.add("verifies", verdict(n.Verify(n.Fleet)))
		return d, nil
	case "crl":
		c, err := chancery.RestoreCRL(b)
		if err != nil {
			return nil, err
		}
		return describeCRL(c, len(b)), nil
	case "crl-delta":
		base, h, err := chancery.ParseDeltaHead(b)
		if err != nil {
			return nil, err
		}
		d := &description{what: "CRL delta"}
		d.add("from", base)
		describeHead(d, h)
		return d, nil
	case "crl-head":
		h, err := chancery.ParseCRLHead(b)
		if err != nil {
			return nil, err
		}
		d := &description{what: "CRL head"}
		describeHead(d, h)
		return d, nil
	case "anchor":
		a, err := chancery.ParseAnchor(b)
		if err != nil {
			return nil, err
		}
		d := &description{what: "anchor of a node"}
		d.add("counter", a.Counter)
		d.add("pointer", a.Pointer)
		d.add("crl", a.CRL)
		d.add("at", stamp(a.At))
		return d, nil
	}
	return describeCertificate(b)
}

func describeCertificate(der []byte) (*description, error) {
	if ca, err := merkle.ParseCA(der); err == nil {
		d := &description{what: "Merkle Tree CA certificate"}
		d.add("ca_id", ca.ID.String())
		d.add("serials", fmt.Sprintf("%s to %s", ca.MinSerial, ca.MaxSerial))
		d.add("not_before", stamp(ca.NotBefore))
		d.add("not_after", stamp(ca.NotAfter))
		return d, nil
	}
	m, err := merkle.ParseCertificate(der)
	if errors.Is(err, merkle.ErrNotMTC) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		d := &description{what: "X.509 certificate"}
		d.add("subject", c.Subject.String())
		d.add("issuer", c.Issuer.String())
		d.add("not_before", stamp(c.NotBefore))
		d.add("not_after", stamp(c.NotAfter))
		return d, nil
	}
	if err != nil {
		return nil, err
	}
	d := &description{what: "Merkle Tree Certificate"}
	d.add("ca_id", m.Issuer.String())
	d.add("serial", m.Serial.String())
	d.add("not_before", stamp(m.NotBefore))
	d.add("not_after", stamp(m.NotAfter))
	d.add("subtree", m.Proof.Subtree.String())
	d.add("proof", fmt.Sprintf("%d hashes, %d signatures", len(m.Proof.Inclusion), len(m.Proof.Signatures)))
	c, err := chancery.ParseCertificate(bytes.Clone(der))
	if err != nil {
		d.add("is_n_c", verdict(err))
		return d, nil
	}
	d.what = "N:C, node certificate"
	d.add("name", c.Name)
	d.add("spiffe_id", c.SPIFFEID())
	d.add("node_key", c.NodeKey.String())
	d.add("roles", strings.Join(c.Roles, ", "))
	d.add("assurance", c.Assurance.Level.String()+simulated(c.Assurance.Simulator))
	d.add("n_s_created", stamp(c.NS.Created))
	return d, nil
}
