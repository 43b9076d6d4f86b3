package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/anchor"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
)

// settingAnchored is there once there was an anchor, so that one that is gone is
// missed.
const settingAnchored = "anchored"

// openAnchor compares the database with its anchor, and keeps the anchor from
// then on.
func openAnchor(ctx context.Context, place anchor.Place, st *store.Store, pointer *chancery.Pointer, logger *slog.Logger) (*anchor.Keeper, error) {
	var have *anchor.Mark
	known := true
	err := st.View(ctx, func(tx *store.Tx) (err error) {
		if have, err = ledger.MarkOf(tx, pointer); err != nil {
			return err
		}
		if _, err = tx.Setting(settingAnchored); errors.Is(err, store.ErrNotFound) {
			known, err = false, nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	keeper, err := anchor.Open(place, have, known, logger)
	if err != nil || known {
		return keeper, err
	}
	// After the anchor: a crash in between leaves one that is not expected.
	err = st.Update(ctx, func(tx *store.Tx) error { return tx.SetSetting(settingAnchored, []byte(place.String())) })
	if err != nil {
		keeper.Close()
		return nil, err
	}
	return keeper, nil
}

// An office is a data directory whose coordinator does not run, taken for a
// command that does what no running one may.
type office struct {
	config  Config
	store   *store.Store
	pointer *chancery.Pointer
	place   anchor.Place
	unlock  func()
}

func (a *app) openOffice(ctx context.Context) (o *office, err error) {
	o = &office{}
	if o.config, err = a.data.loadConfig(); err != nil {
		return nil, err
	}
	o.place = a.data.anchor(&o.config)
	if o.unlock, err = a.data.lock(); err != nil {
		return nil, err
	}
	if o.store, err = store.Open(ctx, a.data.store()); err != nil {
		o.unlock()
		return nil, err
	}
	err = o.store.View(ctx, func(tx *store.Tx) (err error) {
		o.pointer, err = tx.Pointer()
		return err
	})
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

func (o *office) close() error {
	defer o.unlock()
	return o.store.Close()
}

// act changes the store, and writes down who did what.
func (o *office) act(ctx context.Context, action, subject string, details []chancery.AuditDetail, f func(tx *store.Tx) error) error {
	return o.store.Update(ctx, func(tx *store.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		return tx.AppendAudit(o.pointer.Current().ID.String(), &chancery.AuditEntry{At: time.Now().UTC().Truncate(time.Second),
			Operator: chancery.AuditText(api.UserName(os.Getuid()), 255), Action: action, Subject: subject, Details: details})
	})
}

// mark tells how far the database has come.
func (o *office) mark(ctx context.Context) (m *anchor.Mark, err error) {
	err = o.store.View(ctx, func(tx *store.Tx) (err error) {
		m, err = ledger.MarkOf(tx, o.pointer)
		return err
	})
	return m, err
}

func (a *app) anchorCommand() *cobra.Command {
	c := &cobra.Command{Use: "anchor", Short: "What is noted outside of the database of how far it has come"}
	var yes bool
	reset := &cobra.Command{
		Use:   "reset",
		Short: "Make a new anchor, because the old one is lost or damaged",
		Long: `Reset anchors the database as it is. It is for an anchor that is lost or damaged,
and only if you know that the database is the newest one: nothing else could tell.
An anchor that can be read and says that the database is behind stays; see
chancery recover. The coordinator must not be running.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.resetAnchor(c.Context(), yes) },
	}
	reset.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.AddCommand(reset)
	return c
}

func (a *app) resetAnchor(ctx context.Context, yes bool) (err error) {
	o, err := a.openOffice(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	have, err := o.mark(ctx)
	if err != nil {
		return err
	}
	damaged := func(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, anchor.ErrDamaged) }
	if err := anchor.Compare(o.place, have); err != nil && !damaged(err) {
		return err
	}
	if !yes {
		if err := confirm(ctx, fmt.Sprintf("take the database as the newest one there is, with CRL %d and %d log entries", have.CRL, have.Size)); err != nil {
			return err
		}
	}
	details := []chancery.AuditDetail{{Name: "crl", Value: strconv.FormatUint(have.CRL, 10)}, {Name: "log-size", Value: strconv.FormatUint(have.Size, 10)}}
	if err := o.act(ctx, "database.anchor", o.place.String(), details, func(*store.Tx) error { return nil }); err != nil {
		return err
	}
	if have, err = o.mark(ctx); err != nil {
		return err
	}
	if err := o.place.Save(have); err != nil {
		return err
	}
	return a.out.Print(map[string]any{"anchor": o.place.String(), "crl": have.CRL, "log_size": have.Size}, func(w io.Writer) {
		fmt.Fprintf(w, "anchored in %s: CRL %d, %d log entries\n", o.place, have.CRL, have.Size)
	})
}
