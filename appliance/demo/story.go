package demo

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/child"
	"github.com/chancery-pki/chancery/simulator/fleet"
	"github.com/chancery-pki/chancery/simulator/swtpm"
	"github.com/chancery-pki/chancery/tpm"
)

// ceremony makes the coordinator and starts it.
func (w *world) ceremony(ctx context.Context) error {
	for _, name := range []string{"edge-1", "edge-2", "stranger"} {
		start := time.Now()
		if _, err := w.machine(name); err != nil {
			return err
		}
		w.tell(start, name, "", "a machine with a SIMULATOR chip, its EK certified by a manufacturer CA of the simulator")
	}
	address, err := w.freeAddress()
	if err != nil {
		return err
	}
	w.url = "https://" + address
	start := time.Now()
	var made struct {
		Pin  string `json:"pin"`
		CA   string `json:"ca_key"`
		CAID string `json:"ca_id"`
	}
	args := []string{"init", "--simulator", "--url", w.url, "--listen", address, "--simulator-roots", strings.Join(swtpm.Roots(w.path("manufacturer")), ",")}
	device := "SoftHSM"
	if w.Model != "" {
		args, device = append(args, "--device-model", w.Model), "SoftHSM with the speed of "+w.Model
	}
	if err := w.chancery(ctx, &made, args...); err != nil {
		return err
	}
	w.pin = made.Pin
	w.tell(start, "coordinator", "CA:SK", "generated in a PKCS#11 token (SIMULATOR: %s), not extractable; CA:PK %s", device, made.CA[:23])
	var pointer struct {
		Sequence int    `json:"sequence"`
		Verifies string `json:"verifies"`
	}
	start = time.Now()
	if err := w.chancery(ctx, &pointer, "pointer", "show"); err != nil {
		return err
	}
	if pointer.Verifies != "yes" {
		return fmt.Errorf("pointer record: %s", pointer.Verifies)
	}
	w.tell(start, "coordinator", "CA:S", "CA:SK signed CA:PK; both are in the pointer record")
	w.tell(start, "coordinator", "pointer record", "number %d verifies under the pin %s…", pointer.Sequence, made.Pin[:20])
	start = time.Now()
	if err := w.serve(ctx); err != nil {
		return err
	}
	w.tell(start, "coordinator", "CRL", "serving %s; the first list is signed", w.url)
	return nil
}

// serve starts the coordinator and waits until it answers.
func (w *world) serve(ctx context.Context) (err error) {
	if w.server, err = w.start(w.path("coordinator.log"), w.Chancery, "--data", w.path("coordinator"), "serve"); err != nil {
		return err
	}
	return until(ctx, "the coordinator", func() (bool, error) { return true, w.chancery(ctx, nil, "status") })
}

// enrolments brings both nodes through every step of the first diagram.
func (w *world) enrolments(ctx context.Context) error {
	for _, name := range []string{"edge-1", "edge-2"} {
		n := w.nodes[name]
		token, err := w.token(ctx, name)
		if err != nil {
			return err
		}
		var joined struct {
			Serial    string `json:"serial"`
			Simulator bool   `json:"simulator"`
			Steps     []Step `json:"steps"`
		}
		err = w.agent(ctx, n, &joined, "join", w.url, "--pin", w.pin, "--token-file", token, "--name", name, "--tpm", n.chip.Device())
		if err != nil {
			return err
		}
		for _, s := range joined.Steps {
			w.Report(Step{w.chapter, name, s.Symbol, s.What, s.MS})
		}
		if !joined.Simulator {
			return fmt.Errorf("%s: the certificate does not say that the chip is a simulator", name)
		}
		if err := w.up(n); err != nil {
			return err
		}
	}
	return errors.Join(w.ready(ctx, w.nodes["edge-1"]), w.ready(ctx, w.nodes["edge-2"]))
}

// talk has each node open a session to the other.
func (w *world) talk(ctx context.Context) error {
	for _, pair := range [][2]string{{"edge-1", "edge-2"}, {"edge-2", "edge-1"}} {
		from, to := w.nodes[pair[0]], w.nodes[pair[1]]
		start := time.Now()
		s, err := w.ping(ctx, from, to)
		if err != nil {
			return err
		}
		w.tell(start, from.name, "N:S, N:C", "%s accepted %s (serial %s), %s accepted %s (serial %s); handshake %.1f ms",
			from.name, to.name, s.Peer.Serial, to.name, from.name, s.Self.Serial, s.MS)
	}
	return nil
}

