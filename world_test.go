package chancery

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// A softKey is a Signer without hardware. Its scalar comes from its name and
// its signatures are deterministic (RFC 6979), so a world is the same in every
// run.
type softKey struct{ *ecdsa.PrivateKey }

func newKey(name string) softKey {
	h := sha256.Sum256([]byte("test key " + name))
	return mustKey(elliptic.P256(), h[:])
}

func newKey384(name string) softKey {
	h := sha512.Sum384([]byte("test key " + name))
	return mustKey(elliptic.P384(), h[:])
}

func mustKey(c elliptic.Curve, scalar []byte) softKey {
	key, err := ecdsa.ParseRawPrivateKey(c, scalar)
	if err != nil {
		panic(err)
	}
	return softKey{key}
}

func (k softKey) PublicKey() PublicKey {
	p, err := NewPublicKey(&k.PrivateKey.PublicKey)
	if err != nil {
		panic(err)
	}
	return p
}

func (k softKey) Sign(_ context.Context, fleet FleetID, s Statement) (Signature, error) {
	suite := k.PublicKey().Suite()
	return NewSignatureASN1(suite, k.signRaw(s.message(fleet, suite)))
}

// signRaw signs plain bytes and leaves s in whichever half it falls.
func (k softKey) signRaw(message []byte) []byte {
	hash := k.PublicKey().Suite().Hash()
	h := hash.New()
	h.Write(message)
	der, err := k.PrivateKey.Sign(nil, h.Sum(nil), crypto.SignerOpts(hash))
	if err != nil {
		panic(err)
	}
	return der
}

// must signs what the test itself put together.
func (k softKey) must(fleet FleetID, s Statement) Signature {
	sig, err := k.Sign(context.Background(), fleet, s)
	if err != nil {
		panic(err)
	}
	return sig
}

// twin is the other signature (r, n-s) that verifies where sig does.
func twin(suite Suite, sig Signature) Signature {
	n, half := suite.order(), len(sig)/2
	s := new(big.Int).Sub(n, new(big.Int).SetBytes(sig[half:]))
	return append(bytes.Clone(sig[:half]), s.FillBytes(make([]byte, half))...)
}

// epoch is when every world begins: no test looks at the real clock.
var epoch = time.Date(2031, 5, 17, 12, 0, 0, 0, time.UTC)

// A world is a fleet in memory: CA keys in the order of their rollovers, the
// pointer records and CRLs that they signed, and the logs that they append to.
type world struct {
	t        testing.TB
	now      time.Time
	keys     []softKey // CA:SK of each epoch, the one that is committed to last
	pointers []*Pointer
	crls     []*CRL
	logs     []*testLog // in the order of the CRL head
}

// A testLog is an issuance log with everything that was ever put into it.
type testLog struct {
	logRef
	tree    merkle.Tree
	issued  [][]byte // DER by index; nil where the entry is no certificate
	first   uint64
	revoked []uint64
}

func newWorld(t testing.TB) *world { return newNamedWorld(t, "") }

// newNamedWorld makes a fleet whose keys are its own.
func newNamedWorld(t testing.TB, name string) *world {
	t.Helper()
	w := &world{t: t, now: epoch, keys: []softKey{newKey(name + "ca 1"), newKey(name + "ca 2")}}
	ca := w.keys[0].PublicKey()
	p := &Pointer{
		Genesis:     Genesis{CA: ca, NextCA: w.keys[1].PublicKey().Fingerprint(), Created: epoch},
		Seq:         1,
		Issued:      epoch,
		Expires:     epoch.AddDate(0, 1, 0),
		TrustDomain: "fleet.example",
		Endpoints:   []Endpoint{{URL: "https://coordinator.example:8443", Pins: [][32]byte{newKey("tls").PublicKey().Fingerprint()}}},
		MinSuite:    P256,
		MaxLife:     7 * 24 * time.Hour,
		Approval:    newKey(name + "approval").PublicKey(),
		X509Issuer:  newKey(name + "x509").PublicKey(),
	}
	p.Keys = []CAKey{{Key: ca, State: CAKeyCurrent, Created: epoch, ID: caID("32473.1.1"), Logs: []uint16{1}}}
	p.Keys[0].CAS = w.keys[0].must(p.FleetID(), CASelf{ca, epoch})
	w.seal(p)
	w.pointers = []*Pointer{p}
	w.logs = []*testLog{{logRef: logRef{p.Keys[0].ID, 1}}}
	w.publish()
	w.check()
	return w
}

