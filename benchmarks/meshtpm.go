package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/tpm"
)

const (
	slowChip = "infineon-slb9670" // 71 ms for a signature
	// recertify is how often N:SK certifies a session key during the measure:
	// an agent does so twice an hour.
	recertify = time.Second
	shakers   = 4 // who dial at a time
)

// meshTPM counts the handshakes a second of two enrolled nodes whose N:SK is
// in a slow chip each: while it certifies a new session key each second, while
// it has nothing to do, and while it is the TLS key itself.
func meshTPM() (results []Result, err error) {
	const command = command + " mesh-tpm"
	w, err := newWorkshop(memoryDir, "./appliance")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	dir, program := w.dir, w.programs[0]
	c, behind, stop, err := newSite(dir, program, 2)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var nodes [2]*chipNode
	for i := range nodes {
		if nodes[i], err = c.newChipNode(fmt.Sprintf("node-%d", i), behind[i].Device(), dir); err != nil {
			return nil, err
		}
		defer nodes[i].close()
	}
	listener, err := nodes[1].Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	run := func(d time.Duration) (rate float64, err error) {
		return shakesPerSecond(nodes[0], listener, "node-1", d)
	}
	if _, err := run(time.Second); err != nil { // to be acquainted
		return nil, err
	}

	slice := time.Duration(sized(3, 1)) * time.Second
	var used, unused, usedCPU, unusedCPU []float64
	signed := uint64(0)
	for range rounds {
		start := cpu()
		rate, signatures, err := busy(nodes[:], func() (float64, error) { return run(slice) })
		if err != nil {
			return nil, err
		}
		each := func() float64 { return float64((cpu() - start).Microseconds()) / (rate * slice.Seconds()) }
		usedCPU = append(usedCPU, each())
		if want := uint64(len(nodes)) * uint64(slice/recertify); signatures < want {
			return nil, fmt.Errorf("the chips made %d signatures, want %d at least", signatures, want)
		}
		signed += signatures
		used = append(used, rate)
		start = cpu()
		if rate, err = run(slice); err != nil {
			return nil, err
		}
		unused, unusedCPU = append(unused, rate), append(unusedCPU, each())
	}
	for _, n := range nodes {
		n.present(&chancery.Identity{NC: n.nc, Key: chancery.TLSKey(n.key, time.Minute)})
	}
	each, err := run(time.Duration(sized(30, 8)) * time.Second)
	if err != nil {
		return nil, err
	}
	a, b := median(used), median(unused)
	aCPU, bCPU := median(usedCPU), median(unusedCPU)
	sign := time.Second.Seconds() / nodes[0].chip.Model().Latency.Sign.Seconds()
	return []Result{
		Result{ID: "mesh-tpm", What: fmt.Sprintf("handshakes a second while chips like %s certify a session key for each side every second, %d signatures in all", slowChip, signed),
			Ours: a, Beside: b, Peer: "the same while the chips do nothing", Ratio: a / b, Target: ">= 0.9", Met: a >= 0.9*b, Command: command}.of(used, unused),
		Result{ID: "mesh-tpm-cpu", What: "microseconds of CPU of one of these handshakes, both sides and the certifying, without the swtpm", Ours: aCPU, Beside: bCPU, Peer: "the same while the chips do nothing", Ratio: bCPU / aCPU, Met: true, Command: command}.of(usedCPU, unusedCPU),
		{ID: "mesh-tpm-each", What: "handshakes a second where N:SK, which is sealed, is the TLS key of both sides", Ours: each, Beside: sign, Peer: "TPM2_Sign as the model has it", Ratio: each / sign, Met: true, Command: command},
	}, nil
}

// A chipNode is an enrolled node whose chip is a slow one.
type chipNode struct {
	*mesh.Node
	chip     *chip.Chip
	owner    *tpm.TPM
	key      *tpm.Key
	nc       *chancery.Certificate
	identity atomic.Pointer[chancery.Identity]
}

