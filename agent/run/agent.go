// Package run is the agent between enrolment and revocation: the one process
// that owns the chip and keeps the node able to prove who it is and to judge
// its peers.
//
// Start with [Run]. It is a handful of loops over one [chancery.Verifier] and
// one [mesh.Node], each in the file of its noun:
//
//	key.go       session certificates, and N:C at half of its life; the only user of the chip
//	attest.go    shows the boot state to the coordinator, with each new session certificate
//	reseal.go    asks for approval when the chip's PCRs changed
//	anchor.go    notes how far the node has come, for the next start; see package anchor
//	crl.go       keeps the CRL fresh by long polling
//	pointer.go   keeps the pointer record
//	gossip.go    exchanges both with peers while the coordinator is away
//	address.go   tells the coordinator where this node listens
//	clock.go     the time, which a verified list knows better than a clock that was set back
//	serve.go     answers the pings of peers
//	x509.go      the X.509 certificate that accompanies N:C, and the list, for programs that know no other
//	relay.go     forwards and exposes, for programs that know nothing of the fleet
//	programs.go  gives programs on this machine a share in the node's identity
//	control.go   answers the command line, over a Unix socket; see [Connect]
//
// # Failure
//
// Only the start may fail: state that cannot be read or is an older copy, a chip
// that is not there, a port in use. Afterwards every failure is a line in the log and a
// problem in [Status], and is tried again with growing pauses. Without a
// coordinator the agent works on with what it holds, until its CRL or its
// certificate ends.
//
// # Trust
//
// Nothing that comes over the network is used before the verifier has accepted
// it. Pointer record and CRL are on disk before the next one is asked for, and
// neither ever goes back: an older one is a problem, two of one number are an
// alarm that stays until an operator clears it.
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/gossip"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/local"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// Options of a running agent. Listen and Advertise override the configuration
// where they are not empty.
type Options struct {
	Listen    string
	Advertise string
	Logger    *slog.Logger
	Now       func() time.Time

	gossipEvery time.Duration // for tests; 0 is the constant
}

// An agent is a running agent.
type agent struct {
	Options
	dir      *state.Dir
	config   *state.Config
	fleet    chancery.FleetID
	self     chancery.NodeID
	verifier *chancery.Verifier
	mesh     *mesh.Node
	listener *mesh.Listener
	gossip   *gossip.Gossip
	met      met
	floor    atomic.Pointer[floor]
	health   health

	anchored atomic.Pointer[chancery.Anchor] // the last note
	reached  reached

	// chip and file are the key loop's alone, once it runs. It loads key anew
	// when the chip was lost or the seal has another approval; others sign with
	// it too.
	chip *tpm.TPM
	file *tpm.KeyFile
	key  atomic.Pointer[tpm.Key]

	nc       atomic.Pointer[chancery.Certificate]
	identity atomic.Pointer[session]
	chipInfo atomic.Pointer[string]
	ready    chan struct{} // closed with the first session certificate
	seek     chan struct{} // asks the pointer loop to look now
	asked    chan struct{} // asks the key loop to attest now; has room for one

	suspended atomic.Pointer[error]
	changes   changes // for programs
	rules     atomic.Pointer[[]local.Rule]
	relays    relays
	third     thirdParties
	reloads   chan chan reloaded                // asks the relay loop to read the configuration
	addresses atomic.Pointer[map[string]string] // of the configuration

	// crlMu is held while a CRL is taken and saved, and pointerMu while a pointer
	// record is, so that an older one never overwrites a newer one on disk.
	crlMu     sync.Mutex
	pointerMu sync.Mutex
	crlFloor  uint64 // number of the anchor, or of a list on disk that could not be verified
}

// Run runs the agent of an enrolled node until ctx ends. The directory must
// have been opened for writing; it stays the caller's.
func Run(ctx context.Context, dir *state.Dir, o Options) error {
	a, err := open(dir, o)
	if err != nil {
		return err
	}
	err = a.run(ctx)
	return errors.Join(err, a.close())
}