func caID(s string) merkle.TrustAnchorID {
	id, err := merkle.ParseTrustAnchorID(s)
	if err != nil {
		panic(err)
	}
	return id
}

func (w *world) pointer() *Pointer { return w.pointers[len(w.pointers)-1] }
func (w *world) crl() *CRL         { return w.crls[len(w.crls)-1] }
func (w *world) fleet() FleetID    { return w.pointer().FleetID() }
func (w *world) trust() Trust      { return Trust{w.pointer(), w.crl()} }

// ca is the current CA:SK; the key after it is committed to.
func (w *world) ca() softKey { return w.keys[len(w.keys)-2] }

// seal signs a pointer record with the current key.
func (w *world) seal(p *Pointer) *Pointer {
	p.Signature = w.ca().must(p.FleetID(), p)
	return p
}

// draft is the pointer record that would come next.
func (w *world) draft() *Pointer {
	p := *w.pointer()
	p.Seq, p.Previous = p.Seq+1, p.Hash()
	p.Issued, p.Expires = w.now, w.now.AddDate(0, 1, 0)
	p.Keys, p.Rollovers = slices.Clone(p.Keys), slices.Clone(p.Rollovers)
	for i := range p.Keys {
		p.Keys[i].Logs = slices.Clone(p.Keys[i].Logs)
	}
	return &p
}

// point publishes the next pointer record with the changes.
func (w *world) point(change func(p *Pointer)) *Pointer {
	w.t.Helper()
	p := w.draft()
	change(p)
	w.seal(p)
	w.pointers = append(w.pointers, p)
	for _, k := range p.Keys {
		for _, n := range k.Logs {
			if k.State != CAKeyNext && w.log(logRef{k.ID, n}) == nil {
				w.logs = append(w.logs, &testLog{logRef: logRef{k.ID, n}})
			}
		}
	}
	slices.SortFunc(w.logs, func(a, b *testLog) int {
		if a.before(b.logRef) {
			return -1
		}
		return 1
	})
	return p
}

// rollOver hands the fleet to the key that was committed to.
func (w *world) rollOver() *Pointer {
	w.t.Helper()
	old, next := w.keys[len(w.keys)-2], w.keys[len(w.keys)-1]
	w.keys = append(w.keys, newKey("ca "+string(rune('1'+len(w.keys)))))
	r := w.rollover(old, next, w.keys[len(w.keys)-1].PublicKey().Fingerprint())
	return w.point(func(p *Pointer) {
		id := caID("32473.1." + string(rune('1'+len(p.Rollovers)+1)))
		p.Rollovers = append(p.Rollovers, r)
		p.Keys[0].State = CAKeyRetired
		k := CAKey{Key: next.PublicKey(), State: CAKeyCurrent, Created: w.now, ID: id, Logs: []uint16{1}}
		k.CAS = next.must(w.fleet(), CASelf{k.Key, k.Created})
		p.Keys = append([]CAKey{k}, p.Keys...)
	})
}

func (w *world) rollover(old, next softKey, commitment [32]byte) Rollover {
	r := Rollover{Old: old.PublicKey().Fingerprint(), New: next.PublicKey(), NextCA: commitment, Created: w.now}
	r.OldSigns = old.must(w.fleet(), &r)
	r.NewSigns = next.must(w.fleet(), &r)
	return r
}

func (w *world) log(ref logRef) *testLog {
	for _, l := range w.logs {
		if l.logRef == ref {
			return l
		}
	}
	return nil
}

// currentLog is the one that certificates go into.
func (w *world) currentLog() *testLog {
	k := w.pointer().Current()
	return w.log(logRef{k.ID, k.Log()})
}

// subject is what a good certificate says of a node, with N:S by its key.
func (w *world) subject(name string, change ...func(s *Subject)) *Subject {
	key := nodeKey(name)
	s := &Subject{
		Name:        name,
		TrustDomain: w.pointer().TrustDomain,
		NodeKey:     key.PublicKey(),
		NotBefore:   w.now,
		NotAfter:    w.now.Add(7 * 24 * time.Hour),
		NS:          DetachedNS{CANSHash: sha256.Sum256([]byte("CA:N:S of " + name)), Created: w.now},
		Roles:       []string{"edge", "storage"},
		Assurance:   Assurance{Level: AssuranceQuote, EKDigest: EKDigest(w.fleet(), []byte("EK of "+name))},
	}
	s.NS.Signature = key.must(w.fleet(), s.ns(w.fleet()))
	for _, c := range change {
		c(s)
	}
	return s
}

