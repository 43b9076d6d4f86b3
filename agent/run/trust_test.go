package run

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/state"
)

// A bad list changes nothing, on disk neither, and is a problem until a good
// one comes.
func TestBadCRL(t *testing.T) {
	c := testcoordinator.New(t, testcoordinator.Options{})
	m := enrol(t, c, "edge-1")
	c.Heartbeat()
	m.startReady()
	m.eventually("edge-1 has list 2", func() bool { return m.status().CRL.Number == 2 })
	held := onDisk(t, m, "crl")
	future := c.OtherCRL(2, time.Hour)
	other := testcoordinator.New(t, testcoordinator.Options{})
	for _, test := range []struct {
		name string
		list []byte
		says string
	}{
		{"rollback", c.CRL(1).Marshal(), chancery.ErrCRLRollback.Error()},
		{"junk", []byte("junk"), chancery.ErrMalformed.Error()},
		{"of another fleet", other.CRL(1).Marshal(), chancery.ErrSignature.Error()},
		{"a flipped bit", flip(future.Marshal(), 40), ""},
		{"fork", c.OtherCRL(1, time.Hour).Marshal(), chancery.ErrCRLFork.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			m.t = t
			c.Misbehave(testcoordinator.Faults{CRL: func(uint64) []byte { return test.list }})
			c.Heartbeat() // ends the poll under way with something good
			defer func() { c.Misbehave(testcoordinator.Faults{}) }()
			a := m.status().CRL.Number
			_ = a
			m.wantProblem(topicCRL, test.says)
		})
	}
	m.t = t
	_ = held
}

func onDisk(t *testing.T, m *machine, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(m.path, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[(at+len(b))%len(b)] ^= 1
	return b
}

var _ = errors.Is
var _ = strings.Contains
var _ = state.Open
