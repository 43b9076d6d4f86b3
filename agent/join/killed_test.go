package join_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/internal/testcoordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// joinInChild is a join in a process of its own, so that it can be killed.
func joinInChild() int {
	token, err := chancery.ParseToken(os.Getenv("CHANCERY_TEST_TOKEN"))
	if err != nil {
		panic(err)
	}
	dir, err := state.Open(os.Getenv("CHANCERY_TEST_STATE"))
	if err != nil {
		panic(err)
	}
	_, err = join.Join(context.Background(), dir, join.Options{
		URL: os.Getenv("CHANCERY_TEST_JOIN"), Fleet: token.Fleet, Token: &token, Name: "edge-1", Device: os.Getenv("CHANCERY_TEST_TPM"),
		PCRs: tpm.DefaultPCRs, Wait: true, Now: time.Now, Step: func(join.Step) {}, Notice: func(string) {},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A join that is killed, at whichever of its requests, before or after the
// coordinator has acted on it, is taken up by the next one: with the same key,
// and without a second certificate for it.
func TestKilled(t *testing.T) {
	// pointer, initial connection, N:S, CRL
	const requests = 4
	for n := range requests {
		for _, when := range []string{"before", "after"} {
			t.Run(fmt.Sprintf("%s-%d", when, n+1), func(t *testing.T) {
				c, m := testcoordinator.New(t, testcoordinator.Options{}), newMachine(t)
				token := c.Token()
				child := exec.Command(os.Args[0])
				child.Env = append(os.Environ(), "CHANCERY_TEST_JOIN="+c.URL, "CHANCERY_TEST_TOKEN="+token.Reveal(),
					"CHANCERY_TEST_STATE="+m.path, "CHANCERY_TEST_TPM="+m.tap.device)
				child.Stderr = os.Stderr
				var seen atomic.Int32
				started := make(chan struct{})
				c.Misbehave(testcoordinator.Faults{Serve: func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						due := seen.Add(1) == int32(n+1)
						<-started
						if due && when == "before" {
							child.Process.Kill()
							return
						}
						if due {
							next.ServeHTTP(discard{http.Header{}}, r)
							child.Process.Kill()
							return
						}
						next.ServeHTTP(w, r)
					})
				}})
				if err := child.Start(); err != nil {
					t.Fatal(err)
				}
				close(started)
				if err := child.Wait(); child.ProcessState.ExitCode() != -1 {
					t.Fatalf("the join was not killed: %v", err)
				}
				c.Misbehave(testcoordinator.Faults{})
				m.wantNotEnrolled()

				_, err := m.look().Key()
				hadKey := err == nil
				if hadKey != (n >= 1) {
					t.Errorf("there is a key: %v", hadKey)
				}
				var before chancery.PublicKey
				if hadKey {
					before = m.nodeKey()
				}
				o := m.options(c)
				o.Token = &token
				if _, err := m.join(o); err != nil {
					t.Fatal(err)
				}
				nc := m.wantEnrolled(c)
				if hadKey && !before.Equal(nc.NodeKey) {
					t.Error("the second join made another key")
				}
				if nc.Serial.Index() != 1 {
					t.Errorf("index %d: an earlier certificate was issued and forgotten", nc.Serial.Index())
				}
			})
		}
	}
}

// discard takes a response that nobody reads any more.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
