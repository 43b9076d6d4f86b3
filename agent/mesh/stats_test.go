package mesh_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// All refusals are counted; those of one kind are logged once a second.
func TestRefusalsDoNotFloodTheLog(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	var log bytes.Buffer
	var clock atomic.Int64 // seconds since the start; it stands still while the first ten dial
	start := w.now()
	kind := mesh.Refusal{Check: chancery.CheckCRL, Reason: "revoked"}
	a := w.enroll("a")
	b := w.enroll("b", func(c *mesh.Config) {
		c.Logger = slog.New(slog.NewJSONHandler(&log, nil))
		c.Now = func() time.Time { return start.Add(time.Duration(clock.Load()) * time.Second) }
	})
	b.update(w.revoke(a))
	l := b.listen()
	var total uint64
	refused := func(times uint64) {
		for total += times; times > 0; times-- {
			if _, err := a.dial(l, "b"); err == nil {
				t.Fatal("let in")
			}
		}
		// The alert leaves before the refusal is counted.
		for b.Stats().Refused[kind] != total {
			time.Sleep(time.Millisecond)
		}
	}
	refused(10)
	clock.Store(2)
	refused(1)
	b.Close()
	type line struct {
		Msg, Check, Reason, Claims string
		Count                      int
	}
	var lines []line
	for d := json.NewDecoder(&log); d.More(); {
		var l line
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	want := []line{{"peer refused", "crl", "revoked", "a", 1}, {"peer refused", "crl", "revoked", "a", 11}}
	if len(lines) != 2 || lines[0] != want[0] || lines[1] != want[1] {
		t.Errorf("logged %+v, want %+v", lines, want)
	}
}
