// Package logs says what the logs of a CA key are called and whose signatures
// count under their checkpoints: the issuance logs and the audit log
// (docs/protocol.md sections 5.5 and 5.6), in the terms of package tlog.
package logs

import (
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

// auditType is the type of CA:SK's signatures under checkpoints of the audit
// log: over a chancery.AuditCheckpoint.
const auditType = "github.com/chancery-pki/chancery/audit/v1"

// Where a coordinator has its logs, under the URL of its endpoint.
const (
	AuditPath    = "/audit"
	issuancePath = "/log/"
)

// A Log is a log of a CA key.
type Log struct {
	Origin string
	Path   string    // on a coordinator
	Key    *tlog.Key // CA:PK, as it signs checkpoints of this log
}

// Issuance returns an issuance log of a CA key.
func Issuance(k *chancery.CAKey, number uint16) (Log, error) {
	key, err := tlog.NewCosignerKey(k.ID, k.Key.ECDSA())
	if err != nil {
		return Log{}, fmt.Errorf("logs: %w", err)
	}
	return Log{merkle.LogID(k.ID, number).Origin(), fmt.Sprint(issuancePath, number), key}, nil
}

// Audit returns the audit log of a CA key.
func Audit(fleet chancery.FleetID, k *chancery.CAKey) (Log, error) {
	origin := chancery.AuditOrigin(fleet, k.ID)
	key, err := tlog.NewNamedKey(origin, auditType, k.Key.ECDSA(), func(c *tlog.Checkpoint, seconds uint64) []byte {
		if c.Origin != origin || len(c.Extensions) > 0 {
			return nil
		}
		return chancery.Message(fleet, k.Key.Suite(), chancery.AuditCheckpoint{CA: k.ID, Size: c.Size, Root: c.Root, At: time.Unix(int64(seconds), 0)})
	})
	if err != nil {
		return Log{}, fmt.Errorf("logs: %w", err)
	}
	return Log{origin, AuditPath, key}, nil
}

// Note returns a signed checkpoint of the log from CA:SK's signature, which it
// verifies.
func (l Log) Note(size uint64, root merkle.Hash, at time.Time, signature chancery.Signature) ([]byte, error) {
	c := &tlog.Checkpoint{Origin: l.Origin, Size: size, Root: root}
	s, err := tlog.NewStatement(l.Key, c, uint64(at.Unix()))
	if err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	line, err := s.Seal(signature.ASN1())
	if err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	text, err := c.Text()
	if err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	return (&tlog.Note{Text: text, Signatures: []tlog.Signature{line}}).Marshal()
}
