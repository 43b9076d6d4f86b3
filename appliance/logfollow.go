package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

const followHelp = `follow reads a log from checkpoint to checkpoint and prints each entry that is new.
It believes CA:PK and nothing that it is sent: every entry is under the
checkpoint, and every checkpoint continues the one before. What it has seen is in
the directory --state, and should be on a machine that the coordinator's operators
do not rule.

A log that was rewritten ends it with exit code 5; both checkpoints and what
proves the contradiction are then in the directory.`

// A follower is a run of log follow, or of audit follow.
type follower struct {
	auditor
	app   *app
	dir   auditDir
	once  bool
	every time.Duration
}

func (a *app) followCommand(audit bool) *cobra.Command {
	f := &follower{app: a, auditor: auditor{audit: audit}}
	c := &cobra.Command{Use: "follow [URL]", Short: "Read a log as it grows, and notice if it is rewritten", Long: followHelp, Args: cobra.MaximumNArgs(1),
		Example: `  chancery ` + name(audit) + ` follow https://coordinator:8443 --pin PIN --state /var/lib/auditor`,
		RunE:    func(c *cobra.Command, args []string) error { return f.run(c, args) }}
	f.flags(c)
	c.Flags().StringVar((*string)(&f.dir), "state", "", "directory of what was seen (required)")
	c.Flags().BoolVar(&f.once, "once", false, "stop at the newest checkpoint")
	c.Flags().DurationVar(&f.every, "every", 10*time.Second, "how often to look")
	c.MarkFlagRequired("state")
	return c
}

func name(audit bool) string {
	if audit {
		return "audit"
	}
	return "log"
}

func (f *follower) run(c *cobra.Command, args []string) error {
	if f.every < time.Second {
		return cli.Usage("", "--every %s is less than a second", f.every)
	}
	if err := os.MkdirAll(string(f.dir), 0o700); err != nil {
		return cli.Usage("", "--state: %w", err)
	}
	var last *tlog.Follower
	for {
		err := f.look(c.Context(), args, &last)
		if fork, ok := errors.AsType[*tlog.ForkError](err); ok {
			return f.accuse(fork)
		}
		if _, ok := errors.AsType[*tlog.RollbackError](err); ok {
			return cli.WithCode(cli.ExitRefused, err)
		}
		if f.once || final(err) {
			return err
		}
		if err != nil {
			fmt.Fprintf(c.ErrOrStderr(), "%s: %v\n", time.Now().UTC().Format(time.RFC3339), err)
		}
		select {
		case <-time.After(f.every):
		case <-c.Context().Done():
			return nil
		}
	}
}

// final tells an error that another look will not change.
func final(err error) bool {
	e, ok := errors.AsType[*cli.Error](err)
	return ok && (e.Code == cli.ExitUsage || e.Code == cli.ExitRefused)
}

// look goes on to the newest checkpoint.
func (f *follower) look(ctx context.Context, args []string, last **tlog.Follower) error {
	stored, err := f.dir.pointer()
	if err != nil {
		return cli.WithCode(cli.ExitUsage, err)
	}
	if err := f.open(ctx, f.app, args, stored); err != nil {
		return err
	}
	if err := f.dir.write("pointer", f.pointer.Marshal()); err != nil {
		return err
	}
	l, policy, reader, err := f.source()
	if err != nil {
		return err
	}
	// A CA key that took over has logs of its own.
	prefix := name(f.audit) + "-" + f.pointer.Current().ID.String()
	if *last == nil || (*last).Last() != nil && (*last).Last().Origin != l.Origin {
		state, err := f.dir.read(prefix + ".checkpoint")
		if err == nil {
			*last, err = tlog.NewFollower(policy, state, nil)
		}
		if err != nil {
			return cli.Usage("start with another directory, and find out who changed this one", "%s: %w", f.dir.file(prefix+".checkpoint"), err)
		}
	}
	note, err := reader.ReadCheckpoint(ctx)
	if err != nil {
		return err
	}
	tree, err := (*last).Advance(ctx, reader, note)
	if err != nil {
		return err
	}
	if err := f.dir.write(prefix+".checkpoint", (*last).State()); err != nil {
		return err
	}
	return f.tell(ctx, prefix+".told", tree)
}

// tell prints the entries that were not printed. Killed, it prints some again
// the next time and leaves none out.
func (f *follower) tell(ctx context.Context, file string, tree *tlog.Tree) error {
	b, err := f.dir.read(file)
	if err != nil {
		return err
	}
	var told uint64
	if b != nil {
		if told, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 63); err != nil || told > tree.Size() {
			return cli.Usage("remove it, and all entries are told again", "%s says %q", f.dir.file(file), b)
		}
	}
	from := told
	for entry, err := range tree.Entries(ctx, told, tree.Size()) {
		if err == nil {
			err = f.print(told, entry)
		}
		if err != nil {
			return err
		}
		told++
	}
	if told == from {
		return nil
	}
	return f.dir.write(file, fmt.Appendln(nil, told))
}

