package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/appliance/witnesses"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
)

func (a *app) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve nodes over HTTPS and operators on DATA/admin.sock",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return a.serve(c.Context()) },
	}
}

func (a *app) serve(ctx context.Context) (err error) {
	logger := a.logger()
	config, err := a.data.loadConfig()
	if err != nil {
		return err
	}
	unlock, err := a.data.lock()
	if err != nil {
		return err
	}
	defer unlock()
	st, err := store.Open(ctx, a.data.store())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	var pointer *chancery.Pointer
	err = st.View(ctx, func(tx *store.Tx) (err error) {
		pointer, err = tx.Pointer()
		return err
	})
	if err != nil {
		return err
	}
	if err := pointer.Verify(pointer.FleetID()); err != nil {
		return fmt.Errorf("the stored pointer record: %w", err)
	}
	keeper, err := openAnchor(ctx, a.data.anchor(&config), st, pointer, logger)
	if err != nil {
		return err
	}
	defer keeper.Close()
	tokens, err := a.openKeys(ctx, &config, pointer, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tokens.Close()) }()
	ca, err := tokens.Key(keyCA)
	if err != nil {
		return err
	}
	approval, err := tokens.Key(keyApproval)
	if err != nil {
		return err
	}

	cosigners, err := witnesses.New(config.Witness, 0, nil)
	if err != nil {
		return cli.Usage("chancery witness show prints the keys", "%s: [[witness]]: %v", a.data.config(), err)
	}
	l, err := ledger.Open(ctx, ledger.Config{Witnesses: cosigners, WitnessWait: time.Duration(config.WitnessWait), Store: st, Signer: ca, Pointer: pointer, CRLLife: time.Duration(config.CRLLife), DNSSuffix: config.DNSSuffix, Anchor: keeper.Note, Now: time.Now, Logger: logger})
	if err != nil {
		return err
	}
	defer l.Close()
	roots, err := a.roots(&config)
	if err != nil {
		return err
	}
	rules, err := a.loadPolicy(ctx, st, pointer, logger)
	if err != nil {
		return err
	}
	var x509 *issuer.Issuer
	if key, err := tokens.Key(keyX509); err == nil {
		if x509, err = issuer.New(issuer.Config{Store: st, Pointer: pointer, Signer: key, Current: l.CRL}); err != nil {
			return err
		}
	}
	auth, err := authority.New(authority.Config{Store: st, Ledger: l, Pointer: pointer, Approval: approval, X509: x509, Now: time.Now, Roots: roots, Policy: rules, Logger: logger,
		Life: time.Duration(config.CertificateLife), ReattestWindow: time.Duration(config.ReattestWindow)})
	if err != nil {
		return cli.Usage("", "%s: %v", a.data.config(), err)
	}
	for _, t := range tokens.Status() {
		if t.Info.Simulator {
			logger.Warn("SIMULATOR: CA:SK is in a file, in a token that is a program", "token", t.Info.Label)
		}
	}
	verifier := chancery.NewVerifier(chancery.Trust{Pointer: pointer, CRL: l.CRL()})
	node := &api.Node{Authority: auth, Ledger: l, Pointer: pointer, Verifier: verifier, X509: x509, Rate: config.EnrollRate, Now: time.Now, Logger: logger}
	admin := &api.Admin{Authority: auth, Ledger: l, Store: st, Pointer: pointer, X509: x509, Started: time.Now(), Now: time.Now, Logger: logger, Tokens: tokens.Status, Anchor: keeper,
		KeepPolicy: func(text []byte) error { return durable.WriteFile(a.data.policy(), text) }}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.serveNodes(ctx, &config, node, logger) })
	g.Go(func() error { return a.serveOperators(ctx, &config, admin, logger) })
	g.Go(func() error { return heartbeat(ctx, l, auth, time.Duration(config.Heartbeat), logger) })
	g.Go(func() error { return follow(ctx, l, verifier, logger) })
	g.Go(func() error {
		select {
		case <-l.Halted():
			return l.Err()
		case <-ctx.Done():
			return nil
		}
	})
	logger.Info("serving", "nodes", config.Listen, "operators", a.data.socket(), "pin", pointer.FleetID().Pin(), "log_size", l.Size(), "crl", l.CRL().Head().Number)
	daemon.SdNotify(false, daemon.SdNotifyReady) // of no interest to anybody but systemd
	return g.Wait()
}

