package evidence_test

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/simulator/fleet"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/eventlog"
	"github.com/chancery-pki/chancery/tpm/eventlog/eventlogtest"
)

// now is when the tests play.
var now = time.Date(2031, 5, 17, 12, 0, 0, 0, time.UTC)

// must is for calls whose failure is a broken test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newMaker is of all tests: its primes are dear.
var newMaker = sync.OnceValues(papertpm.NewMaker)

// A world is a coordinator on paper, which issues whatever a test wants it to:
// the records are of good coordinators and bad ones. What it is believed to be
// is in its pointer record.
type world struct {
	t            testing.TB
	maker        *papertpm.Maker
	ca, approval *fleet.Key
	pointer      *chancery.Pointer
	fleet        chancery.FleetID
	tree         merkle.Tree
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, maker: must(newMaker())(t), ca: must(fleet.NewKey())(t), approval: must(fleet.NewKey())(t)}
	w.pointer = &chancery.Pointer{
		Genesis: chancery.Genesis{CA: w.ca.PublicKey(), NextCA: [32]byte{1}, Created: now},
		Seq:     1, Issued: now, Expires: now.AddDate(1, 0, 0), TrustDomain: "fleet.example",
		Keys:     []chancery.CAKey{w.key(w.ca, chancery.CAKeyCurrent)},
		MinSuite: chancery.P256, MaxLife: 7 * 24 * time.Hour, Approval: w.approval.PublicKey(),
	}
	w.fleet = w.pointer.FleetID()
	w.pointer.Keys[0].CAS = w.sign(w.ca, chancery.CASelf{Key: w.ca.PublicKey(), Created: now})
	w.pointer.Signature = w.sign(w.ca, w.pointer)
	if err := chancery.AcceptPointer(w.fleet, nil, w.pointer, now); err != nil {
		t.Fatal(err)
	}
	for range 3 { // so that the proof of the first N:C is not empty
		w.tree.Append(merkle.HashLeaf(merkle.NullEntry()))
	}
	return w
}

// key is how the pointer record lists a CA key, but for CA:S.
func (w *world) key(k *fleet.Key, state chancery.CAKeyState) chancery.CAKey {
	return chancery.CAKey{Key: k.PublicKey(), State: state, Created: now, ID: chancery.DefaultCAID(k.PublicKey()), Logs: []uint16{1}}
}

func (w *world) sign(k chancery.Signer, s chancery.Statement) chancery.Signature {
	w.t.Helper()
	return must(k.Sign(w.t.Context(), w.fleet, s))(w.t)
}

// trust believes the world's fleet and its maker.
func (w *world) trust() evidence.Trust {
	return evidence.Trust{Pointer: w.pointer, Roots: evidence.Roots{Makers: w.maker.Roots()}}
}

// makers are the maker's certificates apart: the root, and that of the
// authority below it, which chips may carry.
func (w *world) makers() (root *x509.CertPool, issuer []byte) {
	w.t.Helper()
	first, rest := pem.Decode(w.maker.RootsPEM())
	second, _ := pem.Decode(rest)
	root = x509.NewCertPool()
	root.AddCert(must(x509.ParseCertificate(first.Bytes))(w.t))
	return root, second.Bytes
}

// A machine is a node with a chip of the world's maker, which has booted.
type machine struct {
	w    *world
	chip chip
	ek   tpm.EK
	ak   tpm.AK
	file *tpm.KeyFile // of N:SK
	nsk  chancery.Signer
	name string
	log  []byte // of the boot
}

// A chip is one of papertpm's, or what a dishonest owner makes of it.
type chip interface {
	Info() tpm.Info
	CertifyCreation(file *tpm.KeyFile, qualifying [32]byte) (tpm.Attestation, error)
	CertifyEpoch(qualifying [32]byte) (tpm.Attestation, error)
	Quote(pcrs []int, qualifying [32]byte) (tpm.Attestation, tpm.PCRValues, error)
	PCRValues(pcrs []int) (tpm.PCRValues, error)
	ExtendPCR(pcr int, digest [32]byte) error
	Activate(credential, encryptedSecret []byte) ([]byte, error)
	Epoch(approval chancery.PublicKey) (uint64, error)
	ApplyEpoch(approval chancery.PublicKey, from uint64, signature chancery.Signature) (uint64, error)
}

