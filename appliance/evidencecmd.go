package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/appliance/secondopinion"
	"github.com/chancery-pki/chancery/internal/cli"
)

// An evidenceResult is what node evidence prints with -o json.
type evidenceResult struct {
	*evidence.Report
	SecondOpinion *secondOpinion   `json:"second_opinion,omitempty" doc:"with --second-opinion"`
	Record        *evidence.Record `json:"record"`
}

type secondOpinion struct {
	By     string `json:"by"`
	Agrees bool   `json:"agrees"`
	Reason string `json:"reason,omitempty" doc:"why it does not"`
}

func (a *app) evidenceCommand() *cobra.Command {
	var serial, file, out, pointer string
	var second bool
	c := &cobra.Command{Use: "evidence [NAME]", Short: "Verify on what a node's certificate rests", Long: `evidence takes the record of an enrolment, or of a renewal, and verifies it link by
link: the chip's maker, that the chip holds the keys and made N:SK itself, what it
is sealed to, and that N:C certifies that and no more. It believes the pointer
record and the EK roots of the data directory, and nothing that the coordinator
says.

The record is taken from the running coordinator, or with --file from a file that
--out has written: then no coordinator is needed. The exit code is 5 if a link does
not hold.`, Args: cobra.MaximumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if (len(args) == 1) == (file != "") {
			return cli.Usage("usage: "+c.UseLine(), "name a node, or a file with --file")
		}
		trust, err := a.evidenceTrust(pointer)
		if err != nil {
			return err
		}
		r := evidenceResult{Record: &evidence.Record{}}
		if file != "" {
			err = readRecord(file, r.Record)
		} else {
			err = a.call(c.Context(), "GET", "/v1/nodes/"+url.PathEscape(args[0])+"/evidence?serial="+url.QueryEscape(serial), nil, r.Record)
		}
		if err != nil {
			return err
		}
		if out != "" {
			if err := writeRecord(out, r.Record); err != nil {
				return err
			}
		}
		r.Report = r.Record.Verify(trust)
		if second {
			r.SecondOpinion = judgeAgain(r.Record)
		}
		if err := a.out.Print(r, func(w io.Writer) { printEvidence(w, &r) }); err != nil {
			return err
		}
		switch {
		case !r.Holds:
			broken := r.Links[len(r.Links)-1]
			return cli.WithCode(cli.ExitRefused, fmt.Errorf("the evidence does not hold: %s: %s", broken.Name, broken.What))
		case r.SecondOpinion != nil && !r.SecondOpinion.Agrees:
			return &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("the second opinion differs: %s", r.SecondOpinion.Reason), Tip: "one of the two implementations is wrong; report it with the record (--out)"}
		}
		return nil
	}}
	c.Flags().StringVar(&serial, "serial", "", "serial number of one of its certificates (default: the last)")
	c.Flags().StringVar(&file, "file", "", "take the record from a file")
	c.Flags().StringVar(&out, "out", "", "write the record to a file")
	c.Flags().StringVar(&pointer, "pointer", "", "pointer record to judge by (default: that of the data directory)")
	c.Flags().BoolVar(&second, "second-opinion", false, "have go-tpm-tools judge the quote and the event log too")
	return c
}

// evidenceTrust is what a record is judged by: no coordinator is asked.
func (a *app) evidenceTrust(pointer string) (t evidence.Trust, err error) {
	if pointer == "" {
		pointer = a.data.pointer()
	}
	b, err := os.ReadFile(pointer)
	if err != nil {
		return t, cli.Usage("name the pointer record with --pointer, or the data directory with --data", "%v", err)
	}
	if t.Pointer, err = chancery.ParsePointer(b); err != nil {
		return t, cli.Usage("", "%s: %v", pointer, err)
	}
	if err := t.Pointer.Verify(t.Pointer.FleetID()); err != nil {
		return t, cli.WithCode(cli.ExitRefused, err)
	}
	config, err := a.data.loadConfig()
	if err != nil { // an auditor's machine
		config = defaultConfig()
	}
	t.Roots, err = a.roots(&config)
	return t, err
}

// maxRecord is above a record with the longest event log.
const maxRecord = 4 << 20

func readRecord(file string, r *evidence.Record) error {
	f, err := os.Open(file)
	if err != nil {
		return cli.Usage("", "%v", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err == nil && len(b) > maxRecord {
		err = fmt.Errorf("longer than %d bytes", maxRecord)
	}
	if err == nil {
		err = json.Unmarshal(b, r)
	}
	if err != nil {
		return cli.Usage("use a file that chancery node evidence --out wrote", "%s: %v", file, err)
	}
	return nil
}

func writeRecord(file string, r *evidence.Record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return cli.Usage("choose another file", "%v", err)
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

func judgeAgain(r *evidence.Record) *secondOpinion {
	s := &secondOpinion{By: "go-tpm-tools"}
	err := func() error {
		if r.Submission == nil || r.Connection == nil || r.Submission.Quote == nil {
			return errors.New("there is no quote to judge")
		}
		cans, err := chancery.ParseCANS(r.Submission.CANS)
		if err != nil {
			return err
		}
		return secondopinion.Judge(r.Connection.AKPublic, cans.Hash(), r.Submission.Quote, r.Submission.EventLog)
	}()
	if s.Agrees = err == nil; err != nil {
		s.Reason = err.Error()
	}
	return s
}

func printEvidence(w io.Writer, r *evidenceResult) {
	for _, l := range r.Links {
		fmt.Fprintf(w, "%-4s %-14s %s\n", map[bool]string{true: "ok", false: "NO"}[l.Holds], l.Name, l.What)
	}
	if s := r.SecondOpinion; s != nil {
		fmt.Fprintf(w, "%-4s %-14s %s\n", map[bool]string{true: "ok", false: "NO"}[s.Agrees], "second opinion", s.By+map[bool]string{true: " agrees with the quote and the event log", false: ": " + s.Reason}[s.Agrees])
	}
	if r.Record.Rule != "" {
		fmt.Fprintf(w, "decided by the rule %q of the policy sha256:%.16s\n", r.Record.Rule, r.Record.Policy)
	}
}
