package authority_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// channel is the TLS connection that enrolments come over.
var channel = authority.Channel{Exporter: [32]byte{1, 2, 3}}

// A world is a coordinator, and a chip that is not enrolled with it.
type world struct {
	*appliancetest.Coordinator
	t       *testing.T
	process *tpmtest.TPM
	chip    *tpm.TPM
}

func newWorld(t *testing.T, edit ...func(*authority.Config)) *world {
	t.Helper()
	process := tpmtest.New(t)
	w := &world{t: t, process: process, chip: process.Open(t)}
	w.Coordinator = appliancetest.New(t, tpmtest.Roots(t), edit...)
	return w
}

// node makes a node key in the world's chip.
func (w *world) node(name string, sealed bool) *appliancetest.Node {
	w.t.Helper()
	return appliancetest.NewNode(w.t, w.Coordinator, w.chip, name, sealed)
}

// other makes a node in a chip of its own.
func (w *world) other(name string) *appliancetest.Node {
	w.t.Helper()
	return appliancetest.NewNode(w.t, w.Coordinator, tpmtest.New(w.t).Open(w.t), name, false)
}

// connect opens an enrolment that must be answered.
func (w *world) connect(n *appliancetest.Node) *chancery.Answer {
	w.t.Helper()
	return w.connectOver(channel, n)
}

func (w *world) connectOver(ch authority.Channel, n *appliancetest.Node) *chancery.Answer {
	w.t.Helper()
	answer, err := w.Authority.Connect(w.t.Context(), ch, n.Connection(ch.Exporter))
	if err != nil {
		w.t.Fatal(err)
	}
	return answer
}

func (w *world) intake(answer *chancery.Answer) chancery.IntakeID {
	w.t.Helper()
	id, err := authority.ParseIntakeID(answer.Intake)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// submit goes on with an enrolment that must get a verdict.
func (w *world) submit(answer *chancery.Answer, s *chancery.Submission) *chancery.Verdict {
	w.t.Helper()
	v, err := w.Authority.Submit(w.t.Context(), w.intake(answer), s)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// enrol takes a node from the initial connection to N:C.
func (w *world) enrol(n *appliancetest.Node) *chancery.Certificate {
	w.t.Helper()
	answer := w.connect(n)
	return w.issued(w.submit(answer, n.Submission(answer)))
}

// occupy has CA:SK sign a checkpoint, which ends when release is called.
func (w *world) occupy() (release func()) {
	w.t.Helper()
	let := w.CA.Hold()
	asked := len(w.CA.Asked())
	done := make(chan error, 1)
	go func() { done <- w.Ledger.Checkpoint(w.t.Context()) }()
	w.eventually("CA:SK is busy", func() bool { return len(w.CA.Asked()) > asked })
	return sync.OnceFunc(func() {
		let()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// issued returns the N:C of a verdict.
func (w *world) issued(v *chancery.Verdict) *chancery.Certificate {
	w.t.Helper()
	if v.Status != chancery.VerdictIssued {
		w.t.Fatalf("verdict %q, reason %q", v.Status, v.Reason)
	}
	nc, err := chancery.ParseCertificate(v.NC)
	if err != nil {
		w.t.Fatal(err)
	}
	return nc
}

// renewal is the connection that a node opens under its N:C.
func renewal(nc *chancery.Certificate, fleet chancery.FleetID) authority.Channel {
	return authority.Channel{Exporter: [32]byte{4, 5, 6}, Peer: &chancery.Peer{Name: nc.Name, NodeID: nc.NodeID(fleet), Certificate: nc, Until: nc.NotAfter}}
}

// wantRefusal checks that an error is a refusal with the code, and that it
// tells no more than a refusal does.
func wantRefusal(t testing.TB, what string, err error, code string) {
	t.Helper()
	r, ok := errors.AsType[*authority.Refusal](err)
	if !ok || r.Code != code || r.Status < 400 || r.Status > 499 || r.Detail == "" || r.Hint() != r.Tip {
		t.Errorf("%s: %v (%+v), want a refusal with code %q", what, err, r, code)
	}
}

// nodeRow returns what the store has of a node.
func (w *world) nodeRow(id chancery.NodeID) (n *store.Node) {
	w.t.Helper()
	w.View(func(tx *store.Tx) (err error) {
		n, err = tx.Node(id)
		return err
	})
	return n
}

func (w *world) intakeRow(answer *chancery.Answer) (i *store.Intake) {
	w.t.Helper()
	w.View(func(tx *store.Tx) (err error) {
		i, err = tx.Intake(w.intake(answer))
		return err
	})
	return i
}

// revoke revokes a node by its name.
func (w *world) revoke(name string) {
	w.t.Helper()
	if _, err := w.Authority.RevokeNode(w.t.Context(), "op", name, chancery.ReasonUnspecified, "test"); err != nil {
		w.t.Fatal(err)
	}
}

// eventually waits for what another goroutine does.
func (w *world) eventually(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("in vain: %s", what)
		}
	}
}

// A wire is the connection to a chip whose owner does not keep to package tpm.
// The package must not have the chip open meanwhile.
type wire struct {
	t testing.TB
	net.Conn
}

var _ transport.TPM = wire{}

func dial(t testing.TB, process *tpmtest.TPM) wire {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(process.Device(), "swtpm:"))
	if err != nil {
		t.Fatal(err)
	}
	return wire{t, conn}
}

// Send sends a command and returns the response.
func (w wire) Send(command []byte) ([]byte, error) {
	if _, err := w.Write(command); err != nil {
		return nil, err
	}
	head := make([]byte, 10)
	if _, err := io.ReadFull(w, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[2:])
	if size < 10 || size > 4096 {
		return nil, fmt.Errorf("a response of %d bytes", size)
	}
	rest := make([]byte, size-10)
	_, err := io.ReadFull(w, rest)
	return append(head, rest...), err
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// readNV reads an index of the chip that anybody may read.
func (w wire) readNV(index tpm2.TPMHandle) []byte {
	w.t.Helper()
	public := must(tpm2.NVReadPublic{NVIndex: index}.Execute(w))(w.t)
	size := must(public.NVPublic.Contents())(w.t).DataSize
	read := must(tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName}, Size: size,
	}.Execute(w))(w.t)
	return read.Data.Buffer
}

// srk returns the chip's storage root key, which package tpm made.
func (w wire) srk() tpm2.AuthHandle {
	w.t.Helper()
	const handle = tpm2.TPMHandle(0x81000001)
	public := must(tpm2.ReadPublic{ObjectHandle: handle}.Execute(w))(w.t)
	return tpm2.AuthHandle{Handle: handle, Name: public.Name, Auth: tpm2.PasswordAuth(nil)}
}

// create makes a node key under a seal that is not true: like is a sealed key
// of the same chip.
func (w wire) create(like *tpm.KeyFile, seal tpm.Seal) *tpm.KeyFile {
	w.t.Helper()
	template := must(tpm2.Unmarshal[tpm2.TPMTPublic](like.Public))(w.t)
	policy := seal.Policy()
	template.AuthPolicy.Buffer = policy[:]
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	rsp := must(tpm2.Create{
		ParentHandle: w.srk(),
		InPublic:     tpm2.New2B(*template),
		CreationPCR:  tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(7)}}},
	}.Execute(w))(w.t)
	return &tpm.KeyFile{Public: rsp.OutPublic.Bytes(), Private: rsp.OutPrivate.Buffer, CreationData: rsp.CreationData.Bytes(),
		CreationTicket: tpm2.Marshal(rsp.CreationTicket), Seal: &seal}
}