// open makes everything but the loops.
func open(dir *state.Dir, o Options) (*agent, error) {
	a, err := prepare(dir, o)
	if err != nil {
		return nil, err
	}
	if err = a.openAnchor(); err == nil {
		a.listener, err = a.mesh.Listen("tcp", a.config.Listen)
	}
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// prepare reads the state and opens the chip.
func prepare(dir *state.Dir, o Options) (_ *agent, err error) {
	a := &agent{Options: o, dir: dir, ready: make(chan struct{}), seek: make(chan struct{}, 1), asked: make(chan struct{}, 1), reloads: make(chan chan reloaded)}
	nc, err := dir.Certificate()
	if err != nil {
		return nil, err
	}
	a.nc.Store(nc)
	if a.config, err = dir.Config(); err != nil {
		return nil, err
	}
	a.rules.Store(&a.config.Programs)
	if o.Listen != "" {
		a.config.Listen = o.Listen
	}
	if o.Advertise != "" {
		a.config.Advertise = o.Advertise
	}
	if a.fleet, err = a.config.Pin(); err != nil {
		return nil, err
	}
	if a.self = nc.NodeID(a.fleet); nc.Name != a.config.Name {
		return nil, fmt.Errorf("%s: the certificate is for %s, the configuration for %s", dir.Path(), nc.Name, a.config.Name)
	}
	if err := a.openTrust(); err != nil {
		return nil, err
	}
	if a.file, err = dir.Key(); err != nil {
		return nil, err
	}
	if public, err := a.file.PublicKey(); err != nil || !public.Equal(nc.NodeKey) {
		return nil, errOtherKey
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if err := a.openChip(); err != nil {
		return nil, err
	}
	if err := a.openGossip(); err != nil {
		return nil, err
	}
	policy, err := a.config.Policy()
	if err != nil {
		return nil, err
	}
	a.mesh, err = mesh.New(mesh.Config{
		Policy: policy, Verifier: a.verifier, Identity: a.present, Self: a.self,
		OnNewerCRL: a.newerCRL, Guests: map[string]mesh.Guest{gossip.ALPN: a.gossip}, Now: a.clock, Logger: a.Logger,
	})
	return a, err
}

// errOtherKey is the state of a node whose rejoin was interrupted.
var errOtherKey error = &otherKey{}

type otherKey struct{}

func (*otherKey) Error() string { return "the key in the file is not the certificate's" }
func (*otherKey) Hint() string {
	return "a rejoin was interrupted: go on with chancery-agent rejoin"
}

// openTrust verifies what was on disk as if it had just come, but for the
// record's expiry: an expired one still verifies peers (section 3).
func (a *agent) openTrust() error {
	p, err := a.dir.Pointer()
	if err != nil {
		return err
	}
	if err := p.Verify(a.fleet); err != nil {
		return err
	}
	a.verifier = chancery.NewVerifier(chancery.Trust{Pointer: p})
	a.heedAlarms() // they stay over restarts
	list, err := a.dir.CRL()
	if err == nil {
		if err = a.holdStored(list); err != nil {
			// A list of the CA key before the current one, say. It is of no
			// use, but no older one may come after it.
			a.crlFloor, _ = chancery.CRLNumber(list)
		}
	}
	if err != nil {
		a.fail(topicCRL, fmt.Errorf("the list on disk: %w", err))
	}
	return nil
}

// openChip opens the chip and loads N:SK. It also serves to do so again after
// the chip has failed; the old connection is given up first, as it may hold
// the lock.
func (a *agent) openChip() error {
	if a.chip != nil {
		a.chip.Close()
	}
	chip, err := tpm.Open(a.config.TPM)
	if err != nil {
		return fmt.Errorf("%w %s: %w", join.ErrChip, a.config.TPM, err)
	}
	a.chip = chip
	a.chipInfo.Store(new(chip.Info().String()))
	key, err := state.LoadKey(chip, a.file, a.config.PINFile)
	if err == nil {
		a.key.Store(key)
	}
	return err
}

func (a *agent) close() error {
	var err error
	if a.mesh != nil {
		err = a.mesh.Close()
	}
	if a.chip != nil {
		err = errors.Join(err, a.chip.Close())
	}
	return err
}

// run runs the loops until ctx ends or the socket cannot be had.
func (a *agent) run(ctx context.Context) error {
	control, err := a.listenControl()
	if err != nil {
		return err
	}
	forPrograms, err := a.listenPrograms()
	if err != nil {
		control.Close()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	loops := []func(context.Context){a.keepKey, a.keepCRL, a.keepPointer, a.keepAddress, a.keepGossip, a.servePeers, a.keepRelays}
	for _, loop := range loops {
		group.Go(func() error { loop(ctx); return nil })
	}
	group.Go(func() error { return a.serveControl(ctx, control) })
	for _, s := range forPrograms {
		group.Go(func() error { return s.serve(ctx, s.Listener) })
	}
	a.Logger.Info("running", "node", a.config.Name, "listen", a.listener.Addr().String(), "chip", *a.chipInfo.Load())
	return group.Wait()
}

// pointer returns the pointer record that is held.
func (a *agent) pointer() *chancery.Pointer { return a.verifier.Trust().Pointer }

// sleep waits, and reports whether ctx is still good then.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
