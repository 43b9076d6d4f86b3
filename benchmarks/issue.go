package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/chancery-pki/chancery/simulator/device"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

// tokenSpeeds are signatures a second: a YubiHSM 2, a smart card, cloud HSMs, a
// Luna, and SoftHSM as fast as it is.
var tokenSpeeds = []float64{8.7, 15, 500, 1000, 10_000, math.Inf(1)}

// waiting is how many nodes wait for the ledger at a time, and httpsClients how
// many connections there are where it goes over HTTPS.
const (
	waiting      = 2048
	httpsClients = 128
)

// A rival issues with a signature of the token for each certificate.
type rival struct {
	peer, name string
	https      bool // is held against whole enrolments over HTTPS
}

var rivals = []rival{
	{"crypto11", "ThalesGroup/crypto11 and x509.CreateCertificate", false},
	{"pkcs11", "miekg/pkcs11 and x509.CreateCertificate", false},
	{"bare", "miekg/pkcs11 and a template of bytes, signatures not verified", false},
	{"cfssl", "cfssl v1.6.5, its signer", false},
	{"step-ca", stepCA.name() + ", over HTTPS", true},
}

// issuing compares how many certificates a second there are with tokens of
// several speeds, ours and a signature for each.
func issuing() (results []Result, err error) {
	w, err := newWorkshop(diskDir, "./appliance", "./simulator/cmd/chancery-simulator")
	if err != nil {
		return nil, err
	}
	defer w.remove(&err)
	issuers, noIssuers := buildPeer(w.dir, "issuers")
	step, noStep := stepCA.install()
	token, err := newToken(filepath.Join(w.dir, "token"), false)
	if err != nil {
		return nil, err
	}
	pin := filepath.Join(w.dir, "token", "pin")
	plot := chart{Title: "Certificates a second, by the speed of the token", X: "signatures a second of the token", Y: "certificates a second", Log: true}
	var last capacity
	for i, speed := range tokenSpeeds {
		b := &bench{dir: filepath.Join(w.dir, fmt.Sprint(i)), issuers: issuers, step: step, token: token, pinFile: pin, speed: speed}
		if err := os.Mkdir(b.dir, 0o700); err != nil {
			return nil, err
		}
		own, err := b.ours(w.programs[0], w.programs[1])
		if err != nil {
			return nil, err
		}
		x := min(speed, 100_000)
		plot.add("ledger", true, x, own.ledger)
		plot.add("whole enrolments over HTTPS", true, x, own.https)
		last = own
		for _, r := range rivals {
			id, ours, what := "issue-"+b.name()+"-"+r.peer, own.ledger, b.what()
			if r.https {
				ours, what = own.https, fmt.Sprintf("whole enrolments a second over HTTPS, evidence of a TPM included, %d connections, with %s", httpsClients, b.tokenName())
			}
			absence := noIssuers
			if r.https && absence == nil {
				absence = noStep
			}
			if absence != nil {
				results = append(results, absent(id, absence))
				continue
			}
			theirs, theirCPU, err := b.rival(r)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", id, err)
			}
			fmt.Fprintf(os.Stderr, "%s: %.0f a second, ours %.0f\n", id, theirs, ours)
			results = append(results, Result{ID: id, What: what, Ours: ours, Beside: theirs, Peer: r.name, Ratio: ours / theirs, Target: ">= 1", Met: ours >= theirs, Command: command + " issue"})
			plot.add(r.name, false, x, theirs)
			if r.https && math.IsInf(speed, 1) {
				results = append(results, Result{ID: id + "-cpu", What: "microseconds of CPU of the coordinator and its signer process for each of these", Ours: own.cpu, Beside: theirCPU, Peer: r.name + ": of step-ca",
					Ratio: theirCPU / own.cpu, Met: true, Command: command + " issue"})
			}
		}
	}
	// The last one is SoftHSM.
	more, err := (&bench{dir: w.dir, issuers: issuers, token: token, pinFile: pin, speed: math.Inf(1)}).processes(last, noIssuers)
	if err != nil {
		return nil, err
	}
	return append(results, more...), plot.write("issue")
}

// A bench is a token of one speed, with ours or a peer at it.
type bench struct {
	dir           string
	issuers, step string // programs
	token         softhsm.Instance
	pinFile       string
	speed         float64
}

func (b *bench) name() string {
	if math.IsInf(b.speed, 1) {
		return "free"
	}
	return strings.ReplaceAll(fmt.Sprintf("%g", b.speed), ".", "-")
}

func (b *bench) tokenName() string {
	if math.IsInf(b.speed, 1) {
		return "SoftHSM"
	}
	return fmt.Sprintf("a token of %g signatures a second", b.speed)
}

// model is the device, nil for SoftHSM alone.
func (b *bench) model() *device.Model {
	if math.IsInf(b.speed, 1) {
		return nil
	}
	return &device.Model{Latency: time.Duration(float64(time.Second) / b.speed), Parallel: 1}
}

