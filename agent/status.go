package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/run"
	"github.com/chancery-pki/chancery/internal/cli"
)

func statusCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "certificate, CRL, sessions, TPM; exit code 3 if something needs attention",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := f.look()
			if err != nil {
				return err
			}
			defer dir.Close()
			client := run.Connect(dir)
			defer client.Close()
			s, err := client.Status(c.Context())
			if _, ok := errors.AsType[*run.NotRunningError](err); ok {
				s, err = run.Offline(dir, time.Now())
			}
			if err != nil {
				return err
			}
			if err := f.output.Print(s, func(w io.Writer) { printStatus(w, s) }); err != nil {
				return err
			}
			if len(s.Problems) > 0 {
				return &cli.Error{Code: cli.ExitDegraded, Err: fmt.Errorf("%s needs attention: %d problems, see above", s.Node, len(s.Problems))}
			}
			return nil
		},
	}
}

func printStatus(w io.Writer, s *run.Status) {
	line := func(what, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", what, fmt.Sprintf(format, args...))
	}
	running := "running, listening at " + s.Listen
	if !s.Running {
		running = "not running"
	}
	line("node", "%s (%s)", s.Node, running)
	line("node id", "%s", s.NodeID)
	line("fleet", "%s, %s", s.Fleet, s.TrustDomain)
	line("certificate", "serial %s, assurance %s, until %s", s.Certificate.Serial, join.Assurance(s.Certificate.Assurance, s.Certificate.Simulator), s.Certificate.NotAfter.Format(time.RFC3339))
	if s.Session != nil {
		line("session", "certificate until %s", s.Session.NotAfter.Format(time.RFC3339))
	}
	line("pointer", "record %d, until %s", s.Pointer.Seq, s.Pointer.Expires.Format(time.RFC3339))
	if c := s.CRL; c != nil {
		line("CRL", "number %d, %d revoked, %s old, good until %s", c.Number, c.Revoked, time.Duration(c.AgeSeconds)*time.Second, c.NextUpdate.Format(time.RFC3339))
	}
	if a := s.Anchor; a != nil {
		line("anchor", "pointer record %d and CRL %d, at %d, since %s", a.Pointer, a.CRL, a.Counter, a.At.Format(time.RFC3339))
	}
	line("TPM", "%s %s %s", s.TPM.Device, s.TPM.Chip, s.TPM.State)
	for _, l := range s.Sessions {
		direction := "dialled"
		if l.Inbound {
			direction = "accepted"
		}
		line("peer", "%s, serial %s, %s, %s, since %s", l.Peer, l.Serial, direction, l.Remote, l.Opened.Format(time.RFC3339))
	}
	for _, topic := range s.Topics() {
		line("problem", "%s: %s", topic, s.Problems[topic])
	}
}