func nodeKey(name string) softKey { return newKey("node " + name) }

// issue is one batch: it appends the subjects to the current log and signs
// the smallest subtree that holds them.
func (w *world) issue(subjects ...*Subject) []*Certificate {
	w.t.Helper()
	fields := make([]merkle.EntryFields, len(subjects))
	for i, s := range subjects {
		var err error
		if fields[i], err = s.Fields(w.currentLog().ca); err != nil {
			w.t.Fatal(err)
		}
	}
	certs := make([]*Certificate, len(subjects))
	for i, der := range w.issueFields(fields...) {
		c, err := ParseCertificate(der)
		if err != nil {
			w.t.Fatal(err)
		}
		certs[i] = c
	}
	return certs
}

// issueFields certifies whatever the fields say, also what no Subject can.
func (w *world) issueFields(fields ...merkle.EntryFields) [][]byte {
	w.t.Helper()
	l := w.currentLog()
	start := l.tree.Size()
	for _, f := range fields {
		entry, err := merkle.MarshalEntry(f)
		if err != nil {
			w.t.Fatal(err)
		}
		l.tree.Append(merkle.HashLeaf(entry))
	}
	sub := merkle.Smallest(start, l.tree.Size())
	signature := merkle.SubtreeSignature{Cosigner: l.ca, Signature: w.signSubtree(w.ca(), l, sub).ASN1()}
	for i, f := range fields {
		index := start + uint64(i)
		path, err := l.tree.Inclusion(index, sub)
		if err != nil {
			w.t.Fatal(err)
		}
		der, err := merkle.MarshalCertificate(f, serial(l.log, index), merkle.Proof{Subtree: sub, Inclusion: path, Signatures: []merkle.SubtreeSignature{signature}})
		if err != nil {
			w.t.Fatal(err)
		}
		l.issued = append(l.issued, der)
	}
	return l.issued[start:]
}

func (w *world) signSubtree(key softKey, l *testLog, sub merkle.Subtree) Signature {
	w.t.Helper()
	root, err := l.tree.Subtree(sub)
	if err != nil {
		w.t.Fatal(err)
	}
	return key.must(w.fleet(), NewSubtree(l.ca, l.log, sub, root))
}

func serial(log uint16, index uint64) merkle.Serial {
	s, err := merkle.NewSerial(log, index)
	if err != nil {
		panic(err)
	}
	return s
}

// rewrite is nc with another serial number or proof: what anybody can do to
// a certificate without the CA.
func (w *world) rewrite(nc *Certificate, change func(s *merkle.Serial, p *merkle.Proof)) []byte {
	w.t.Helper()
	f, err := nc.Fields(nc.CA)
	if err != nil {
		w.t.Fatal(err)
	}
	s, p := nc.Serial, nc.mtc.Proof
	p.Inclusion, p.Signatures = slices.Clone(p.Inclusion), slices.Clone(p.Signatures)
	change(&s, &p)
	der, err := merkle.MarshalCertificate(f, s, p)
	if err != nil {
		w.t.Fatal(err)
	}
	return der
}

func (w *world) revoke(certs ...*Certificate) {
	for _, c := range certs {
		l := w.log(logRef{c.CA, c.Serial.Log()})
		l.revoked = append(l.revoked, c.Serial.Index())
		slices.Sort(l.revoked)
	}
}

// publish signs the next CRL: thisUpdate is now, and it is good for an hour.
func (w *world) publish() *CRL {
	w.t.Helper()
	var previous *CRL
	if len(w.crls) > 0 {
		previous = w.crl()
	}
	c := w.nextCRL(previous, w.now, w.now.Add(time.Hour))
	w.crls = append(w.crls, c)
	return c
}

// nextCRL signs a list of the present state without publishing it.
func (w *world) nextCRL(previous *CRL, thisUpdate, nextUpdate time.Time) *CRL {
	w.t.Helper()
	var sets []RevokedSet
	for _, l := range w.logs {
		from, _ := slices.BinarySearch(l.revoked, l.first)
		sets = append(sets, RevokedSet{l.ca, l.log, l.first, l.tree.Size(), l.revoked[from:]})
	}
	c, err := NextCRL(previous, sets, thisUpdate, nextUpdate)
	if err != nil {
		w.t.Fatal(err)
	}
	c.Sign(w.ca().must(w.fleet(), c.Head()))
	return c
}

