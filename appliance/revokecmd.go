package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/internal/cli"
)

// A revokeCommand is chancery node revoke or chancery cert revoke: what they
// take is all that is different.
type revokeCommand struct {
	app        *app
	query      api.RevokeQuery
	code, list string
	yes        bool
}

const revokeList = `

--list reads one a line, from a file or with - from standard input: the first
column of a CSV or the whole line; what follows a # is left out. A list may be
as long as it wants. If anything in it names nothing, that is said with its line
and nothing is changed, unless --ignore-unknown says to go on without.

What is revoked already is counted and is no error, so that a command that was
interrupted can be repeated: what it had revoked stays revoked, is in the next
CRL, and in the audit log.

Exit codes: 0 revoked, or there was nothing left to revoke; 1 nothing was
changed; 2 a line of the list is not what it should be; 5 the one that was named
is revoked already.`

func (a *app) revokeCommand(scope authority.Scope) *cobra.Command {
	r := &revokeCommand{app: a, query: api.RevokeQuery{Scope: scope}}
	c := &cobra.Command{
		Use:   "revoke NAME|node:NODE_ID|ek:SHA256...",
		Short: "Revoke a node, or many, with all of their certificates",
		Long: `revoke revokes nodes with all of their certificates, for ever, and publishes the
CRL that says so. A node is named by its name, by its node_id, or by the SHA-256
of its chip's endorsement key as chancery node show prints it. A node that is
revoked, and its chip, do not get back in.` + revokeList,
	}
	if scope == authority.Certificates {
		c.Use, c.Short = "revoke SERIAL|SERIAL-SERIAL...", "Revoke a certificate, or many"
		c.Long = `revoke revokes certificates, for ever, and publishes the CRL that says so. Their
nodes may renew. A certificate is named by its serial number as in 1:42, and a
batch by the first and the last as in 1:100-1:199.` + revokeList
	}
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error { return r.run(c.Context(), args) }
	c.Flags().StringVar(&r.query.Reason, "reason", "", "why, for the record")
	c.Flags().StringVar(&r.code, "reason-code", chancery.ReasonUnspecified.String(), "why, for software that reads X.509 CRLs: "+reasonCodes())
	c.Flags().StringVar(&r.list, "list", "", "file with a list, - for standard input")
	c.Flags().BoolVar(&r.query.DryRun, "dry-run", false, "tell what would be revoked, and change nothing")
	c.Flags().BoolVar(&r.query.IgnoreUnknown, "ignore-unknown", false, "go on without those that name nothing")
	c.Flags().BoolVar(&r.yes, "yes", false, "do not ask")
	return c
}