func (c *coordinator) newChipNode(name, device, dir string) (n *chipNode, err error) {
	model, err := chip.Find(slowChip)
	if err != nil {
		return nil, err
	}
	model.Busy, model.Jitter = 0, 0
	n = &chipNode{}
	if n.chip, err = chip.New("", device, model); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	token, err := c.token(name, 1)
	if err != nil {
		return nil, err
	}
	at := filepath.Join(dir, name)
	if _, err := c.enrol(context.Background(), token, name, n.chip.Device(), at); err != nil {
		return nil, err
	}
	d, err := state.Look(at)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if n.nc, err = d.Certificate(); err != nil {
		return nil, err
	}
	pointer, err := d.Pointer()
	if err != nil {
		return nil, err
	}
	list, err := d.CRL()
	if err != nil {
		return nil, err
	}
	file, err := d.Key()
	if err != nil {
		return nil, err
	}
	if n.owner, err = tpm.Open(n.chip.Device()); err != nil {
		return nil, err
	}
	if n.key, err = n.owner.LoadKey(file); err != nil {
		return nil, err
	}
	v := chancery.NewVerifier(chancery.Trust{Pointer: pointer})
	if _, err := v.UpdateCRL(list, time.Now()); err != nil {
		return nil, err
	}
	if err := n.certify(context.Background()); err != nil {
		return nil, err
	}
	n.Node, err = mesh.New(mesh.Config{Verifier: v, Identity: func() (*chancery.Identity, error) { return n.identity.Load(), nil }, Self: n.nc.NodeID(c.fleet)})
	return n, err
}

func (n *chipNode) present(id *chancery.Identity) { n.identity.Store(id) }

// certify has N:SK certify a new session key, and presents that.
func (n *chipNode) certify(ctx context.Context) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		return err
	}
	var serial [16]byte
	rand.Read(serial[:])
	from := time.Now()
	if from.Before(n.nc.NotBefore) {
		from = n.nc.NotBefore
	}
	tbs, err := chancery.NewSession(n.nc, public, serial, from, from.Add(chancery.DefaultSessionLife))
	if err != nil {
		return err
	}
	sig, err := n.key.Sign(ctx, chancery.FleetID{}, tbs)
	if err != nil {
		return err
	}
	n.present(&chancery.Identity{Session: tbs.Certificate(n.nc.NodeKey.Suite(), sig), NC: n.nc, Key: private})
	return nil
}

func (n *chipNode) close() {
	if n.Node != nil {
		n.Node.Close()
	}
	if n.owner != nil {
		n.owner.Close()
	}
	n.chip.Close()
}

// busy has each node certify a session key every second while run runs, and
// returns how many signatures the chips made.
func busy(nodes []*chipNode, run func() (float64, error)) (rate float64, signatures uint64, err error) {
	before := signaturesOf(nodes)
	ctx, cancel := context.WithCancel(context.Background())
	failed := make([]error, len(nodes))
	var group sync.WaitGroup
	for i, n := range nodes {
		group.Go(func() {
			next := time.NewTicker(recertify)
			defer next.Stop()
			for ctx.Err() == nil && failed[i] == nil {
				failed[i] = n.certify(context.Background())
				select {
				case <-next.C:
				case <-ctx.Done():
				}
			}
		})
	}
	rate, err = run()
	cancel()
	group.Wait()
	return rate, signaturesOf(nodes) - before, errors.Join(err, errors.Join(failed...))
}

func signaturesOf(nodes []*chipNode) (all uint64) {
	for _, n := range nodes {
		all += n.chip.Calls(tpm2.TPMCCSign)
	}
	return all
}

// shakesPerSecond has a node dial for that long, several times at once.
func shakesPerSecond(from *chipNode, to *mesh.Listener, name string, d time.Duration) (float64, error) {
	failed := make([]error, shakers)
	var done atomic.Uint64
	var group sync.WaitGroup
	start := time.Now()
	for i := range shakers {
		group.Go(func() {
			for failed[i] == nil && time.Since(start) < d {
				failed[i] = shake(from.Node, to, name)
				done.Add(1)
			}
		})
	}
	group.Wait()
	took := time.Since(start).Seconds()
	return float64(done.Load()) / took, errors.Join(failed...)
}

// shake opens a session and ends it at both ends.
func shake(from *mesh.Node, to *mesh.Listener, name string) error {
	near, err := from.Dial(context.Background(), "tcp", to.Addr().String(), name)
	if err != nil {
		return err
	}
	far, err := to.Accept()
	if err != nil {
		return err
	}
	return errors.Join(near.Close(), far.Close())
}