// resign signs a list again after a test changed its head.
func (w *world) resign(c *CRL, change func(h *CRLHead)) *CRL {
	h := *c.head
	h.Logs = slices.Clone(h.Logs)
	change(&h)
	h.Signature = w.ca().must(w.fleet(), &h)
	return &CRL{head: &h, logs: c.logs}
}

// A node is one member of the world with all that it presents.
type node struct {
	key, session softKey
	nc           *Certificate
	certificate  []byte // the session certificate
}

// enroll issues a certificate to a new node and a session under it.
func (w *world) enroll(name string, change ...func(s *Subject)) *node {
	w.t.Helper()
	return w.newSession(w.issue(w.subject(name, change...))[0])
}

// newSession certifies a session key of the certificate's node.
func (w *world) newSession(nc *Certificate) *node {
	w.t.Helper()
	n := &node{key: nodeKey(nc.Name), session: newKey("session " + nc.Name), nc: nc}
	var number [16]byte
	binary.BigEndian.PutUint64(number[8:], uint64(nc.Serial))
	tbs, err := NewSession(nc, n.session.PublicKey(), number, w.now, w.now.Add(DefaultSessionLife))
	if err != nil {
		w.t.Fatal(err)
	}
	n.certificate = tbs.Certificate(P256, n.key.must(w.fleet(), tbs))
	return n
}

// certs is the node's certificate message.
func (n *node) certs() [][]byte { return [][]byte{n.certificate, n.nc.Raw()} }

// judge asks a verifier that knows nothing but the present trust.
func (w *world) judge(certs [][]byte) error {
	_, err := NewVerifier(w.trust()).Verify(certs, "", NodeID{}, Policy{}, w.now)
	return err
}

// check verifies the whole world again, from the pin: every pointer record
// replaces the one before it, every CRL follows its predecessor both in full
// and as a delta, log sizes and numbers never fall, serials have no gap, and
// every certificate that is neither revoked nor expired passes (and every
// other one does not).
func (w *world) check() {
	w.t.Helper()
	var held *Pointer
	for i, p := range w.pointers {
		parsed, err := ParsePointer(p.Marshal())
		if err != nil {
			w.t.Fatalf("pointer record %d: %v", i+1, err)
		}
		if err := AcceptPointer(w.fleet(), held, parsed, parsed.Issued); err != nil {
			w.t.Fatalf("pointer record %d: %v", i+1, err)
		}
		held = parsed
	}
	last := w.crl()
	full, err := OpenCRL(held, nil, last.Marshal(), w.now)
	if err != nil {
		w.t.Fatalf("CRL %d: %v", last.head.Number, err)
	}
	for i, c := range w.crls {
		if c.head.Number != uint64(i+1) {
			w.t.Fatalf("CRL number %d at place %d", c.head.Number, i+1)
		}
		delta, err := last.Delta(c)
		if err != nil {
			w.t.Fatalf("delta %d to %d: %v", c.head.Number, last.head.Number, err)
		}
		applied, err := c.Apply(held, delta, w.now)
		if err != nil {
			w.t.Fatalf("delta %d to %d: %v", c.head.Number, last.head.Number, err)
		}
		if !bytes.Equal(applied.Marshal(), full.Marshal()) {
			w.t.Fatalf("delta %d to %d leads to another list than the full one", c.head.Number, last.head.Number)
		}
	}
	for _, l := range w.logs {
		for index, der := range l.issued {
			nc, err := ParseCertificate(der)
			if err != nil {
				continue // a test put something else into the log
			}
			if nc.Serial != serial(l.log, uint64(index)) {
				w.t.Fatalf("serial %s at index %d", nc.Serial, index)
			}
			err = w.judge([][]byte{der})
			if revoked := slices.Contains(l.revoked, uint64(index)); revoked && w.listed(l, uint64(index)) {
				if err == nil {
					w.t.Fatalf("%s is revoked and passes", nc.Serial)
				}
			} else if err != nil && !w.now.After(nc.NotAfter) && uint64(index) >= l.first {
				w.t.Fatalf("%s: %v", nc.Serial, err)
			}
		}
	}
}

// listed tells whether the newest CRL was made after the index.
func (w *world) listed(l *testLog, index uint64) bool {
	m := w.crl().log(l.ca, l.log)
	return m != nil && index < m.size
}
