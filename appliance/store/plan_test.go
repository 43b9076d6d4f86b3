package store

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
)

// What each enrolment, renewal and attestation asks is answered by an index:
// its cost must not grow with the fleet.
func TestLookupsUseIndexes(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	log := Log{"1.2", 1}
	for range 2 { // the second time they are prepared
		s.View(t.Context(), func(tx *Tx) error {
			tx.Node(chancery.NodeID{})
			tx.NodeByName("edge-1")
			tx.NodesCalled("edge-1")
			tx.NodesAfter("edge-1", chancery.NodeID{}, 9)
			tx.CountIntakes(IntakePending)
			tx.Approvals(chancery.IntakeID{})
			tx.Intake(chancery.IntakeID{})
			tx.IntakeState(chancery.IntakeID{})
			tx.Rivals(chancery.NodeID{}, "edge-1", [32]byte{})
			tx.EntriesOf(log, chancery.NodeID{})
			tx.Entry(log, 7)
			tx.Entries(log, 7, 256)
			tx.LogSize(log)
			tx.SubtreeOf(log, 7)
			tx.IntakeOf(log, 7)
			tx.RevokedFrom(log, 7)
			tx.RevokedIn(log, 7, 9, nil)
			tx.CountRevoked(log, 7, 9)
			tx.RevocationsUnderWay()
			tx.Chosen(10)
			tx.FirstLive(log, 7, 9, time.Now())
			tx.LatestCheckpoint(log)
			tx.AuditEntries(log.CA, 7, 256)
			tx.EKLists([32]byte{})
			tx.Attestations(chancery.NodeID{}, 1)
			return nil
		})
		s.Update(t.Context(), func(tx *Tx) error {
			tx.RevokeNode(chancery.NodeID{}, chancery.ReasonUnspecified, "test", time.Now())
			tx.ChooseName(1, "edge-1")
			tx.ChooseChip(1, [32]byte{})
			tx.CountChosen(time.Now())
			tx.RevokeSpan(log, 7, 8, 1)
			tx.RevokeSpan(log, 7, 9, 1)
			tx.NoteRevocation(&Revocation{})
			return fmt.Errorf("not meant")
		})
	}
	plans := 0
	for _, statements := range []*statements{s.read, s.write.statements} {
		for query := range statements.m {
			for _, step := range plan(t, s, query) {
				plans++
				// The end of an index, in either direction, is found at once.
				end := strings.Contains(query, "ORDER BY") || strings.Contains(query, "MAX(")
				// What is chosen is a part of one act, and gone after it.
				scan := strings.HasPrefix(step, "SCAN") && !strings.Contains(query, "chosen")
				if scan || strings.HasSuffix(step, "(ca=? AND log=?)") && !end {
					t.Errorf("%s\n\t%s", query, step)
				}
			}
		}
	}
	if plans < 15 {
		t.Errorf("only %d steps of plans were looked at", plans)
	}
}

// What status counts it counts in indexes, and no row of a node is read.
func TestCensusReadsIndexes(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for range 2 { // the second time they are prepared
		s.View(t.Context(), func(tx *Tx) error {
			_, err := tx.Census()
			return err
		})
	}
	if len(s.read.m) != 4 {
		t.Errorf("%d statements", len(s.read.m))
	}
	for query := range s.read.m {
		for _, step := range plan(t, s, query) {
			if !strings.Contains(step, "COVERING INDEX") {
				t.Errorf("%s\n\t%s", query, step)
			}
		}
	}
}

func plan(t *testing.T, s *Store, query string) (steps []string) {
	t.Helper()
	args := make([]any, strings.Count(query, "?"))
	rows, err := s.read.db.QueryContext(context.Background(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, detail)
	}
	return steps
}
