package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/chancery-pki/chancery/appliance/witnesses"
	"github.com/chancery-pki/chancery/internal/scripttest"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/merkle/tlog"
	"github.com/chancery-pki/chancery/simulator/softhsm"
	"github.com/chancery-pki/chancery/simulator/swtpm"
	"github.com/chancery-pki/chancery/tpm"
)

// TestScripts runs the command lines in testdata/script. Each script has a
// data directory and an address of its own, both programs in PATH, and:
//
//	$ADDR $URL              where its coordinator is to listen, $URL is https://$ADDR
//	$WITNESS                another address, for a witness
//	$ROOTS                  the certificates of the maker of its chips, for --simulator-roots
//	$SOFTHSM $SPY           PKCS#11 modules: SoftHSM, and OpenSC's that writes down the calls of another
//	$MTC                    certificates of another implementation, merkle/testdata/generator
//	exits CODE PROGRAM...   run a program, which must end with this exit code
//	until PROGRAM...        repeat a program until it succeeds
//	above PATH N PROGRAM... repeat a program until its JSON has a number above N there
//	[!] json PATH VALUE     look into the JSON on standard output: .name, .list.0, .list.length
//	keys PATH NAME...       the object there has these members and no others
//	let VAR PATH            keep a value of it
//	mode PERM FILE          compare a file's permissions
//	chip VAR                make a software TPM and name its device, and as VAR_SOCKET its socket
//	extend DEVICE PCR       extend a PCR of it, as a changed boot does
//	fetch PATH FILE         what the coordinator serves to nodes under the path
//	[!] cosign URL PATH KEY... ask a witness about the log that the coordinator serves under the path
//	vector NAME FILE        an artefact out of testdata/vectors/v1.json
//	flip PART IN OUT        change a bit of a certificate: tbs, proof or signature
func TestScripts(t *testing.T) {
	needSimulators(t)
	programs, err := build()
	if err != nil {
		t.Fatal(err)
	}
	generator, err := filepath.Abs("../merkle/testdata/generator")
	if err != nil {
		t.Fatal(err)
	}
	module, err := softhsm.Locate()
	if err != nil {
		t.Fatal(err)
	}
	spies, err := filepath.Glob("/usr/lib*/*/pkcs11-spy.so") // also /usr/lib64/pkcs11
	if err != nil || len(spies) == 0 {
		t.Fatalf("pkcs11-spy.so is not installed (%v): install opensc (make deps)", err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			address, err := freeAddress()
			env.Setenv("ADDR", address)
			env.Setenv("URL", "https://"+address)
			second, more := freeAddress()
			env.Setenv("WITNESS", second)
			err = errors.Join(err, more)
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("MTC", generator)
			env.Setenv("SOFTHSM", module)
			env.Setenv("SPY", spies[0])
			env.Setenv("ROOTS", strings.Join(swtpm.Roots(filepath.Join(env.WorkDir, "manufacturer")), ","))
			env.Setenv("CHANCERY_DATA", filepath.Join(env.WorkDir, "data"))
			// The chancery of this test binary comes first, the agent's after.
			env.Setenv("PATH", env.Getenv("PATH")+string(filepath.ListSeparator)+programs)
			return err
		},
		Cmds: scripttest.Commands(map[string]scripttest.Command{
			"chip": chip, "extend": extend, "extended": extended, "fetch": fetch, "cosign": cosign, "vector": vector, "flip": flip,
		}),
	})
}

func chip(ts *testscript.TestScript, neg bool, args []string) {
	scripttest.Usage(ts, !neg && len(args) == 1, "chip VAR")
	work := ts.Getenv("WORK")
	state, err := swtpm.Manufacture(filepath.Join(work, "chips"), args[0], filepath.Join(work, "manufacturer"))
	ts.Check(err)
	p, err := swtpm.Start(state)
	ts.Check(err)
	ts.Defer(func() { p.Stop() })
	ts.Setenv(args[0], p.Device())
	ts.Setenv(args[0]+"_SOCKET", p.Socket())
}

func extend(ts *testscript.TestScript, neg bool, args []string) {
	scripttest.Usage(ts, !neg && len(args) == 2, "extend DEVICE PCR")
	pcr, err := strconv.Atoi(args[1])
	ts.Check(err)
	chip, err := tpm.Open(args[0])
	ts.Check(err)
	ts.Check(errors.Join(chip.ExtendPCR(pcr, [32]byte{1}), chip.Close()))
}

// extended prints what a PCR would be after one more extend.
func extended(ts *testscript.TestScript, neg bool, args []string) {
	scripttest.Usage(ts, !neg && len(args) == 2, "extended DEVICE PCR")
	pcr, err := strconv.Atoi(args[1])
	ts.Check(err)
	chip, err := tpm.Open(args[0])
	ts.Check(err)
	values, err := chip.PCRValues([]int{pcr})
	ts.Check(errors.Join(err, chip.Close()))
	v, digest := values[pcr], [32]byte{1}
	next := sha256.Sum256(append(v[:], digest[:]...))
	fmt.Fprintf(ts.Stdout(), "%x", next)
}