// openKeys opens the tokens for the keys that a coordinator at work signs with.
// It works without the X.509 issuer's: nodes do not need that.
func (a *app) openKeys(ctx context.Context, config *Config, p *chancery.Pointer, logger *slog.Logger) (*hsm.Pool, error) {
	pinned := map[string]chancery.PublicKey{keyCA: p.Current().Key, keyApproval: p.Approval}
	if !p.X509Issuer.IsZero() {
		pinned[keyX509] = p.X509Issuer
	}
	tokens, err := openTokens(ctx, config, p.FleetID(), a.data.latch(), logger, pinned)
	if err == nil || ctx.Err() != nil || p.X509Issuer.IsZero() {
		return tokens, err
	}
	delete(pinned, keyX509)
	tokens, without := openTokens(ctx, config, p.FleetID(), a.data.latch(), logger, pinned)
	if without != nil {
		return nil, err // the X.509 issuer is not all that is wrong
	}
	logger.Error("no X.509 certificate and no X.509 CRL is made until a start finds the X.509 issuer's key", "error", err)
	return tokens, nil
}

// lock makes sure that one coordinator works on the data directory.
func (d dataDir) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(string(d), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, cli.Failure("stop it first", "another coordinator works on %s", d)
	}
	return func() { f.Close() }, nil
}

// drain is how long requests may take to end when the coordinator stops.
const drain = 5 * time.Second

func serveUntil(ctx context.Context, s *http.Server, serve func() error) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close() // long polls are cut
		}
	}()
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}

func (a *app) serveNodes(ctx context.Context, config *Config, node *api.Node, logger *slog.Logger) error {
	pair, err := loadTLSKey(a.data.tlsKey())
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return cli.Failure("change listen in "+a.data.config(), "%v", err)
	}
	s := &http.Server{
		Handler:           api.NewNode(node),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      90 * time.Second, // above the longest poll
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		// Long polls end when the coordinator stops.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	return serveUntil(ctx, s, func() error { return s.Serve(node.Listen(listener, pair)) })
}

// serveOperators listens on the admin socket. Whoever may open it is an
// operator, so it is its owner's alone from the moment that it exists, and then
// also the operators' group's.
func (a *app) serveOperators(ctx context.Context, config *Config, admin *api.Admin, logger *slog.Logger) error {
	os.Remove(a.data.socket())                           // of a coordinator that was killed; the lock says that none runs
	listener, err := net.Listen("unix", a.data.socket()) // private by the umask, see run
	if err != nil {
		return err
	}
	if err := os.Chmod(a.data.socket(), 0o600); err != nil { // nobody executes a socket
		return errors.Join(err, listener.Close())
	}
	if err := a.admitGroup(config.OperatorGroup); err != nil {
		return errors.Join(err, listener.Close())
	}
	s := &http.Server{Handler: api.NewAdmin(admin), ConnContext: api.WithOperator, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx }}
	return serveUntil(ctx, s, func() error { return s.Serve(listener) })
}

// admitGroup lets a group's members at the socket, and at it only: the
// directory lets them through and shows them nothing.
func (a *app) admitGroup(name string) error {
	if name == "" {
		return nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return cli.Usage("create it, or change operator_group", "operator_group: %v", err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		mode fs.FileMode
	}{{a.data.socket(), 0o660}, {string(a.data), 0o710}} {
		if err := errors.Join(os.Chown(f.path, -1, gid), os.Chmod(f.path, f.mode)); err != nil {
			return cli.Failure("the user that the coordinator runs as must be a member of the group", "operator_group: %v", err)
		}
	}
	return nil
}

// heartbeat keeps the CRL fresh and the log's checkpoint current, and closes
// what nobody came back for.
func heartbeat(ctx context.Context, l *ledger.Ledger, auth *authority.Authority, every time.Duration, logger *slog.Logger) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := errors.Join(l.PublishCRL(ctx), l.Checkpoint(ctx), auth.Sweep(ctx)); err != nil && ctx.Err() == nil {
			logger.Error("heartbeat failed", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// follow hands every new list to the verifier that judges renewing nodes.
func follow(ctx context.Context, l *ledger.Ledger, v *chancery.Verifier, logger *slog.Logger) error {
	for {
		have := v.Trust().CRL.Head().Number
		update, changed, err := l.CRLAfter(have)
		if err == nil && update != nil {
			_, err = v.UpdateCRL(update.List, time.Now())
		}
		if err != nil {
			logger.Error("own CRL is not accepted", "error", err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