func (w *world) machine(o papertpm.Options, sealed bool) *machine {
	w.t.Helper()
	c := must(w.maker.New(o))(w.t)
	m := &machine{w: w, chip: c, name: "edge-1"}
	m.ek, m.ak = must(c.EK())(w.t), must(c.AK())(w.t)
	m.boot(eventlogtest.Boot("1.0", "loader", true).Bytes())
	var sealing *tpm.Sealing
	if sealed {
		sealing = &tpm.Sealing{Approval: w.approval.PublicKey(), PCRs: tpm.DefaultPCRs}
		rand.Read(sealing.Nonce[:])
	}
	m.file = must(c.CreateKey(sealing))(w.t)
	m.nsk = must(c.LoadKey(m.file))(w.t)
	return m
}

// boot measures a log into the chip.
func (m *machine) boot(log []byte) {
	m.w.t.Helper()
	m.log = log
	for _, e := range must(eventlog.Parse(log))(m.w.t).Events {
		if !e.Extends() {
			continue
		}
		if err := m.chip.ExtendPCR(e.PCR, e.Digest); err != nil {
			m.w.t.Fatal(err)
		}
	}
}

// raiseEpoch approves the machine's state for the next epoch, and raises the
// chip's counter to it.
func (m *machine) raiseEpoch() {
	w, seal := m.w, m.file.Seal
	w.t.Helper()
	epoch := must(m.chip.Epoch(seal.Approval))(w.t)
	values := must(m.chip.PCRValues(seal.PCRs))(w.t)
	approval := w.sign(w.approval, must(seal.Approve(epoch+1, values))(w.t))
	if err := m.file.AddApproval(epoch+1, values, approval); err != nil {
		w.t.Fatal(err)
	}
	increment := w.sign(w.approval, tpm.Increment(seal.Approval, m.ak.Name, epoch))
	must(m.chip.ApplyEpoch(seal.Approval, epoch, increment))(w.t)
	m.nsk = must(m.chip.(*papertpm.Chip).LoadKey(m.file))(w.t)
}

// An exchange is what a test may have otherwise in an enrolment; the zero
// value is an honest one. Functions change what is then signed.
type exchange struct {
	quote   []int // PCRs
	log     bool  // the event log with it
	renewal bool
	lists   []string

	connection func(*chancery.InitialConnection)
	cans       func(*chancery.CANS)
	ns         func(*chancery.NS)
	subject    func(*chancery.Subject)
	ca         *fleet.Key // that issues, instead of the current one
}

// whole is an exchange in which everything is shown that can be.
var whole = exchange{quote: []int{0, 4, 7}, log: true}

// record takes a machine from the initial connection to N:C, and keeps what
// was said. The certificate claims what an honest coordinator's would.
func (m *machine) record(x exchange) *evidence.Record {
	w := m.w
	w.t.Helper()
	r := &evidence.Record{Submitted: now, Renewal: x.renewal, Lists: x.lists, Rule: "all", Policy: "00", Exporter: random(), Connection: m.connection()}
	if x.connection != nil {
		x.connection(r.Connection)
	}
	r.Connection.PoP = w.sign(m.nsk, m.pop(r))
	key := w.ca
	if x.ca != nil {
		key = x.ca
	}
	cans := m.answer(r, key, x.cans)
	ek := must(tpm.ParseEndorsementKey(m.ek.Public))(w.t)
	secret := random()
	blob, encrypted, err := ek.MakeCredential(m.ak.Name, secret)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Activation = chancery.ActivationProof(secret, cans.Hash())
	r.Submission = m.submission(cans, x, must(m.chip.Activate(blob, encrypted))(w.t))
	r.NC = m.certify(r, key, x)
	return r
}

func random() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}