// A loggedCertificate is an entry of the issuance log as log follow prints it
// with -o json, one in a line.
type loggedCertificate struct {
	Serial    string    `json:"serial"`
	Name      string    `json:"name"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Key       string    `json:"key" doc:"SHA-256 over N:PK's SubjectPublicKeyInfo, hexadecimal"`
}

// A loggedDeed is an entry of the audit log.
type loggedDeed struct {
	Index    uint64            `json:"index"`
	At       time.Time         `json:"at"`
	Operator string            `json:"operator"`
	Action   string            `json:"action"`
	Subject  string            `json:"subject"`
	Details  map[string]string `json:"details"`
}

func (f *follower) print(index uint64, entry []byte) error {
	v, text, err := f.describe(index, entry)
	if err != nil {
		return cli.WithCode(cli.ExitRefused, fmt.Errorf("entry %d: %w", index, err))
	}
	if f.app.out == cli.JSON {
		return json.NewEncoder(os.Stdout).Encode(v)
	}
	_, err = fmt.Println(text)
	return err
}

func (f *follower) describe(index uint64, entry []byte) (v any, text string, err error) {
	if f.audit {
		e, err := chancery.ParseAuditEntry(entry)
		if err != nil {
			return nil, "", err
		}
		d := loggedDeed{index, e.At, e.Operator, e.Action, e.Subject, map[string]string{}}
		text = fmt.Sprintf("%d  %s  %s  %s %s", index, e.At.Format(time.RFC3339), e.Operator, e.Action, e.Subject)
		for _, detail := range e.Details {
			d.Details[detail.Name] = detail.Value
			text += fmt.Sprintf("  %s=%q", detail.Name, detail.Value)
		}
		return d, text, nil
	}
	e, err := merkle.ParseEntry(entry)
	if err != nil {
		return nil, "", err
	}
	serial, err := merkle.NewSerial(f.pointer.Current().Log(), index)
	if err != nil {
		return nil, "", err
	}
	subject := chancery.CommonName(e.RawSubject)
	if subject == "" {
		return nil, "", errors.New("it is no node's certificate")
	}
	c := loggedCertificate{serial.String(), subject, e.NotBefore, e.NotAfter, e.KeyHash.String()}
	return c, fmt.Sprintf("%s  %s  %s to %s  key %s", c.Serial, c.Name, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339), c.Key[:16]), nil
}

// accuse keeps the evidence against a log.
func (f *follower) accuse(fork *tlog.ForkError) error {
	var proof strings.Builder
	fmt.Fprintf(&proof, "root %v\n", fork.Root)
	for _, h := range fork.Proof {
		fmt.Fprintf(&proof, "%v\n", h)
	}
	err := errors.Join(
		f.dir.write("fork-older.checkpoint", fork.Older.Raw),
		f.dir.write("fork-newer.checkpoint", fork.Newer.Raw),
		f.dir.write("fork-proof", []byte(proof.String())),
	)
	return errors.Join(cli.WithCode(cli.ExitRefused, fork), err)
}

// A proofResult is what log prove prints with -o json.
type proofResult struct {
	Serial     string   `json:"serial"`
	Log        string   `json:"log" doc:"origin"`
	Index      uint64   `json:"index"`
	Size       uint64   `json:"size" doc:"of the tree under the checkpoint"`
	Root       string   `json:"root"`
	Leaf       string   `json:"leaf"`
	Path       []string `json:"path" doc:"inclusion proof, from the leaf up (RFC 9162 section 2.1.3)"`
	Checkpoint string   `json:"checkpoint" doc:"the signed note"`
}

func (a *app) proveCommand() *cobra.Command {
	d := &auditor{}
	c := &cobra.Command{Use: "prove SERIAL [URL]", Short: "Prove that a certificate is in the log", Long: `prove fetches what leads from a certificate's entry to the newest checkpoint,
verifies it with nothing but CA:PK, and prints it: a proof that holds wherever
the checkpoint is known.`, Args: cobra.RangeArgs(1, 2), RunE: func(c *cobra.Command, args []string) error {
		serial, err := merkle.ParseSerial(args[0])
		if err != nil {
			return cli.Usage("a serial number is LOG:INDEX, as in 1:42", "%v", err)
		}
		if err := d.open(c.Context(), a, args[1:], nil); err != nil {
			return err
		}
		r, err := d.prove(c.Context(), serial)
		if err != nil {
			return err
		}
		return a.out.Print(r, func(w io.Writer) {
			fmt.Fprintf(w, "%s is entry %d of %s\nleaf  %s\nroot  %s of %d entries\n", r.Serial, r.Index, r.Log, r.Leaf, r.Root, r.Size)
			for _, h := range r.Path {
				fmt.Fprintf(w, "path  %s\n", h)
			}
			fmt.Fprintf(w, "\n%s", r.Checkpoint)
		})
	}}
	d.flags(c)
	return c
}

func (d *auditor) prove(ctx context.Context, serial merkle.Serial) (*proofResult, error) {
	if own := d.pointer.Current().Log(); serial.Log() != own {
		return nil, cli.Failure("", "certificate %s is not in the current log, which is %d", serial, own)
	}
	l, policy, reader, err := d.source()
	if err != nil {
		return nil, err
	}
	note, err := reader.ReadCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	signed, err := policy.Open(note)
	if err != nil {
		return nil, err
	}
	if serial.Index() >= signed.Size {
		return nil, cli.Failure("a certificate is under the checkpoint that follows it; see heartbeat in chancery.toml", "the newest checkpoint has %d entries, certificate %s is not among them", signed.Size, serial)
	}
	tree, err := tlog.Open(ctx, reader, signed.Size, signed.Root, nil)
	if err != nil {
		return nil, err
	}
	whole := merkle.Subtree{End: signed.Size}
	leaf, path, err := tree.Inclusion(ctx, serial.Index(), whole)
	if err != nil {
		return nil, err
	}
	if err := merkle.VerifyInclusion(serial.Index(), whole, leaf, path, signed.Root); err != nil {
		return nil, fmt.Errorf("internal error: the proof does not hold: %w", err)
	}
	r := &proofResult{Serial: serial.String(), Log: l.Origin, Index: serial.Index(), Size: signed.Size, Root: signed.Root.String(), Leaf: leaf.String(), Path: []string{}, Checkpoint: string(note)}
	for _, h := range path {
		r.Path = append(r.Path, h.String())
	}
	return r, nil
}