func reasonCodes() string {
	var names []string
	for _, r := range chancery.ReasonCodes() {
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}

func (r *revokeCommand) run(ctx context.Context, args []string) error {
	var err error
	if r.query.Code, err = chancery.ParseReasonCode(r.code); err != nil {
		return cli.Usage("reasons are "+reasonCodes(), "--reason-code: %v", err)
	}
	list, err := r.selectors(args)
	if err != nil {
		return err
	}
	defer list.close()
	single := ""
	if len(args) == 1 {
		single = args[0]
	}
	// A single one that is unknown is refused with nothing changed; of several,
	// the others might be revoked by then.
	if r.query.DryRun || !r.yes || single == "" && !r.query.IgnoreUnknown {
		dry := r.query
		dry.DryRun = true
		would, err := r.send(ctx, &dry, list)
		if err != nil {
			return err
		}
		if done, err := r.look(would, single); done || err != nil {
			return err
		}
		if !r.yes {
			if err := r.confirm(ctx, would, single); err != nil {
				return err
			}
		}
	}
	out, err := r.send(ctx, &r.query, list)
	if err != nil {
		return err
	}
	return r.report(out, single)
}

// look says what a dry run found. done is that there is no more to do.
func (r *revokeCommand) look(would *api.RevokeOutput, single string) (done bool, err error) {
	missing := would.Unknown > 0 && !r.query.IgnoreUnknown
	if r.query.DryRun {
		if err := r.app.out.Print(would, func(w io.Writer) { printWould(w, would) }); err != nil {
			return true, err
		}
	}
	switch {
	case missing:
		return true, unknownError(r.query.Scope, would, single)
	case would.Selectors == 0:
		return true, cli.Usage("one selector in a line", "%s names nothing", r.list)
	}
	return r.query.DryRun, nil
}

func unknownError(scope authority.Scope, would *api.RevokeOutput, single string) error {
	if single != "" {
		sel, err := authority.ParseSelector(scope, single)
		return errors.Join(err, cli.Failure("", "%s", sel.Missing()))
	}
	const some = 20
	var b strings.Builder
	for _, m := range would.NotFound[:min(some, len(would.NotFound))] {
		fmt.Fprintf(&b, "\nline %d: %s", m.Line, m.Selector)
	}
	if would.Unknown > some {
		fmt.Fprintf(&b, "\nand %d more", would.Unknown-some)
	}
	return cli.Failure("--ignore-unknown revokes the others", "%d of %d name nothing; nothing was changed%s", would.Unknown, would.Selectors, &b)
}

func (r *revokeCommand) confirm(ctx context.Context, would *api.RevokeOutput, single string) error {
	if would.Nodes+would.Certificates == 0 {
		return nil // nothing will happen
	}
	what := "revoke " + amount(would) + ", for ever"
	switch {
	case single != "" && would.Nodes == 1:
		what = fmt.Sprintf("revoke %s with all of its certificates, for ever", single)
	case single != "" && would.Nodes == 0 && would.Certificates == 1:
		what = fmt.Sprintf("revoke certificate %s, for ever; its node may renew", single)
	case would.Nodes == 0:
		what += "; their nodes may renew"
	}
	if r.list != "-" {
		return confirm(ctx, what)
	}
	// The list is on standard input.
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return cli.Failure("--yes does not ask", "this would %s, and there is no terminal to ask on; nothing was changed", what)
	}
	defer tty.Close()
	return cli.Confirm(ctx, tty, what)
}

func amount(o *api.RevokeOutput) string {
	if o.Nodes == 0 {
		return fmt.Sprintf("%d certificates", o.Certificates)
	}
	return fmt.Sprintf("%d nodes with %d certificates", o.Nodes, o.Certificates)
}

func printWould(w io.Writer, o *api.RevokeOutput) {
	fmt.Fprintf(w, "would revoke %s; nothing was changed\n", amount(o))
	printRest(w, o)
	if len(o.First) > 0 {
		fmt.Fprintf(w, "the first %d:\n", len(o.First))
		table(w, "LINE\tSELECTOR\tNODE\tNODE ID\tREVOKED", func(row func(...any)) {
			for _, f := range o.First {
				row(f.Line, f.Selector, f.Name, f.NodeID, f.Revoked)
			}
		})
	}
}

func printRest(w io.Writer, o *api.RevokeOutput) {
	for _, rest := range []struct {
		n    uint64
		what string
	}{{o.Already, "had been revoked before"}, {o.Expired, "have expired; no list has to name them any more"}, {o.Unknown, "name nothing"}} {
		if rest.n > 0 {
			fmt.Fprintf(w, "%d %s\n", rest.n, rest.what)
		}
	}
}

// report says what was done.
func (r *revokeCommand) report(o *api.RevokeOutput, single string) error {
	nothing := o.Nodes+o.Certificates == 0
	if single != "" && nothing && o.Already == 1 && len(o.First) > 0 {
		if r.query.Scope == authority.Certificates {
			single = "certificate " + single
		}
		return cli.WithCode(cli.ExitRefused, fmt.Errorf("%s was revoked %s already", single, o.First[0].Revoked.Format(time.RFC3339)))
	}
	return r.app.out.Print(o, func(w io.Writer) {
		switch {
		case nothing:
			fmt.Fprintln(w, "nothing was left to revoke")
		case single != "" && o.Nodes <= 1:
			fmt.Fprintf(w, "revoked %s: %d certificates, in CRL number %d\n", single, o.Certificates, o.CRL)
		default:
			fmt.Fprintf(w, "revoked %s, in CRL number %d\n", amount(o), o.CRL)
		}
		printRest(w, o)
	})
}