// connection is the initial connection, without the proof of possession.
func (m *machine) connection() *chancery.InitialConnection {
	info := m.chip.Info()
	c := &chancery.InitialConnection{
		NodeKey: m.nsk.PublicKey().SPKI(), NodePublic: m.file.Public, AKPublic: m.ak.Public,
		EKPublic: m.ek.Public, EKCertificate: m.ek.Certificate, EKChain: m.ek.Chain,
		Chip: chancery.Chip{Manufacturer: info.Manufacturer, Model: info.Vendor, Firmware: fmt.Sprintf("%016x", info.Firmware), Simulator: info.Simulator},
		Name: m.name, Nonce: random(), TokenID: "0001020304050607", TokenProof: random(),
	}
	if s := m.file.Seal; s != nil {
		c.Sealing = &chancery.Sealing{Nonce: s.Nonce[:], PCRs: s.PCRs, PCRDigest: s.PCRDigest[:], Epoch: s.Epoch}
	}
	return c
}

func (m *machine) pop(r *evidence.Record) chancery.PoP {
	return chancery.PoP{
		NodeKey: m.nsk.PublicKey(), AKName: m.ak.Name[:], EKDigest: sha256.Sum256(m.ek.SPKI),
		NodeNonce: [32]byte(r.Connection.Nonce), Exporter: [32]byte(r.Exporter),
	}
}

// answer is CA:N:S, one of three that waited together.
func (m *machine) answer(r *evidence.Record, ca *fleet.Key, edit func(*chancery.CANS)) *chancery.CANS {
	w := m.w
	w.t.Helper()
	cans := &chancery.CANS{
		NodeKey: m.nsk.PublicKey(), NodeID: chancery.NewNodeID(w.fleet, m.nsk.PublicKey()), AKName: m.ak.Name[:], EKDigest: sha256.Sum256(m.ek.SPKI),
		NodeNonce: [32]byte(r.Connection.Nonce), CoordinatorNonce: [32]byte(random()), IntakeID: chancery.IntakeID(random()[:16]),
		Issued: now.Add(-time.Minute), Expires: now.Add(-time.Minute + chancery.MaxCANSLife),
	}
	if edit != nil {
		edit(cans)
	}
	others := []*chancery.CANS{new(*cans), new(*cans)}
	others[0].IntakeID[0] ^= 1
	others[1].IntakeID[0] ^= 2
	tree := must(chancery.BatchCANS([]*chancery.CANS{others[0], cans, others[1]}))(w.t)
	cans.Signature = w.sign(ca, tree)
	return cans
}

func (m *machine) submission(cans *chancery.CANS, x exchange, secret []byte) *chancery.Submission {
	w, hash := m.w, cans.Hash()
	w.t.Helper()
	s := &chancery.Submission{
		NS: m.ns(cans, x.ns).Marshal(), CANS: cans.Marshal(), Activation: chancery.ActivationProof(secret, hash),
		Creation: chancery.Attestation(must(m.chip.CertifyCreation(m.file, hash))(w.t)), CreationData: m.file.CreationData,
	}
	if m.file.Seal != nil {
		s.Epoch = new(chancery.Attestation(must(m.chip.CertifyEpoch(hash))(w.t)))
	}
	if x.quote != nil {
		s.Quote = m.quote(x.quote, hash)
	}
	if x.log {
		s.EventLog = m.log
	}
	return s
}

func (m *machine) ns(cans *chancery.CANS, edit func(*chancery.NS)) *chancery.NS {
	ns := &chancery.NS{Fleet: m.w.fleet, NodeKey: m.nsk.PublicKey(), CANSHash: cans.Hash(), Created: now, Name: m.name}
	if edit != nil {
		edit(ns)
	}
	ns.Signature = m.w.sign(m.nsk, ns)
	return ns
}

func (m *machine) quote(pcrs []int, qualifying [32]byte) *chancery.Quote {
	m.w.t.Helper()
	a, values, err := m.chip.Quote(pcrs, qualifying)
	if err != nil {
		m.w.t.Fatal(err)
	}
	q := &chancery.Quote{Attestation: chancery.Attestation(a), Values: map[int][]byte{}}
	for pcr, v := range values {
		q.Values[pcr] = v[:]
	}
	return q
}