// seconds is how long to issue, so that a slow token makes some signatures.
func (b *bench) seconds() float64 { return max(float64(sized(5, 2)), 40/b.speed) }

// what is said of the ledger.
func (b *bench) what() string {
	return fmt.Sprintf("certificates a second by the ledger, %d waiting, with %s", waiting, b.tokenName())
}

// capacity is what ours does: certificates a second by the ledger, whole enrolments
// a second over HTTPS, and microseconds of CPU for each of those.
type capacity struct{ ledger, https, cpu float64 }

func (b *bench) ours(program, simulator string) (done capacity, err error) {
	c, maker, err := newPaperCoordinator(program, b.dir)
	if err != nil {
		return done, err
	}
	o, err := newOffice(c.dir, b.model())
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	if err := o.open(o.ca, ""); err != nil {
		return done, err
	}
	j := &judge{fleet: o.pointer.FleetID(), trustDomain: o.pointer.TrustDomain, roles: []string{"web"}, hasty: true}
	n := sized(100_000, 20_000)
	if math.IsInf(b.speed, 1) || b.speed > 100 {
		n *= 2
	}
	var took time.Duration
	for j.made < n {
		list, err := j.next(min(50_000, n-j.made))
		if err != nil {
			return done, err
		}
		began := time.Now()
		if err := o.issueAll(list, waiting); err != nil {
			return done, err
		}
		took += time.Since(began)
	}
	token, stop, err := o.serve(c, maker)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	pids, err := children(os.Getpid()) // signer processes
	if err != nil {
		return done, err
	}
	pids = append(pids, os.Getpid())
	before, err := usedBy(pids)
	if err != nil {
		return done, err
	}
	r, err := c.enrolFleet(simulator, maker, token, "--nodes", fmt.Sprint(sized(2000, 300)), "--connections", fmt.Sprint(httpsClients), "--ek", "rsa", "--no-crl")
	if err != nil {
		return done, err
	}
	used, err := usedBy(pids)
	if err != nil {
		return done, err
	}
	return capacity{float64(n) / took.Seconds(), r.Enrolments.PerSecond, float64((used - before).Microseconds()) / float64(r.Enrolments.Succeeded)}, nil
}

// usedBy is the CPU time that processes have used.
func usedBy(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		d, err := cpuOf(pid)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// An issuersJob and an issuersResult are what peers/issuers reads and writes.
type issuersJob struct {
	Peer                        string
	Module, Token, PINFile, Key string
	CA                          string
	URL, Provisioner            string
	Callers                     int
	Seconds                     float64
	Most                        int
}

type issuersResult struct {
	Certificates int     `json:"certificates"`
	Seconds      float64 `json:"seconds"`
}

// job is what all peers get, and the environment in which the module is the
// token's device.
func (b *bench) job(peer string) (j issuersJob, env []string, stop func() error, err error) {
	module, env, stop := b.token.URI.ModulePath, os.Environ(), func() error { return nil }
	if m := b.model(); m != nil {
		d, err := device.New(filepath.Join(b.dir, "device-"+peer), module, *m)
		if err != nil {
			return j, nil, nil, err
		}
		module, stop = d.Module(), d.Close
		for k, v := range d.Env() {
			env = append(env, k+"="+v)
		}
	}
	return issuersJob{Peer: peer, Module: module, Token: b.token.URI.Token, PINFile: b.pinFile, Key: keyLabel, CA: filepath.Join(b.dir, "ca"), Callers: 16, Seconds: b.seconds(),
		Most: 1 + int(min(b.speed*b.seconds()*1.5+32, float64(sized(60_000, 15_000))))}, env, stop, nil
}

// ask has the program do a job.
func (b *bench) ask(j issuersJob, env []string) (r issuersResult, err error) {
	in, err := json.Marshal(j)
	if err != nil {
		return r, err
	}
	cmd := exec.Command(b.issuers)
	cmd.Stdin, cmd.Env = bytes.NewReader(in), env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("%w: %s", err, stderr.String())
	}
	if j.Peer == makeCA {
		return r, nil
	}
	return r, json.Unmarshal(out, &r)
}

const makeCA = "make-ca"

// rival is how many certificates a second the peer issues, and for a server the
// microseconds of its CPU for each.
func (b *bench) rival(r rival) (rate, used float64, err error) {
	j, env, stop, err := b.job(r.peer)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	own := j
	own.Peer = makeCA
	if _, err := b.ask(own, env); err != nil {
		return 0, 0, err
	}
	var pids []int
	if r.https {
		j.Callers = httpsClients
		j.Most = min(j.Most+httpsClients, sized(8000, 3000))
		pid, end, err := b.startStepCA(&j, env)
		if err != nil {
			return 0, 0, err
		}
		defer end()
		pids = []int{pid}
	}
	before, err := usedBy(pids)
	if err != nil {
		return 0, 0, err
	}
	got, err := b.ask(j, env)
	if err != nil {
		return 0, 0, err
	}
	after, err := usedBy(pids)
	return float64(got.Certificates) / got.Seconds, float64((after - before).Microseconds()) / float64(got.Certificates), err
}