// stranger tries to get in: at the coordinator with a token that nobody made,
// at a node with a certificate of its own making.
func (w *world) stranger(ctx context.Context) error {
	n := w.nodes["stranger"]
	pin, err := chancery.ParsePin(w.pin)
	if err != nil {
		return err
	}
	forged := w.path("token-stranger")
	if err := os.WriteFile(forged, []byte(chancery.NewToken(pin).Reveal()), 0o600); err != nil {
		return err
	}
	start := time.Now()
	err = w.agent(ctx, n, nil, "join", w.url, "--token-file", forged, "--name", "stranger", "--tpm", n.chip.Device())
	if err := refused(err, 5, "no good join token"); err != nil {
		return err
	}
	w.tell(start, "coordinator", "", "refused to enrol the stranger: no good join token")

	edge := w.nodes["edge-1"]
	start = time.Now()
	if err := knock(ctx, edge.listen); err != nil {
		return err
	}
	line, err := w.logged(ctx, edge, "peer refused", "check=crl", "reason=unknown-ca")
	if err != nil {
		return err
	}
	w.tell(start, edge.name, "", "refused the stranger: %s", quoted(line, "error="))
	return nil
}

// refused checks that a program said no in the expected way.
func refused(err error, code int, text string) error {
	e, ok := errors.AsType[*exitError](err)
	if !ok || e.code != code || !strings.Contains(e.stderr, text) {
		return fmt.Errorf("expected exit code %d and %q, got: %v", code, text, err)
	}
	return nil
}

// knock opens a TLS connection to a node as a member of another fleet that
// takes anybody for its peer, and expects to be turned away.
func knock(ctx context.Context, address string) error {
	other, err := fleet.New(fleet.Options{})
	if err != nil {
		return err
	}
	nodes, err := other.Enroll(fleet.Request{Name: "stranger"})
	if err != nil {
		return err
	}
	id, err := nodes[0].Identity()
	if err != nil {
		return err
	}
	config := chancery.ClientConfig(chancery.TLSOptions{Identity: func() (*chancery.Identity, error) { return id, nil }, Now: time.Now}, "")
	config.VerifyConnection = nil
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err == nil {
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		_, err = conn.Read(make([]byte, 1)) // READY, or the alert
	}
	// The alert's type is crypto/tls's own; its text is all there is.
	if err == nil || !strings.HasSuffix(err.Error(), "remote error: tls: bad certificate") {
		return fmt.Errorf("the stranger was not turned away by a TLS alert: %v", err)
	}
	return nil
}

// logged waits for a line of an agent's log that has all the parts.
func (w *world) logged(ctx context.Context, n *node, parts ...string) (line string, err error) {
	err = until(ctx, fmt.Sprintf("%s to log %q", n.name, parts), func() (bool, error) {
		b, err := os.ReadFile(n.log)
		if err != nil {
			return false, err
		}
	lines:
		for l := range strings.Lines(string(b)) {
			for _, p := range parts {
				if !strings.Contains(l, p) {
					continue lines
				}
			}
			line = l
			return true, nil
		}
		return false, nil
	})
	return line, err
}