// certify issues N:C: assurance 2 where a maker's certificate or a list is
// there, else 1, on a simulator, as papertpm's chips say that they are.
func (m *machine) certify(r *evidence.Record, ca *fleet.Key, x exchange) []byte {
	w := m.w
	w.t.Helper()
	ns := must(chancery.ParseNS(r.Submission.NS))(w.t)
	s := &chancery.Subject{
		Name: ns.Name, TrustDomain: w.pointer.TrustDomain, NodeKey: ns.NodeKey, NotBefore: now, NotAfter: now.Add(24 * time.Hour),
		NS:        chancery.DetachedNS{CANSHash: ns.CANSHash, Created: ns.Created, Signature: ns.Signature},
		Roles:     []string{"edge"},
		Assurance: chancery.Assurance{Level: chancery.AssuranceTPM, Simulator: true, EKDigest: chancery.EKDigest(w.fleet, m.ek.SPKI)},
	}
	if len(x.lists) > 0 || len(r.Connection.EKCertificate) > 0 {
		s.Assurance.Level = chancery.AssuranceEK
	}
	if x.subject != nil {
		x.subject(s)
	}
	return w.issue(s, ca)
}

// issue appends a subject to the log and certifies it.
func (w *world) issue(s *chancery.Subject, ca *fleet.Key) []byte {
	w.t.Helper()
	id, start := chancery.DefaultCAID(ca.PublicKey()), w.tree.Size()
	entry := must(merkle.MarshalEntry(must(s.Fields(id))(w.t)))(w.t)
	w.tree.Append(merkle.HashLeaf(entry))
	batch := merkle.Smallest(start-1, w.tree.Size())
	root := must(w.tree.Subtree(batch))(w.t)
	signature := w.sign(ca, chancery.NewSubtree(id, 1, batch, root))
	proof := merkle.Proof{
		Subtree: batch, Inclusion: must(w.tree.Inclusion(start, batch))(w.t),
		Signatures: []merkle.SubtreeSignature{{Cosigner: id, Signature: signature.ASN1()}},
	}
	return must(chancery.NewCertificate(s, id, must(merkle.NewSerial(1, start))(w.t), proof))(w.t).Raw()
}

// clone is the record as it comes out of a file.
func clone(t testing.TB, r *evidence.Record) *evidence.Record {
	t.Helper()
	again := &evidence.Record{}
	if err := json.Unmarshal(must(json.Marshal(r))(t), again); err != nil {
		t.Fatal(err)
	}
	return again
}

// judge is what a coordinator does with the same exchange: the methods of a
// claim, in the order of docs/protocol.md sections 4.2 and 4.6.
func judge(w *world, r *evidence.Record) (*evidence.Proof, error) {
	claim, err := evidence.Parse(w.fleet, r.Connection, [32]byte(r.Exporter))
	if err != nil {
		return nil, err
	}
	if err := claim.Possession(); err != nil {
		return nil, err
	}
	if err := claim.KeyArea(w.pointer.Approval); err != nil {
		return nil, err
	}
	if _, err := claim.Standing(w.trust().Roots, r.Submitted); err != nil {
		return nil, err
	}
	cans := must(chancery.ParseCANS(r.Submission.CANS))(w.t)
	return claim.Prove(&evidence.Question{
		CANSHash: cans.Hash(), Activation: r.Activation, Approval: w.pointer.Approval, Renewal: r.Renewal, Asked: r.Submitted,
	}, r.Submission)
}

// wantHolds checks that a record holds, and that its links are these.
func wantHolds(t testing.TB, what string, report *evidence.Report, links ...string) {
	t.Helper()
	if !report.Holds {
		t.Errorf("%s: it does not hold: %+v", what, report.Links)
	}
	if links == nil {
		return
	}
	var got []string
	for _, l := range report.Links {
		got = append(got, l.Name)
		if !l.Holds || l.What == "" {
			t.Errorf("%s: %+v", what, l)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(links) {
		t.Errorf("%s: links %v, want %v", what, got, links)
	}
}

// wantBroken checks that a record breaks at the link, and that what was looked
// at before holds.
func wantBroken(t testing.TB, what string, report *evidence.Report, link string) {
	t.Helper()
	if report.Holds || len(report.Links) == 0 {
		t.Errorf("%s: it holds", what)
		return
	}
	for i, l := range report.Links {
		last := i == len(report.Links)-1
		if l.Holds == last || l.What == "" || last && l.Name != link {
			t.Errorf("%s: %+v, want it to break at %s", what, report.Links, link)
			return
		}
	}
}
