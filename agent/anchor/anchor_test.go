package anchor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/anchor"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/simulator/fleet"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("CHANCERY_TEST_STATE"); path != "" {
		if err := moveInChild(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A machine has a node's chip and disk, and every note that it ever had.
type machine struct {
	*testing.T
	chip  *tpmtest.TPM
	path  string
	fleet *fleet.Fleet
	old   [][]byte // notes, as they were on the disk, the last one included
}

// newMachine has a key, a pointer record, CRL number 1, and no anchor.
func newMachine(t *testing.T) *machine {
	t.Helper()
	f, err := fleet.New(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{T: t, chip: tpmtest.New(t), path: filepath.Join(t.TempDir(), "s"), fleet: f}
	m.with(func(n *node) {
		file, err := n.Chip.CreateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		m.ok(errors.Join(n.Dir.SaveKey(file), n.Dir.SavePointer(f.Trust().Pointer), n.Dir.SaveCRL(f.Trust().CRL)))
	})
	return m
}

func (m *machine) ok(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// A node is a machine that runs.
type node struct {
	anchor.Node
	key *tpm.Key // nil before there is one
}

func open(fleet chancery.FleetID, path, device string) (n *node, end func() error, err error) {
	n = &node{}
	n.Fleet = fleet
	if n.Dir, err = state.Open(path); err != nil {
		return nil, nil, err
	}
	if n.Chip, err = tpm.Open(device); err != nil {
		return nil, nil, err
	}
	if file, err := n.Dir.Key(); err == nil {
		if n.key, err = n.Chip.LoadKey(file); err != nil {
			return nil, nil, err
		}
		n.Key = n.key.PublicKey()
	}
	return n, func() error { return errors.Join(n.Chip.Close(), n.Dir.Close()) }, nil
}

// with runs the machine.
func (m *machine) with(do func(*node)) {
	m.Helper()
	n, end, err := open(m.fleet.ID(), m.path, m.chip.Device())
	m.ok(err)
	defer func() { m.ok(end()) }()
	do(n)
}

// remember keeps a copy of the note on the disk.
func (m *machine) remember() {
	m.Helper()
	b, err := os.ReadFile(filepath.Join(m.path, "anchor"))
	m.ok(err)
	if k := len(m.old); k == 0 || !bytes.Equal(m.old[k-1], b) {
		m.old = append(m.old, b)
	}
}

// move notes where the fleet is.
func (m *machine) move(n *node) *chancery.Anchor {
	m.Helper()
	trust := m.fleet.Trust()
	m.ok(n.Dir.SaveCRL(trust.CRL))
	note, err := n.Move(m.Context(), n.key, trust.Pointer.Seq, trust.CRL.Head().Number, time.Now())
	m.ok(err)
	return note
}

// wantWhole checks that the note is taken, that none that the node had before
// is, and that nothing was changed by looking.
func (m *machine) wantWhole(step string, n *node) *chancery.Anchor {
	m.Helper()
	note, err := n.Verify()
	if err != nil {
		m.Fatalf("%s: %v", step, err)
	}
	m.remember()
	last := m.old[len(m.old)-1]
	for _, b := range m.old[:len(m.old)-1] {
		m.ok(os.WriteFile(filepath.Join(m.path, "anchor"), b, 0o600))
		m.wantRollback(step+": an older note", n, "")
	}
	m.ok(os.WriteFile(filepath.Join(m.path, "anchor"), last, 0o600))
	again, pending, err := n.Look()
	if err != nil || pending || again.Counter != note.Counter {
		m.Fatalf("%s, looked at again: %+v, pending %v, %v", step, again, pending, err)
	}
	return note
}

func (m *machine) wantRollback(step string, n *node, says string) {
	m.Helper()
	before, counterErr := n.Chip.Anchor()
	_, err := n.Verify()
	refused, ok := errors.AsType[*anchor.RollbackError](err)
	if !ok || !strings.Contains(refused.Error(), says) || !strings.Contains(refused.Hint(), "chancery-agent anchor reset") {
		m.Fatalf("%s: %v; want a *RollbackError that says %q and what to do", step, err, says)
	}
	if after, err := n.Chip.Anchor(); after != before || (err == nil) != (counterErr == nil) {
		m.Fatalf("%s: the counter moved from %d to %d, %v", step, before, after, err)
	}
}

// A copy of the whole directory that was taken at any time before the last move
// is refused.
func TestRestored(t *testing.T) {
	m := newMachine(t)
	backup := filepath.Join(t.TempDir(), "backup")
	m.with(func(n *node) {
		m.wantRollback("before there is an anchor", n, "no anchor")
		trust := m.fleet.Trust()
		_, err := n.Make(t.Context(), n.key, trust.Pointer.Seq, trust.CRL.Head().Number, time.Now())
		m.ok(err)
		m.wantWhole("made", n)
	})
	m.ok(os.CopyFS(backup, os.DirFS(m.path)))
	m.with(func(n *node) {
		for range 3 {
			_, err := m.fleet.PublishCRL()
			m.ok(err)
			m.move(n)
			m.wantWhole("moved", n)
		}
	})
	m.ok(os.Rename(m.path, m.path+"-newest"))
	m.ok(os.Rename(backup, m.path))
	m.ok(os.Chmod(m.path, 0o700))
	m.with(func(n *node) { m.wantRollback("restored", n, "the chip's counter at") })
	m.ok(os.Rename(m.path, backup))
	m.ok(os.Rename(m.path+"-newest", m.path))
	m.with(func(n *node) { m.wantWhole("the newest is back", n) })
}

// What is not the whole of the newest directory is refused as well.
func TestPartlyRestored(t *testing.T) {
	m := newMachine(t)
	m.with(func(n *node) {
		first := m.fleet.Trust()
		_, err := m.fleet.PublishCRL()
		m.ok(err)
		_, err = n.Make(t.Context(), n.key, 1, 0, time.Now())
		m.ok(err)
		good := m.move(n)
		m.wantWhole("moved", n)

		m.ok(n.Dir.SaveCRL(first.CRL))
		m.wantRollback("an older CRL", n, "CRL 1")
		m.ok(n.Dir.SaveCRL(m.fleet.Trust().CRL))
		m.wantWhole("its own CRL again", n)
		m.ok(os.Remove(filepath.Join(m.path, "crl")))
		m.wantWhole("no CRL: there is nothing to believe", n)
		m.ok(n.Dir.SaveCRL(m.fleet.Trust().CRL))

		stranger, err := n.Chip.CreateKey(nil)
		m.ok(err)
		strange, err := n.Chip.LoadKey(stranger)
		m.ok(err)
		for name, change := range map[string]func(*chancery.Anchor){
			"an older CRL, written into the note": func(a *chancery.Anchor) { a.CRL-- },
			"another counter":                     func(a *chancery.Anchor) { a.Counter++ },
			"another key's": func(a *chancery.Anchor) {
				a.Signature, err = strange.Sign(t.Context(), n.Fleet, a)
				m.ok(err)
			},
		} {
			forged := *good
			change(&forged)
			m.ok(n.Dir.SaveAnchor(&forged))
			m.wantRollback(name, n, "anchor:")
		}
		m.ok(os.WriteFile(filepath.Join(m.path, "anchor"), []byte("junk"), 0o600))
		m.wantRollback("junk", n, "malformed")
		m.ok(os.Remove(filepath.Join(m.path, "anchor")))
		m.wantRollback("no note", n, "no anchor")
		m.ok(n.Dir.SaveAnchor(good))
		m.wantWhole("the note is back", n)
	})
}

// Whoever moves or removes the counter keeps the node from starting, and leads
// it nowhere. Make is the way out.
func TestCounterOfOthers(t *testing.T) {
	m := newMachine(t)
	m.with(func(n *node) {
		_, err := n.Make(t.Context(), n.key, 1, 1, time.Now())
		m.ok(err)
		note := m.wantWhole("made", n)
		again := func(step string) {
			t.Helper()
			_, err := n.Make(t.Context(), n.key, 1, 1, time.Now())
			m.ok(err)
			note = m.wantWhole(step, n)
		}
		m.ok(n.Chip.MoveAnchor(note.Counter))
		m.wantRollback("somebody moved the counter", n, "the chip's counter at")
		again("made after it was moved")
	})
	undefine := []string{"-T", "swtpm:path=" + m.chip.Socket(), "-C", "o", "0x01800102"}
	if out, err := exec.Command("tpm2_nvundefine", undefine...).CombinedOutput(); err != nil {
		t.Fatalf("tpm2_nvundefine: %v: %s", err, out)
	}
	m.with(func(n *node) {
		m.wantRollback("the owner removed the counter", n, tpm.ErrNoAnchor.Error())
		_, err := n.Move(t.Context(), n.key, 1, 1, time.Now())
		if !errors.Is(err, tpm.ErrNoAnchor) {
			t.Errorf("a move without a counter: %v", err)
		}
	})
	m.with(func(n *node) {
		_, err := n.Make(t.Context(), n.key, 1, 1, time.Now())
		m.ok(err)
		m.wantWhole("made after it was removed", n)
	})
}

// moveInChild is a start of the agent, and a move.
func moveInChild(path string) error {
	fleet, err := chancery.ParsePin(os.Getenv("CHANCERY_TEST_PIN"))
	if err != nil {
		return err
	}
	n, end, err := open(fleet, path, os.Getenv("CHANCERY_TEST_TPM"))
	if err != nil {
		return err
	}
	if _, err := n.Verify(); err != nil {
		return err
	}
	if _, err := n.Move(context.Background(), n.key, 1, 1, time.Now()); err != nil {
		return err
	}
	return end()
}

// An agent that is killed before or after any of its commands to the chip, with
// the machine's power at times, starts again, and no older note is good for
// anything afterwards. What it does to the disk lies between two commands.
func TestKilled(t *testing.T) {
	m := newMachine(t)
	m.with(func(n *node) {
		_, err := n.Make(t.Context(), n.key, 1, 1, time.Now())
		m.ok(err)
		m.wantWhole("made", n)
	})
	ends, moved := 0, 0
	for step := 0; ends == 0; step++ {
		for _, when := range []string{"before", "after"} {
			between, err := chip.New("", m.chip.Device(), chip.Model{})
			m.ok(err)
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), "CHANCERY_TEST_STATE="+m.path, "CHANCERY_TEST_TPM="+between.Device(), "CHANCERY_TEST_PIN="+m.fleet.ID().Pin())
			child.Stderr = os.Stderr
			seen, started := 0, make(chan struct{})
			between.RewriteCommands(func(command []byte) []byte {
				<-started
				if seen++; seen == step+1 && when == "before" {
					child.Process.Kill()
					return harmless
				}
				return command
			})
			between.RewriteAnswers(func(_, answer []byte) []byte {
				if seen == step+1 {
					child.Process.Kill()
				}
				return answer
			})
			m.ok(child.Start())
			close(started)
			err = child.Wait()
			if killed := child.ProcessState.ExitCode() == -1; !killed {
				if err != nil {
					t.Fatalf("step %d: the child failed: %v", step, err)
				}
				ends++
			}
			m.ok(between.Close())
			if step%3 == 2 { // the power fails too
				m.ok(m.chip.Kill())
				m.ok(m.chip.Restart())
			}
			m.with(func(n *node) {
				before := len(m.old)
				m.wantWhole(fmt.Sprintf("killed %s command %d", when, step+1), n)
				if len(m.old) > before {
					moved++
				}
				if step%5 == 4 {
					m.move(n)
					m.wantWhole("and moved", n)
				}
			})
		}
	}
	t.Logf("notes of %d of the children that were killed counted", moved)
	if moved < 3 {
		t.Error("no child was killed between its note and the end")
	}
}

// harmless is TPM2_GetRandom of one byte.
var harmless = []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 1}

// A move whose answer is lost, or that the chip refuses for now, is made once,
// by the next attempt or the next start; a note of the failed attempt is not
// left as a second one for the same value.
func TestMoveFails(t *testing.T) {
	for _, fault := range []chip.Fault{
		{Command: tpm2.TPMCCNVIncrement, Times: 1, Kind: chip.CutBefore},
		{Command: tpm2.TPMCCNVIncrement, Times: 1, Kind: chip.CutAfter},
		{Command: tpm2.TPMCCNVIncrement, Times: 1, Kind: chip.Return, Code: tpm2.TPMRCFailure},
	} {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v tried-again-%v", fault.Kind, again), func(t *testing.T) {
				m := newMachine(t)
				m.with(func(n *node) {
					_, err := n.Make(t.Context(), n.key, 1, 1, time.Now())
					m.ok(err)
					m.wantWhole("made", n)
				})
				between, err := chip.New("", m.chip.Device(), chip.Model{})
				m.ok(err)
				defer between.Close()
				n, end, err := open(m.fleet.ID(), m.path, between.Device())
				m.ok(err)
				m.ok(between.Inject(fault))
				if _, err := n.Move(t.Context(), n.key, 1, 1, time.Now()); err == nil {
					t.Fatal("the move did not fail")
				}
				m.remember() // somebody copies it now
				end()
				m.with(func(n *node) {
					if again {
						m.move(n) // without Verify in between
					}
					m.wantWhole("afterwards", n)
				})
			})
		}
	}
}

// A note is not written when the disk or the key refuses, and the counter does
// not move.
func TestNothingHalf(t *testing.T) {
	m := newMachine(t)
	m.with(func(n *node) {
		_, err := n.Make(t.Context(), n.key, 1, 1, time.Now())
		m.ok(err)
		before := m.wantWhole("made", n)
		m.ok(os.Mkdir(filepath.Join(m.path, "anchor.tmp"), 0o700)) // whoever writes fails
		if _, err := n.Move(t.Context(), n.key, 1, 1, time.Now()); err == nil {
			t.Error("moved without a note")
		}
		m.ok(os.Remove(filepath.Join(m.path, "anchor.tmp")))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := n.Move(ctx, n.key, 1, 1, time.Now()); !errors.Is(err, context.Canceled) {
			t.Errorf("moved without a signature: %v", err)
		}
		if after := m.wantWhole("afterwards", n); after.Counter != before.Counter {
			t.Errorf("the counter moved from %d to %d", before.Counter, after.Counter)
		}
	})
}