// quoted returns the quoted value of a log line's attribute.
func quoted(line, attr string) string {
	_, rest, _ := strings.Cut(line, attr+`"`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// revocation revokes a node under a live session.
func (w *world) revocation(ctx context.Context) error {
	edge1, edge2 := w.nodes["edge-1"], w.nodes["edge-2"]
	cmd := exec.CommandContext(ctx, w.Agent, "ping", edge2.name, "--addr", edge2.listen, "--keep", "--interval", "50ms", "--state", edge1.state, "-o", "json")
	// Not cmd.StdoutPipe: that one is closed when the program ends, read or not.
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout = in
	start := time.Now()
	live, err := child.Start(cmd)
	in.Close() // the program has its own
	if err != nil {
		return err
	}
	defer live.Kill()
	events := json.NewDecoder(bufio.NewReader(out))
	var e pingEvent
	for range 3 { // the session and two pings: it is alive
		if err := events.Decode(&e); err != nil {
			return fmt.Errorf("the live session: %w", err)
		}
	}
	w.tell(start, edge1.name, "", "holds a session with edge-2 and pings over it")

	start = time.Now()
	var revoked struct {
		Certificates int    `json:"certificates"`
		CRL          uint64 `json:"crl"`
	}
	if err := w.chancery(ctx, &revoked, "node", "revoke", edge2.name, "--yes", "--reason", "demonstration"); err != nil {
		return err
	}
	if revoked.Certificates != 1 {
		return fmt.Errorf("%d certificates revoked, want 1", revoked.Certificates)
	}
	w.tell(start, "coordinator", "CRL", "number %d names edge-2", revoked.CRL)
	for e.Event != "end" {
		if err := events.Decode(&e); err != nil {
			return fmt.Errorf("the live session: %w", err)
		}
	}
	io.Copy(io.Discard, out)
	if !strings.Contains(e.Error, chancery.ErrRevoked.Error()) {
		return fmt.Errorf("the live session ended for another reason: %s", e.Error)
	}
	w.tell(start, edge1.name, "", "cut the live session: %s", e.Error)

	start = time.Now()
	_, err = w.ping(ctx, edge1, edge2)
	if err := refused(err, 5, "refused by the crl check: certificate is revoked"); err != nil {
		return err
	}
	w.tell(start, edge1.name, "", "dialled edge-2 again: refused by the CRL check")
	start = time.Now()
	_, err = w.ping(ctx, edge2, edge1)
	if _, ok := errors.AsType[*exitError](err); !ok {
		return fmt.Errorf("the revoked node still reaches edge-1: %v", err)
	}
	if _, err := w.logged(ctx, edge1, "peer refused", "check=crl", "reason=revoked"); err != nil {
		return err
	}
	w.tell(start, edge1.name, "", "was dialled by edge-2: refused by the CRL check")
	return nil
}

// bootState extends a PCR under a sealed key. The chip refuses to sign until
// the new value is approved, and then signs with the same key.
func (w *world) bootState(ctx context.Context) error {
	n := w.nodes["edge-1"]
	before, err := w.status(ctx, n)
	if err != nil {
		return err
	}
	w.down(n)
	start := time.Now()
	if err := extend(n.chip.Device()); err != nil {
		return err
	}
	w.tell(start, n.name, "", "PCR 7 was extended: the machine is in another boot state")
	start = time.Now()
	if err := w.up(n); err != nil {
		return err
	}
	var sealed agentStatus
	err = until(ctx, "the chip to refuse", func() (bool, error) {
		sealed, err = w.status(ctx, n)
		return strings.HasPrefix(sealed.TPM.State, "sealed"), err
	})
	if err != nil {
		return err
	}
	if sealed.Session != nil {
		return errors.New("the chip signed a session certificate in a boot state that nobody approved")
	}
	w.tell(start, n.name, "N:SK", "the chip refuses to sign; the agent has the new PCR value quoted and waits")
	err = until(ctx, "the node to ask for approval", func() (bool, error) {
		var asked []struct {
			Name     string `json:"name"`
			Approved bool   `json:"approved"`
		}
		err := w.chancery(ctx, &asked, "pcr", "list")
		return len(asked) == 1 && asked[0].Name == n.name && !asked[0].Approved, err
	})
	if err != nil {
		return err
	}
	start = time.Now()
	if err := w.chancery(ctx, nil, "pcr", "approve", n.name); err != nil {
		return err
	}
	w.tell(start, "coordinator", "", "an operator approves the quoted value; the approval key signs the policy")
	start = time.Now()
	if err := w.ready(ctx, n); err != nil {
		return err
	}
	after, err := w.status(ctx, n)
	if err != nil {
		return err
	}
	if after.NodeID != before.NodeID {
		return fmt.Errorf("node id %s became %s: it is not the same key", before.NodeID, after.NodeID)
	}
	w.tell(start, n.name, "N:SK", "signs again, the same key: node id %s…", after.NodeID[:16])
	return nil
}

func extend(device string) error {
	chip, err := tpm.Open(device)
	if err != nil {
		return err
	}
	return errors.Join(chip.ExtendPCR(7, [32]byte{'n', 'e', 'w'}), chip.Close())
}

// audit rebuilds the log from nothing but its entries and CA:PK.
func (w *world) audit(ctx context.Context) error {
	start := time.Now()
	var log struct {
		Size    uint64 `json:"size"`
		Batches int    `json:"batches"`
		Root    string `json:"root"`
	}
	if err := w.chancery(ctx, &log, "log", "verify"); err != nil {
		return err
	}
	if log.Size != 2 {
		return fmt.Errorf("the log has %d entries, want the 2 that were issued", log.Size)
	}
	w.tell(start, "auditor", "", "log verify: %d entries without a gap in %d batches that CA:SK signed, root %s…", log.Size, log.Batches, log.Root[:16])
	return nil
}
