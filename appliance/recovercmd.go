package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
)

func (a *app) recoverCommand() *cobra.Command {
	var in recoverInput
	var yes bool
	c := &cobra.Command{
		Use:   "recover --crl FILE",
		Short: "Go on with an older copy of the database, because the newest one is lost",
		Long: `Recover is for a coordinator that refuses to start because its database is an older
copy. If the newest database is anywhere, put that back instead.

The file is the newest CRL that any node has: the file crl in the state directory of
its agent. Everything that it names stays revoked, and the nodes whose certificates
the database had as good are held until an operator has looked (chancery node release).
What was issued after the copy was made, nobody can answer for any more: it is revoked,
and those nodes enrol anew. The log ends, and a new one begins under the next pointer
record. What operators did since is missing in the audit log, and whoever followed it
will say so. The coordinator must not be running.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.recover(c.Context(), &in, yes) },
	}
	c.Flags().StringVar(&in.crl, "crl", "", "the newest CRL that any node has: the file crl in its state directory")
	c.Flags().StringVar(&in.pointer, "pointer", "", "the newest pointer record that any node has, if the database does not have it")
	c.Flags().Uint64Var(&in.without, "without", 0, "no node has a list up to this number: what those revoked has to be revoked again by hand")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.MarkFlagRequired("crl")
	return c
}

// A recoverInput is what an operator found on nodes.
type recoverInput struct {
	crl, pointer string // files
	without      uint64
}

func (a *app) recover(ctx context.Context, in *recoverInput, yes bool) (err error) {
	o, err := a.openOffice(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	r, err := o.recovery(ctx, in)
	if err != nil {
		return err
	}
	head := r.Newest.Head()
	if !yes {
		what := fmt.Sprintf("go on from CRL %d of %s, with %d revoked, and revoke whatever this database does not have", head.Number, stamp(head.ThisUpdate), r.Newest.Revoked())
		if err := confirm(ctx, what); err != nil {
			return err
		}
	}
	tokens, err := openTokens(ctx, &o.config, r.Held.FleetID(), a.data.latch(), a.logger(), map[string]chancery.PublicKey{keyCA: r.Held.Current().Key})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tokens.Close()) }()
	ca, err := tokens.Key(keyCA)
	if err != nil {
		return err
	}
	r.Next = ledger.Draft(r.Held, r.Now)
	if r.Next.Signature, err = ca.Sign(ctx, r.Held.FleetID(), r.Next); err != nil {
		return err
	}
	var done *ledger.Recovered
	details := []chancery.AuditDetail{{Name: "log", Value: strconv.Itoa(int(r.Next.Current().Log()))}, {Name: "pointer", Value: strconv.FormatUint(r.Next.Seq, 10)}}
	if in.without > head.Number {
		details = append(details, chancery.AuditDetail{Name: "without", Value: strconv.FormatUint(in.without, 10)})
	}
	err = o.act(ctx, "database.recover", "CRL "+strconv.FormatUint(head.Number, 10), details, func(tx *store.Tx) (err error) {
		done, err = r.Recover(tx)
		return err
	})
	if err != nil {
		return err
	}
	// A crash before the anchor is there makes the next start refuse, and this
	// is done once more.
	o.pointer = r.Next
	if err := durable.WriteFile(a.data.pointer(), r.Next.Marshal()); err != nil {
		return err
	}
	mark, err := o.mark(ctx)
	if err != nil {
		return err
	}
	if err := o.place.Save(mark); err != nil {
		return err
	}
	return a.out.Print(done, func(w io.Writer) {
		fmt.Fprintf(w, "recovered: CRL %d, pointer record %d, log %d\n", done.CRL, done.Pointer, done.Log)
		fmt.Fprintf(w, "  %d certificates are revoked that the database had as good, %d nodes held\n", done.Revoked, done.Held)
		fmt.Fprintf(w, "  %d entries that the list counts are lost, and revoked; nodes that the database does not have enrol anew\n", done.Lost)
		fmt.Fprintln(w, "next: chancery serve; then look at the nodes that are held: chancery node list")
	})
}

// recovery reads what nodes have, and refuses what is not the newest that
// anybody knows of.
func (o *office) recovery(ctx context.Context, in *recoverInput) (*ledger.Recovery, error) {
	r := &ledger.Recovery{Held: o.pointer, Operator: api.UserName(os.Getuid()), Now: time.Now()}
	fleet := o.pointer.FleetID()
	if in.pointer != "" {
		b, err := os.ReadFile(in.pointer)
		if err != nil {
			return nil, cli.Usage("", "%w", err)
		}
		if r.Held, err = chancery.ParsePointer(b); err == nil {
			err = chancery.AcceptPointer(fleet, o.pointer, r.Held, r.Now)
		}
		if err != nil {
			return nil, cli.Failure("", "%s: %w", in.pointer, err)
		}
	}
	b, err := os.ReadFile(in.crl)
	if err != nil {
		return nil, cli.Usage("", "%w", err)
	}
	if r.Newest, err = chancery.OpenCRL(r.Held, nil, b, r.Now); err != nil {
		return nil, cli.Failure("it is the file crl in the state directory of an agent of this fleet", "%s: %w", in.crl, err)
	}
	have, err := o.mark(ctx)
	if err != nil {
		return nil, err
	}
	alarm, err := o.alarm(ctx)
	if err != nil {
		return nil, err
	}
	_, isBehind := errors.AsType[*anchor.BehindError](anchor.Compare(o.place, have))
	if !isBehind && (alarm == nil || alarm.Kind != ledger.AlarmBehind) {
		return nil, cli.WithCode(cli.ExitRefused, errors.New("nothing says that this database is an older copy; nothing was changed"))
	}
	least := have.CRL
	leastPointer := have.Pointer
	if isBehind {
		mark, err := o.place.Load()
		if err != nil {
			return nil, err
		}
		least, leastPointer = max(least, mark.CRL), max(leastPointer, mark.Pointer)
	}
	if alarm != nil {
		_, shown := alarm.Numbers()
		if alarm.What == ledger.AlarmPointer {
			leastPointer = max(leastPointer, shown)
		} else {
			least = max(least, shown)
		}
	}
	if n := r.Newest.Head().Number; n < least && in.without != least {
		return nil, cli.Failure(fmt.Sprintf("find the node that has it: chancery-agent status. If none has it, and you know what was revoked since %s: --without %d", stamp(r.Newest.Head().ThisUpdate), least),
			"%s is CRL %d, and there was number %d: what that one revoked would come back", in.crl, n, least)
	}
	if r.Held.Seq < leastPointer {
		return nil, cli.Failure("give the file pointer in the state directory of a node that has it with --pointer", "the database has pointer record %d, and there is number %d", r.Held.Seq, leastPointer)
	}
	return r, nil
}
