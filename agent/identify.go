package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/tpm"
)

// An identity is what identify prints with -o json.
type identity struct {
	Device       string         `json:"device"`
	Manufacturer string         `json:"manufacturer" doc:"TCG vendor identifier"`
	Vendor       string         `json:"vendor"`
	Model        uint32         `json:"model"`
	Firmware     string         `json:"firmware"`
	Simulator    bool           `json:"simulator"`
	EK           string         `json:"ek" doc:"SHA-256 over the endorsement key's SubjectPublicKeyInfo, for allow-lists"`
	Certificate  *ekDescription `json:"ek_certificate,omitempty" doc:"absent if the chip holds none"`
	Weaknesses   []weakness     `json:"weaknesses" doc:"published flaws of the firmware; empty is good"`
}

type ekDescription struct {
	Subject      string `json:"subject"`
	Issuer       string `json:"issuer"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Version      string `json:"version"`
	NotAfter     string `json:"not_after"`
	Chain        int    `json:"chain" doc:"issuers' certificates that the chip carries"`
	DER          []byte `json:"der"`
}

type weakness struct {
	Name   string `json:"name"`
	ID     string `json:"id"`
	What   string `json:"what"`
	Source string `json:"source"`
}

func identifyCommand(f *flags) *cobra.Command {
	var device string
	c := &cobra.Command{
		Use:   "identify",
		Short: "say what the TPM of this machine is, before any coordinator exists",
		Long: `identify says what the TPM of this machine is: vendor, firmware, endorsement key and
its certificate, and whether the firmware has a published flaw that gives keys
away. It makes nothing and needs no coordinator. The exit code is 3 for a flaw.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := identify(device)
			if err != nil {
				return err
			}
			if err := f.output.Print(i, func(w io.Writer) { printIdentity(w, i) }); err != nil {
				return err
			}
			if len(i.Weaknesses) > 0 {
				return &cli.Error{Code: cli.ExitDegraded, Err: errors.New("the firmware of this TPM is known to give keys away"),
					Tip: "update it with the machine's or the board's vendor; keys that it made before are burnt"}
			}
			return nil
		},
	}
	c.Flags().StringVar(&device, "tpm", orDefault(os.Getenv("CHANCERY_TPM"), "/dev/tpmrm0"), "TPM device, or swtpm:/path/to/socket (CHANCERY_TPM)")
	return c
}

func identify(device string) (_ *identity, err error) {
	chip, err := tpm.Open(device)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", join.ErrChip, device, err)
	}
	defer func() { err = errors.Join(err, chip.Close()) }()
	info := chip.Info()
	ek, err := chip.EK()
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", join.ErrChip, device, err)
	}
	digest := sha256.Sum256(ek.SPKI)
	i := &identity{Device: device, Manufacturer: info.Manufacturer, Vendor: info.Vendor, Model: info.Model, Firmware: info.FirmwareVersion(),
		Simulator: info.Simulator, EK: hex.EncodeToString(digest[:]), Weaknesses: []weakness{}}
	for _, w := range info.Weaknesses() {
		i.Weaknesses = append(i.Weaknesses, weakness{w.Name, w.ID, w.What, w.Source})
	}
	if ek.Certificate == nil {
		return i, nil
	}
	cert, err := tpm.ParseEKCertificate(ek.Certificate)
	if err != nil {
		return nil, err
	}
	i.Certificate = &ekDescription{Subject: cert.Cert.Subject.String(), Issuer: cert.Cert.Issuer.String(), Manufacturer: cert.Manufacturer, Model: cert.Model,
		Version: cert.Version, NotAfter: cert.Cert.NotAfter.UTC().Format("2006-01-02"), Chain: len(ek.Chain), DER: ek.Certificate}
	return i, nil
}

func printIdentity(w io.Writer, i *identity) {
	line := func(what, format string, args ...any) {
		fmt.Fprintf(w, "%-14s %s\n", what, fmt.Sprintf(format, args...))
	}
	simulated := ""
	if i.Simulator {
		simulated = " (SIMULATOR: this chip protects nothing)"
	}
	line("device", "%s", i.Device)
	line("TPM", "%s %s%s", i.Manufacturer, i.Vendor, simulated)
	line("firmware", "%s", i.Firmware)
	line("EK", "sha256:%s", i.EK)
	if c := i.Certificate; c == nil {
		line("EK certificate", "none: a coordinator has to know the EK by its digest, or to take a lower assurance")
	} else {
		line("EK certificate", "issued by %s, until %s; certified as %s %s %s", c.Issuer, c.NotAfter, c.Manufacturer, c.Model, c.Version)
	}
	if len(i.Weaknesses) == 0 {
		line("weaknesses", "none that is published and known to this version")
	}
	for _, f := range i.Weaknesses {
		line("WEAK", "%s (%s): %s", f.Name, f.ID, f.What)
		line("", "%s", f.Source)
	}
}
