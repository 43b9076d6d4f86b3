// Package secondopinion has another implementation judge what a chip quoted:
// the server package of go-tpm-tools, which shares no code with package tpm.
// Two that were written by different people rarely have the same hole.
//
// # A process of its own
//
// What it judges comes from a node that may be an adversary, and not every
// number in it is looked at before memory is asked for. So [Judge] runs it in a
// process, the same program again, with little memory and little time; that it
// dies of its input is a "no". A program that calls Judge calls [Process] first
// thing in main.
package secondopinion

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/google/go-eventlog/extract"
	gepb "github.com/google/go-eventlog/proto/state"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tpmeventlog"
	"github.com/google/go-tpm-tools/proto/attest"
	pb "github.com/google/go-tpm-tools/proto/tpm"
	"github.com/google/go-tpm-tools/server"
	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/child"
	"github.com/chancery-pki/chancery/tpm"
)

const (
	// processName is the first argument (argv[0]) of the process.
	processName = "chancery-second-opinion"
	// maxMemory is the process's address space, in bytes, of which a Go program
	// reserves most without using it.
	maxMemory = 4 << 30
	// maxTime is how long it may take.
	maxTime = 10 * time.Second
)

// A question is what the process is asked, on its standard input.
type question struct {
	AK         []byte
	Qualifying [32]byte
	Quote      *chancery.Quote
	EventLog   []byte
}

// Process judges and ends, if this process was started to do that; else it
// returns at once.
func Process() {
	if len(os.Args) == 0 || os.Args[0] != processName {
		return
	}
	limit := &unix.Rlimit{Cur: maxMemory, Max: maxMemory}
	if err := unix.Setrlimit(unix.RLIMIT_AS, limit); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var q question
	err := json.NewDecoder(os.Stdin).Decode(&q)
	if err == nil {
		err = judge(&q)
	}
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Judge verifies that the quote is the attestation key's over the qualifying
// data and of these PCR values, and that the event log, if there is one, leads
// to those of PCR 0 to 9. ak is a TPMT_PUBLIC. It judges nothing else: whose
// key that is, package tpm has seen to.
//
// The library is stricter with logs than package eventlog: one that shows
// Secure Boot switched on must have the variables PK, KEK and db, and the
// authority that was used.
func Judge(ak []byte, qualifying [32]byte, q *chancery.Quote, eventLog []byte) error {
	if q == nil {
		return errors.New("there is no quote")
	}
	in, err := json.Marshal(question{ak, qualifying, q, eventLog})
	if err != nil {
		return err
	}
	var out, words bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{processName}
	cmd.Env = append(os.Environ(), "GOTRACEBACK=none")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &words
	c, err := child.Start(cmd)
	if err != nil {
		return fmt.Errorf("second opinion: %w", err)
	}
	select {
	case <-c.Done():
	case <-time.After(maxTime):
		c.Kill()
		return fmt.Errorf("go-tpm-tools did not come to an end within %s", maxTime)
	}
	err = c.Wait()
	switch {
	case err == nil:
		return nil
	case cmd.ProcessState.ExitCode() == 1 && out.Len() > 0:
		return errors.New(out.String())
	}
	first, _, _ := bytes.Cut(words.Bytes(), []byte("\n"))
	return fmt.Errorf("go-tpm-tools died of it: %w: %s", err, first)
}

// lastLogged is the last PCR that the firmware's log explains.
const lastLogged = 9

// judge asks the library twice: with all that was quoted and no log, and with
// the log and what it explains.
func judge(q *question) error {
	key, err := tpm.ParseAttestationKey(q.AK) // for the trusted key; the library parses the area itself
	if err != nil {
		return err
	}
	quote := &pb.Quote{Quote: q.Quote.Attest, RawSig: q.Quote.Signature, Pcrs: &pb.PCRs{Hash: pb.HashAlgo_SHA256, Pcrs: map[uint32][]byte{}}}
	bank := register.PCRBank{TCGHashAlgo: gepb.HashAlgo_SHA256}
	for pcr, v := range q.Quote.Values {
		quote.Pcrs.Pcrs[uint32(pcr)] = v
		if pcr <= lastLogged {
			bank.PCRs = append(bank.PCRs, register.PCR{Index: pcr, Digest: v, DigestAlg: crypto.SHA256})
		}
	}
	_, err = server.VerifyAttestation(&attest.Attestation{AkPub: q.AK, Quotes: []*pb.Quote{quote}, EventLog: []byte{}},
		server.VerifyOpts{Nonce: q.Qualifying[:], TrustedAKs: []crypto.PublicKey{key.Key().ECDSA()}})
	if err == nil && len(q.EventLog) > 0 {
		_, err = tpmeventlog.ReplayAndExtract(q.EventLog, bank, extract.Opts{AllowEmptySBVar: true, AllowEFIAppBeforeCallingEvent: true})
	}
	if err != nil {
		return fmt.Errorf("go-tpm-tools: %w", err)
	}
	return nil
}
