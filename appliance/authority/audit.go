package authority

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/store"
)

// A deed is what somebody does to the coordinator's state.
type deed struct {
	operator string
	action   string // docs/protocol.md section 5.6
	subject  string
	details  map[string]string
}

// act changes the store and writes down who did what, in one transaction:
// neither is without the other. f may add to the deed.
func (a *Authority) act(ctx context.Context, d *deed, f func(*store.Tx) error) error {
	err := a.Store.Update(ctx, func(tx *store.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		return a.writeDown(tx, d)
	})
	if err == nil {
		d.log(a.Logger)
	}
	return err
}

// writeDown appends a deed to the audit log.
func (a *Authority) writeDown(tx *store.Tx, d *deed) error {
	e := &chancery.AuditEntry{
		At:       a.Now().UTC().Truncate(time.Second),
		Operator: chancery.AuditText(d.operator, 255),
		Action:   d.action,
		Subject:  chancery.AuditText(d.subject, 255),
	}
	for _, name := range slices.Sorted(maps.Keys(d.details)) {
		e.Details = append(e.Details, chancery.AuditDetail{Name: name, Value: chancery.AuditText(d.details[name], 1000)})
	}
	return tx.AppendAudit(a.Ledger.Log().CA, e)
}

func (d *deed) log(l *slog.Logger) {
	args := []any{"action", d.action, "subject", d.subject, "operator", d.operator}
	for _, name := range slices.Sorted(maps.Keys(d.details)) {
		args = append(args, name, d.details[name])
	}
	l.Info("done", args...)
}
