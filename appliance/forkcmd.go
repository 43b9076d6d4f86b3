package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/internal/cli"
)

func (a *app) forkCommand() *cobra.Command {
	c := &cobra.Command{Use: "fork", Short: "What a node holds and this coordinator does not have"}
	show := &cobra.Command{
		Use:   "show",
		Short: "Show both sides of the alarm that stopped the coordinator; exit code 3 if there is one",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return a.showFork(c.Context()) },
	}
	var yes bool
	clear := &cobra.Command{
		Use:   "clear",
		Short: "End the alarm, once the other coordinator is stopped",
		Long: `Clear lets the coordinator sign again, after two of one number. What nodes hold of
the other one they keep until the next list but one, and each has an alarm of its
own: chancery-agent fork clear. A database that is behind is not cleared: see
chancery recover.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.clearFork(c.Context(), yes) },
	}
	clear.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.AddCommand(show, clear)
	return c
}

// stopped returns the alarm that keeps the coordinator of the data directory
// from running, if that is why it does not. It must not take the directory:
// somebody may be starting the coordinator.
func (a *app) stopped(ctx context.Context) error {
	st, err := store.Look(a.data.store())
	if err != nil {
		return nil // who starts it is told
	}
	defer st.Close()
	o := &office{store: st}
	alarm, err := o.alarm(ctx)
	if err != nil || alarm == nil {
		return nil
	}
	return cli.WithCode(cli.ExitDegraded, alarm)
}

func (o *office) alarm(ctx context.Context) (alarm *ledger.Alarm, err error) {
	err = o.store.View(ctx, func(tx *store.Tx) (err error) {
		alarm, err = ledger.StoredAlarm(tx)
		return err
	})
	return alarm, err
}

func (a *app) showFork(ctx context.Context) (err error) {
	o, err := a.openOffice(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	alarm, err := o.alarm(ctx)
	if err != nil {
		return err
	}
	if alarm == nil {
		return a.out.Print([]struct{}{}, func(w io.Writer) { fmt.Fprintln(w, "there is no alarm") })
	}
	var own, shown *description
	if own, err = describe(alarm.Own); err == nil {
		shown, err = describe(alarm.Shown)
	}
	if err != nil {
		return err
	}
	type sides struct {
		*ledger.Alarm
		Message string `json:"message"`
	}
	if a.out == cli.JSON {
		err = a.out.Print([]sides{{alarm, alarm.Error()}}, nil)
	} else {
		for _, side := range []struct {
			name string
			*description
		}{{"this coordinator has", own}, {"a node has shown", shown}} {
			side.what = side.name + ": " + side.what
			err = errors.Join(err, a.show(side.description))
		}
	}
	return errors.Join(err, cli.WithCode(cli.ExitDegraded, alarm))
}

func (a *app) clearFork(ctx context.Context, yes bool) (err error) {
	o, err := a.openOffice(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	alarm, err := o.alarm(ctx)
	if err != nil {
		return err
	}
	switch {
	case alarm == nil:
		return a.out.Print(struct{}{}, func(w io.Writer) { fmt.Fprintln(w, "there was nothing to clear") })
	case alarm.Kind != ledger.AlarmFork:
		return alarm
	}
	if !yes {
		if err := confirm(ctx, "let this coordinator sign again, although "+alarm.Error()); err != nil {
			return err
		}
	}
	_, number := alarm.Numbers()
	details := []chancery.AuditDetail{{Name: "number", Value: strconv.FormatUint(number, 10)}}
	if err := o.act(ctx, "fork.clear", string(alarm.What), details, ledger.ClearAlarm); err != nil {
		return err
	}
	return a.out.Print(struct{}{}, func(w io.Writer) { fmt.Fprintln(w, "cleared") })
}
