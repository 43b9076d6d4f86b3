package ping_test

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/agent/ping"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns both ends of a session from edge-1 to edge-2.
func pair(t *testing.T) (dialled, accepted *mesh.Session) {
	t.Helper()
	f, err := fleet.New(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	papers, err := f.Enroll(fleet.Request{Name: "edge-1"}, fleet.Request{Name: "edge-2"})
	if err != nil {
		t.Fatal(err)
	}
	var nodes []*mesh.Node
	for _, p := range papers {
		n, err := mesh.New(mesh.Config{Verifier: chancery.NewVerifier(f.Trust()), Identity: p.Identity, Self: p.ID})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		nodes = append(nodes, n)
	}
	l, err := nodes[1].Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if dialled, err = nodes[0].Dial(t.Context(), "tcp", l.Addr().String(), "edge-2"); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.AcceptSession(); err != nil {
		t.Fatal(err)
	}
	return dialled, accepted
}

func TestPing(t *testing.T) {
	dialled, accepted := pair(t)
	served := make(chan error)
	go func() { served <- ping.Serve(accepted, "edge-2") }()
	client := ping.NewClient(dialled)
	for seq := range uint64(3) {
		p, took, err := client.Ping()
		if err != nil {
			t.Fatal(err)
		}
		if p.Seq != seq+1 || p.Node != "edge-2" || p.Peer != ping.Describe(accepted.Peer()) || p.Peer.Name != "edge-1" || took <= 0 {
			t.Errorf("%+v in %s", p, took)
		}
	}
	dialled.Close()
	if err := <-served; err != nil {
		t.Errorf("the peer hung up: %v", err)
	}
}

// A peer that is accepted may still send nonsense.
func TestNonsense(t *testing.T) {
	answer := func(seq int, node, peer, serial string) string {
		return fmt.Sprintf("{\"seq\":%d,\"node\":\"%s\",\"peer\":{\"name\":\"%s\",\"serial\":\"%s\"}}\n", seq, node, peer, serial)
	}
	for _, test := range []struct {
		name, answer string
		want         error
	}{
		{"another number", answer(2, "edge-2", "edge-1", "1:1"), ping.ErrAnswer},
		{"another name", answer(1, "edge-3", "edge-1", "1:1"), ping.ErrAnswer},
		{"escape sequences", answer(1, "edge-2", "edge-1", `1:1\u001b[2J`), ping.ErrAnswer},
		{"junk", "junk\n", nil},
		{"endless", strings.Repeat("x", 4<<10), bufio.ErrBufferFull},
	} {
		t.Run(test.name, func(t *testing.T) {
			dialled, accepted := pair(t)
			go func() {
				bufio.NewReader(accepted).ReadString('\n')
				accepted.Write([]byte(test.answer))
			}()
			if _, _, err := ping.NewClient(dialled).Ping(); err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
	for _, question := range []string{"junk\n", strings.Repeat("x", 4<<10)} {
		dialled, accepted := pair(t)
		go dialled.Write([]byte(question))
		if err := ping.Serve(accepted, "edge-2"); err == nil {
			t.Errorf("%.10q was served", question)
		}
	}
}