func fetch(ts *testscript.TestScript, neg bool, args []string) {
	scripttest.Usage(ts, !neg && len(args) == 2, "fetch PATH FILE")
	client := &http.Client{Timeout: scripttest.Patience, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // what is fetched proves itself
	resp, err := client.Get(ts.Getenv("URL") + args[0])
	ts.Check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("%s: %s: %s", args[0], resp.Status, b)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
}

// cosign asks a witness as a coordinator does: for cosignatures on the
// checkpoint that the coordinator serves under a path, and for its signature
// over the whole tree as a subtree. It prints the checkpoint with all of them.
func cosign(ts *testscript.TestScript, neg bool, args []string) {
	scripttest.Usage(ts, len(args) >= 3, "[!] cosign URL PATH KEY...")
	client := &http.Client{Timeout: scripttest.Patience, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // what is fetched proves itself
	set, err := witnesses.New([]witnesses.Config{{URL: args[0], Keys: args[2:]}}, scripttest.Patience, client)
	ts.Check(err)
	log, err := tlog.NewHTTP(ts.Getenv("URL")+args[1], client)
	ts.Check(err)
	ctx := context.Background()
	note, err := log.ReadCheckpoint(ctx)
	ts.Check(err)
	n, err := tlog.ParseNote(note)
	ts.Check(err)
	c, err := tlog.ParseCheckpoint(n.Text)
	ts.Check(err)
	tree, err := tlog.Open(ctx, log, c.Size, c.Root, nil)
	ts.Check(err)
	r := witnesses.Request{Checkpoint: note, Prove: func(ctx context.Context, old uint64) ([]merkle.Hash, error) {
		return tree.Consistency(ctx, merkle.Subtree{End: old}, c.Size)
	}}
	if strings.HasPrefix(c.Origin, "oid/") { // certificates are out of these logs only
		r.Subtrees = []witnesses.Subtree{{Subtree: merkle.Subtree{End: c.Size}, Hash: c.Root}}
	}
	var a *witnesses.Answer
	scripttest.Repeat(ts, func() bool {
		a, err = set.Gather(ctx, r)
		ts.Check(err)
		return len(a.Away) == 0 || !errors.Is(a.Away[0], syscall.ECONNREFUSED) // it has just been started
	})
	fmt.Fprintf(ts.Stdout(), "%s", a.Checkpoint)
	for _, list := range a.Subtrees {
		for _, s := range list {
			fmt.Fprintf(ts.Stdout(), "subtree %d %d by %s\n", 0, c.Size, s.Cosigner)
		}
	}
	for _, away := range a.Away {
		fmt.Fprintln(ts.Stderr(), away)
	}
	if (len(a.Away) > 0) != neg {
		ts.Fatalf("away: %v", a.Away)
	}
}

func vector(ts *testscript.TestScript, neg bool, args []string) {
	scripttest.Usage(ts, !neg && len(args) == 2, "vector NAME FILE")
	file, err := os.ReadFile("../testdata/vectors/v1.json")
	ts.Check(err)
	var vectors struct {
		Outputs map[string]string `json:"outputs"`
	}
	ts.Check(json.Unmarshal(file, &vectors))
	b, err := hex.DecodeString(vectors.Outputs[args[0]])
	ts.Check(err)
	if len(b) == 0 {
		ts.Fatalf("there is no vector %q", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
}

func flip(ts *testscript.TestScript, neg bool, args []string) {
	scripttest.Usage(ts, !neg && len(args) == 3, "flip tbs|proof|signature IN OUT")
	block, _ := pem.Decode([]byte(ts.ReadFile(args[1])))
	if block == nil {
		ts.Fatalf("%s is not PEM", args[1])
	}
	c, err := merkle.ParseCertificate(block.Bytes)
	ts.Check(err)
	var part []byte
	switch args[0] {
	case "tbs": // a bit of the key, so that it stays well formed
		part = c.RawSPKI
	case "proof":
		if len(c.Proof.Inclusion) == 0 {
			ts.Fatalf("%s is the only one in its batch, it has no proof", args[1])
		}
		part = c.Proof.Inclusion[0][:]
	case "signature":
		part = c.Proof.Signatures[0].Signature
	default:
		ts.Fatalf("a certificate has no part %q", args[0])
	}
	if bytes.Count(block.Bytes, part) != 1 {
		ts.Fatalf("%s of %s is not where it should be", args[0], args[1])
	}
	der := bytes.Clone(block.Bytes)
	der[bytes.Index(der, part)+len(part)-1] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}