// attest has an unsealed node key sign a TPMS_ATTEST: the key is not
// restricted, so the chip signs what it did not compose.
func (w wire) attest(file *tpm.KeyFile, attest []byte) chancery.Attestation {
	w.t.Helper()
	parent := w.srk()
	loaded := must(tpm2.Load{ParentHandle: parent, InPrivate: tpm2.TPM2BPrivate{Buffer: file.Private},
		InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](file.Public)}.Execute(w))(w.t)
	defer tpm2.FlushContext{FlushHandle: loaded.ObjectHandle}.Execute(w)
	digest := must(tpm2.Hash{Data: tpm2.TPM2BMaxBuffer{Buffer: attest}, HashAlg: tpm2.TPMAlgSHA256, Hierarchy: tpm2.TPMRHNull}.Execute(w))(w.t)
	signed := must(tpm2.Sign{
		KeyHandle:  tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: tpm2.PasswordAuth(nil)},
		Digest:     digest.OutHash,
		InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(w))(w.t)
	return chancery.Attestation{Attest: bytes.Clone(attest), Signature: tpm2.Marshal(signed.Signature)}
}

// publish makes the next list.
func (w *world) publish() {
	w.t.Helper()
	if err := w.Ledger.PublishCRL(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// verify judges a certificate as a peer that holds the coordinator's current
// list.
func (w *world) verify(nc *chancery.Certificate) error {
	w.t.Helper()
	v := chancery.NewVerifier(chancery.Trust{Pointer: w.Pointer, CRL: w.Ledger.CRL()})
	_, err := v.Verify([][]byte{nc.Raw()}, "", chancery.NodeID{}, chancery.Policy{}, w.Clock.Now())
	return err
}

func serial(t testing.TB, index uint64) merkle.Serial {
	return must(merkle.NewSerial(1, index))(t)
}
