package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/child"
	"github.com/chancery-pki/chancery/tpm"
)

// build builds the program of a package, such as ./appliance or ./agent.
func build(dir, pkg string, flags ...string) (program string, err error) {
	program = filepath.Join(dir, "chancery-"+filepath.Base(pkg))
	args := append([]string{"build", "-o", program}, flags...)
	out, err := exec.Command("go", append(args, pkg)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return program, nil
}

// A coordinator is the program at work for chips of one maker of simulators,
// with CA:SK in SoftHSM, and without a limit to what one address may ask.
type coordinator struct {
	program, dir string
	url          string
	fleet        chancery.FleetID
	process      *child.Child
}

// startCoordinator makes a fleet in a new directory, and has the program serve
// it.
func startCoordinator(program, dir string, makers []string) (*coordinator, error) {
	c, err := newCoordinator(program, dir, makers)
	if err != nil {
		return nil, err
	}
	return c, c.start()
}

// newCoordinator makes a fleet in a new directory. Nobody serves it yet.
func newCoordinator(program, dir string, makers []string) (*coordinator, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	c := &coordinator{program: program, dir: dir, url: "https://" + address}
	var made struct {
		Pin string `json:"pin"`
	}
	if err := c.run(&made, "init", "--simulator", "--url", c.url, "--listen", address, "--simulator-roots", strings.Join(makers, ",")); err != nil {
		return nil, err
	}
	if c.fleet, err = chancery.ParsePin(made.Pin); err != nil {
		return nil, err
	}
	return c, c.configure("enroll_rate", "0.0")
}

// start has the program serve, with what is added to its environment.
func (c *coordinator) start(env ...string) error {
	if err := c.launch(env...); err != nil {
		return err
	}
	err := eventually(func() error { return c.run(nil, "status") })
	if err != nil {
		c.stop()
	}
	return err
}

// launch starts the program, which serves as soon as it can.
func (c *coordinator) launch(env ...string) error {
	log, err := os.Create(filepath.Join(c.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close() // the program has its own
	cmd := exec.Command(c.program, "--data", c.dir, "serve")
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), env...)
	c.process, err = child.Start(cmd)
	return err
}

// eventually tries until it succeeds.
func eventually(try func() error) error {
	for deadline := time.Now().Add(giveUp); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// run runs a command of the coordinator's and decodes what it prints.
func (c *coordinator) run(out any, args ...string) error {
	cmd := exec.Command(c.program, append([]string{"--data", c.dir, "-o", "json"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("chancery %s: %w: %s", args[0], err, stderr.String())
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// configure changes a line of the configuration.
func (c *coordinator) configure(key, value string) error {
	file := filepath.Join(c.dir, "chancery.toml")
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, key+" = ") {
			lines[i] = key + " = " + value
			return os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600)
		}
	}
	return fmt.Errorf("%s has no key %s", file, key)
}

// token makes a token for so many nodes.
func (c *coordinator) token(names string, uses int) (*chancery.Token, error) {
	var made struct {
		Token string `json:"token"`
	}
	if err := c.run(&made, "token", "create", "--name", names, "--uses", fmt.Sprint(uses)); err != nil {
		return nil, err
	}
	t, err := chancery.ParseToken(made.Token)
	return &t, err
}

func (c *coordinator) stop() { c.process.Stop(10 * time.Second) }

// enrol does what chancery-agent join does, with a sealed key, for the chip and
// the state directory.
func (c *coordinator) enrol(ctx context.Context, token *chancery.Token, name, device, dir string) (*join.Result, error) {
	d, err := state.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	r, err := join.Join(ctx, d, join.Options{
		URL: c.url, Fleet: c.fleet, Token: token, Name: name, Device: device, PCRs: tpm.DefaultPCRs, Now: time.Now,
		Step: func(join.Step) {}, Notice: func(string) {},
	})
	if err == nil && r.Status != join.Enrolled {
		err = fmt.Errorf("%s is %s", name, r.Status)
	}
	return r, err
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