// A spool is a list that can be read more than once.
type spool struct {
	io.ReaderAt
	size  int64
	lines uint64
	close func() error
}

// selectors collects what is to be revoked. A list goes to a file, which has no
// name any more: it may be long.
func (r *revokeCommand) selectors(args []string) (*spool, error) {
	if len(args) > 0 == (r.list != "") {
		return nil, cli.Usage("see: chancery "+map[authority.Scope]string{authority.Nodes: "node", authority.Certificates: "cert"}[r.query.Scope]+" revoke --help",
			"name what to revoke, or a list of it with --list")
	}
	if r.list == "" {
		for _, s := range args {
			if _, err := authority.ParseSelector(r.query.Scope, s); err != nil {
				return nil, cli.Usage("", "%v", err)
			}
		}
		text := strings.Join(args, "\n")
		return &spool{strings.NewReader(text), int64(len(text)), uint64(len(args)), func() error { return nil }}, nil
	}
	var in io.Reader = os.Stdin
	if r.list != "-" {
		f, err := os.Open(r.list)
		if err != nil {
			return nil, cli.Usage("", "%v", err)
		}
		defer f.Close()
		in = f
	}
	f, err := os.CreateTemp("", "chancery-revoke-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	s := &spool{ReaderAt: f, close: f.Close}
	if s.size, err = io.Copy(io.MultiWriter(f, (*lineCounter)(&s.lines)), in); err != nil {
		f.Close()
		return nil, cli.Usage("", "%s: %v", r.list, err)
	}
	return s, nil
}

type lineCounter uint64

func (c *lineCounter) Write(b []byte) (int, error) {
	*c += lineCounter(bytes.Count(b, []byte("\n")))
	return len(b), nil
}

// send sends the list to the coordinator, and shows how far it is.
func (r *revokeCommand) send(ctx context.Context, q *api.RevokeQuery, list *spool) (*api.RevokeOutput, error) {
	resp, err := r.app.request(ctx, "POST", q.Path(), "text/plain; charset=utf-8", io.NewSectionReader(list, 0, list.size))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	show := cli.NewProgress(os.Stderr)
	defer show.End()
	began := time.Now()
	answer := json.NewDecoder(resp.Body)
	var last api.RevokeProgress
	for {
		var e api.RevokeEvent
		if err := answer.Decode(&e); err != nil {
			return nil, brokenOff(ctx, q, &last, err)
		}
		switch {
		case e.Problem != nil && e.Result != nil && !q.DryRun:
			show.End()
			fmt.Fprintf(os.Stderr, "revoked %s before it broke off\n", amount(e.Result))
			return nil, e.Problem
		case e.Problem != nil:
			return nil, e.Problem
		case e.Result != nil:
			return e.Result, nil
		case e.Progress != nil:
			last = *e.Progress
			show.Show(func() string { return revokeLine(q, &last, list.lines, time.Since(began)) })
		}
	}
}

func revokeLine(q *api.RevokeQuery, p *api.RevokeProgress, lines uint64, took time.Duration) string {
	what := "revoking"
	if q.DryRun {
		what = "looking up"
	}
	per := float64(max(p.Selectors, p.Certificates)) / took.Seconds()
	if lines > 1 {
		what += " " + cli.Bar(p.Selectors, lines)
	}
	return fmt.Sprintf("%s %d of %d, %d certificates, %.0f a second", what, p.Selectors, max(lines, p.Selectors), p.Certificates, per)
}

// brokenOff is what happened when the coordinator's answer has no end.
func brokenOff(ctx context.Context, q *api.RevokeQuery, last *api.RevokeProgress, err error) error {
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the coordinator ended")
	}
	if q.DryRun {
		return cli.Failure("", "%v; nothing was changed", err)
	}
	return cli.Failure("what was revoked stays revoked and is in the next CRL; repeat the command for the rest", "%v after %d selectors", err, last.Selectors)
}
