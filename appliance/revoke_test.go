package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/store"
)

// A command that revokes a fleet by its list, whose coordinator is killed again
// and again, is repeated until it is through. Each time what was revoked stays
// revoked, a node with its certificate, and is in the list that is served;
// and the audit log says who began it, once for each time.
//
// CHANCERY_FULL=1 takes a million.
func TestRevokeListKilled(t *testing.T) {
	needSimulators(t)
	nodes, kills := 20_000, 3
	if full() {
		nodes = 1_000_000
	}
	c := &coordinator{dir: filepath.Join(t.TempDir(), "data")}
	t.Cleanup(c.kill)
	paperFleet(t, c, nodes)
	var list strings.Builder
	for i := range nodes {
		fmt.Fprintf(&list, "%s,rack %d\n", appliancetest.Paper(i).Name, i/40)
	}

	before := uint64(0)
	for range kills {
		begin(t, c)
		cmd := exec.Command("chancery", "--data", c.dir, "node", "revoke", "--list", "-", "--yes", "--reason", "fire")
		var stderr bytes.Buffer
		cmd.Stdin, cmd.Stderr = strings.NewReader(list.String()), &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for revokedNodes(t, c) == before {
			time.Sleep(2 * time.Millisecond)
		}
		c.kill()
		if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "hint: what was revoked stays revoked and is in the next CRL; repeat the command for the rest") {
			t.Fatalf("a command whose coordinator was killed: %v\n%s", err, &stderr)
		}
		begin(t, c)
		now := revokedNodes(t, c)
		if now <= before || now >= uint64(nodes) || served(t, c) != now {
			t.Fatalf("%d of %d nodes were revoked, then %d, of whose certificates the list names %d", before, nodes, now, served(t, c))
		}
		before = now
		c.kill()
	}

	begin(t, c)
	out, err := c.chancery("node", "revoke", "--list", write(t, list.String()), "--yes", "--reason", "fire", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var done api.RevokeOutput
	if err := json.Unmarshal(out, &done); err != nil {
		t.Fatal(err)
	}
	if done.Selectors != uint64(nodes) || done.Already != before || done.Nodes != uint64(nodes)-before || done.Certificates != done.Nodes {
		t.Errorf("after %d: %+v", before, done)
	}
	if n := served(t, c); n != uint64(nodes) || revokedNodes(t, c) != uint64(nodes) {
		t.Errorf("the list names %d of %d", n, nodes)
	}
	t.Logf("the rest of %d took a coordinator that was never larger than %s", nodes, peak(t, c))
	c.kill()

	s, err := store.Open(t.Context(), dataDir(c.dir).store())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	acts, broken := 0, 0
	err = s.View(t.Context(), func(tx *store.Tx) error {
		p, err := tx.Pointer()
		if err != nil {
			return err
		}
		deeds, err := tx.AuditEntries(p.Current().ID.String(), 0, 1000)
		for _, b := range deeds {
			e, err := chancery.ParseAuditEntry(b)
			if err != nil {
				return err
			}
			if e.Action != "node.revoke" {
				continue
			}
			acts++
			for _, d := range e.Details {
				if d.Name == "broken-off" {
					broken++
				}
			}
		}
		return err
	})
	if err != nil || acts != kills+1 || broken != kills {
		t.Errorf("the audit log has %d acts of revocation of which %d broke off, want %d and %d; %v", acts, broken, kills+1, kills, err)
	}
}

// paperFleet makes a coordinator with nodes on paper, that does not run.
func paperFleet(t *testing.T, c *coordinator, nodes int) {
	t.Helper()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.chancery("init", "--simulator", "--url", "https://"+address, "--listen", address); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), dataDir(c.dir).store())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var p *chancery.Pointer
	err = s.View(t.Context(), func(tx *store.Tx) (err error) {
		p, err = tx.Pointer()
		return err
	})
	if err == nil {
		err = appliancetest.FillStore(t.Context(), s, p, nodes, time.Now(), time.Now().Add(24*time.Hour))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func begin(t *testing.T, c *coordinator) {
	t.Helper()
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	if err := c.ready(); err != nil {
		t.Fatal(err)
	}
}

func status(t *testing.T, c *coordinator) (s api.Status) {
	t.Helper()
	if err := ask(c.dir, "GET", "/v1/status", nil, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func revokedNodes(t *testing.T, c *coordinator) uint64 {
	t.Helper()
	return uint64(status(t, c).Revoked)
}

// served returns how many certificates the list names that comes next.
func served(t *testing.T, c *coordinator) uint64 {
	t.Helper()
	if err := ask(c.dir, "POST", "/v1/crl", nil, nil); err != nil {
		t.Fatal(err)
	}
	return status(t, c).CRL.Revoked
}

func write(t *testing.T, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// peak returns the most memory that the process ever had.
func peak(t *testing.T, c *coordinator) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.process.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}
