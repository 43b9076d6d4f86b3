package chancery

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

var update = flag.Bool("update", false, "write testdata/vectors/v1.json anew: the wire format changes")

const vectorFile = "testdata/vectors/v1.json"

// A vectors file has known answers for every artefact. The keys are fixed and
// the signatures deterministic (RFC 6979), so other implementations can check
// every byte.
type vectors struct {
	Comment string            `json:"comment"`
	Now     int64             `json:"now"`     // seconds since 1970, the time of everything
	Keys    map[string]string `json:"keys"`    // private scalars, P-256
	Inputs  map[string]string `json:"inputs"`  // bytes in hexadecimal, text as it is
	Outputs map[string]string `json:"outputs"` // likewise
}

// makeVectors writes down one life of a fleet.
func makeVectors(t *testing.T) vectors {
	w := newWorld(t)
	v := vectors{
		Comment: "Known answers of protocol v1 (docs/protocol.md). Signatures are deterministic ECDSA (RFC 6979), s in the lower half.",
		Now:     w.now.Unix(),
		Keys:    map[string]string{}, Inputs: map[string]string{}, Outputs: map[string]string{},
	}
	key := func(name string, k softKey) softKey {
		scalar, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		v.Keys[name] = hex.EncodeToString(scalar)
		return k
	}
	in := func(name string, b []byte) { v.Inputs[name] = hex.EncodeToString(b) }
	out := func(name string, b []byte) { v.Outputs[name] = hex.EncodeToString(b) }
	// signed gives both what is signed and the signature.
	signed := func(name string, k softKey, s Statement) Signature {
		sig := k.must(w.fleet(), s)
		out(name+" message", Message(w.fleet(), P256, s))
		out(name+" signature", sig)
		return sig
	}
	ca := key("CA:SK 1", w.keys[0])
	key("CA:SK 2", w.keys[1])
	approval := key("approval", newKey("approval"))
	key("X.509 issuer", newKey("x509"))
	key("coordinator TLS", newKey("tls"))
	one := key("N:SK edge-1", nodeKey("edge-1"))
	key("N:SK edge-2", nodeKey("edge-2"))
	key("N:SK edge-3", nodeKey("edge-3"))
	key("session edge-1", newKey("session edge-1"))
	fleet, nodeKey1 := w.fleet(), one.PublicKey()

	// Sections 2 and 3.
	p := w.pointer()
	v.Outputs["pin"] = fleet.Pin()
	out("fleet_id", fleet[:])
	id := NewNodeID(fleet, nodeKey1)
	out("node_id edge-1", id[:])
	signed("CA:S", ca, CASelf{p.Keys[0].Key, p.Keys[0].Created})
	signed("challenge", ca, Challenge{Nonce: [32]byte{0xf1}})
	in("transcript", []byte("transcript\n"))
	signed("ceremony", ca, NewCeremony([]byte("transcript\n")))
	audit := &AuditEntry{At: w.now, Operator: "alice (1000)", Action: "node.approve", Subject: "edge-1", Details: []AuditDetail{{"node-id", id.String()}}}
	auditEntry, err := audit.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	out("audit entry", auditEntry)
	v.Outputs["audit origin"] = AuditOrigin(fleet, p.Current().ID)
	signed("audit checkpoint", ca, AuditCheckpoint{p.Current().ID, 1, merkle.HashLeaf(auditEntry), w.now})
	signed("pointer record 1", ca, p)
	out("pointer record 1", p.Marshal())

	// Section 4.
	pop := PoP{NodeKey: nodeKey1, AKName: []byte("\x00\x0bAK name of edge-1"), EKDigest: [32]byte{0xe1}, NodeNonce: [32]byte{0xa1}, Exporter: [32]byte{0xc1}}
	in("AK name", pop.AKName)
	in("EK digest", pop.EKDigest[:])
	in("node nonce", pop.NodeNonce[:])
	in("TLS exporter", pop.Exporter[:])
	signed("pop", one, pop)
	token := Token{Fleet: fleet, ID: TokenID{1, 2, 3}, secret: [32]byte{4, 5, 6}}
	v.Inputs["join token"] = token.Reveal()
	out("join token proof for edge-1", token.Key().Proof(fleet, pop, "edge-1"))
	answer := func(k PublicKey, intake byte) *CANS {
		return &CANS{NodeKey: k, NodeID: NewNodeID(fleet, k), AKName: pop.AKName, EKDigest: pop.EKDigest, NodeNonce: pop.NodeNonce,
			CoordinatorNonce: [32]byte{0xb1}, IntakeID: IntakeID{intake}, Issued: w.now, Expires: w.now.Add(MaxCANSLife)}
	}
	in("coordinator nonce", answer(nodeKey1, 0).CoordinatorNonce[:])
	alone := answer(nodeKey1, 1)
	tree, err := BatchCANS([]*CANS{alone})
	if err != nil {
		t.Fatal(err)
	}
	alone.Signature = signed("CA:N:S alone", ca, tree)
	out("CA:N:S alone", alone.Marshal())
	hash := alone.Hash()
	out("CA:N:S alone, hash", hash[:])
	batch := []*CANS{answer(nodeKey("edge-2").PublicKey(), 2), answer(nodeKey("edge-3").PublicKey(), 3), answer(nodeKey1, 4)}
	if tree, err = BatchCANS(batch); err != nil {
		t.Fatal(err)
	}
	batch[1].Signature = signed("CA:N:S second of three", ca, tree)
	out("CA:N:S second of three", batch[1].Marshal())
	in("activated secret", []byte("activated secret"))
	out("activation proof", ActivationProof([]byte("activated secret"), hash))
	signed("approval", approval, PolicyApproval{Policy: [32]byte{0xd1}, Ref: [32]byte{0xd2}})

	// Section 5.
	subject := func(name string) *Subject {
		return w.subject(name, func(s *Subject) {
			s.NS.CANSHash = hash
			s.NS.Signature = nodeKey(name).must(fleet, s.ns(fleet))
		})
	}
	s := subject("edge-1")
	ns := s.ns(fleet)
	signed("N:S", one, ns)
	out("N:S", ns.Marshal())
	fields, err := s.Fields(w.currentLog().ca)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := merkle.MarshalEntry(fields)
	if err != nil {
		t.Fatal(err)
	}
	out("log entry of edge-1", entry)
	nc := w.issue(s)[0]
	signed("subtree [0, 1)", ca, NewSubtree(nc.CA, 1, nc.mtc.Proof.Subtree, merkle.HashLeaf(entry)))
	out("N:C of edge-1, a batch of one", nc.Raw())
	for i, c := range w.issue(subject("edge-2"), subject("edge-3")) {
		out("N:C of edge-"+string(rune('2'+i))+", out of a batch of two", c.Raw())
	}
	w.publish()
	session := w.newSession(nc)
	out("session certificate of edge-1", session.certificate)
	tls := key("TLS key", newKey("tls key"))
	signed("X.509 pop", tls, X509PoP{tls.PublicKey(), nc.CA, nc.Serial})
	cert, issuer := w.x509(nc, tls.PublicKey())
	out("X.509 certificate of edge-1", cert)
	out("X.509 certificate of the issuer", issuer)

	// Section 6.
	w.revoke(nc)
	w.publish()
	for i, c := range w.crls {
		number := string(rune('1' + i))
		signed("CRL "+number, ca, c.head)
		out("CRL "+number, c.Marshal())
		if i == 2 {
			continue
		}
		delta, err := w.crls[2].Delta(c)
		if err != nil {
			t.Fatal(err)
		}
		out("CRL delta "+number+" to 3", delta)
	}
	out("head of CRL 3", w.crls[2].Head().Marshal())
	anchor := &Anchor{Counter: 7, Pointer: 1, CRL: 3, At: w.now}
	anchor.Signature = signed("anchor of edge-1", one, anchor)
	out("anchor of edge-1", anchor.Marshal())
	root := w.currentLog().tree.Root()
	signed("checkpoint", ca, NewCheckpoint(nc.CA, 1, 3, root, w.now))

	// Section 3 again: the next key takes over.
	rolled := w.rollOver()
	key("CA:SK 3", w.keys[2])
	out("rollover message", Message(fleet, P256, &rolled.Rollovers[0]))
	out("pointer record 2", rolled.Marshal())
	return v
}

// The wire format of v1 is frozen byte for byte.
func TestVectors(t *testing.T) {
	got := makeVectors(t)
	if *update {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := readVectors(t)
	if got.Now != want.Now {
		t.Errorf("now is %d, want %d", got.Now, want.Now)
	}
	for section, maps := range map[string][2]map[string]string{"key": {got.Keys, want.Keys}, "input": {got.Inputs, want.Inputs}, "output": {got.Outputs, want.Outputs}} {
		sameStrings(t, section, maps[0], maps[1])
	}
}

func sameStrings(t *testing.T, section string, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s %q is\n%s\nwant\n%s", section, name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d %ss, want %d", len(got), section, len(want))
	}
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// The file is enough by itself: from the pin on, everything in it verifies
// with no help from what made it.
func TestVectorsVerify(t *testing.T) {
	v := readVectors(t)
	now := time.Unix(v.Now, 0)
	out := func(name string) []byte {
		t.Helper()
		b, err := hex.DecodeString(v.Outputs[name])
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: %d bytes, %v", name, len(b), err)
		}
		return b
	}
	fleet, err := ParsePin(v.Outputs["pin"])
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePointer(out("pointer record 1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := AcceptPointer(fleet, nil, p, now); err != nil {
		t.Fatal(err)
	}
	next, err := ParsePointer(out("pointer record 2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := AcceptPointer(fleet, p, next, now); err != nil {
		t.Error(err)
	}

	ns, err := ParseNS(out("N:S"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Verify(fleet); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"CA:N:S alone", "CA:N:S second of three"} {
		c, err := ParseCANS(out(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Verify(fleet, p.Current().Key, c.NodeKey, c.AKName, c.NodeNonce, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if hash := c.Hash(); name == "CA:N:S alone" && hash != ns.CANSHash {
			t.Errorf("N:S answers %x, CA:N:S is %x", ns.CANSHash, hash)
		}
	}

	// Signatures next to their messages, with nothing but the keys.
	c, err := x509.ParseCertificate(out("X.509 certificate of edge-1"))
	if err != nil {
		t.Fatal(err)
	}
	tls, err := ParsePublicKey(c.RawSubjectPublicKeyInfo)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := ParseCertificate(out("N:C of edge-1, a batch of one"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(VerifyX509(p, nc, tls, c.Raw), VerifyX509CA(p, p.Current(), out("X.509 certificate of the issuer"))); err != nil {
		t.Error(err)
	}
	signers := map[string]PublicKey{"X.509 pop": tls, "pop": ns.NodeKey, "N:S": ns.NodeKey, "anchor of edge-1": ns.NodeKey, "approval": p.Approval}
	for _, name := range slices.Sorted(maps.Keys(v.Outputs)) {
		what, ok := bytes.CutSuffix([]byte(name), []byte(" signature"))
		if !ok {
			continue
		}
		k, ok := signers[string(what)]
		if !ok {
			k = p.Current().Key
		}
		if err := k.verifyMessage(out(string(what)+" message"), Signature(out(name)).ASN1()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	verifier := NewVerifier(Trust{Pointer: p})
	certs := [][]byte{out("session certificate of edge-1"), out("N:C of edge-1, a batch of one")}
	verify := func() error {
		_, err := verifier.Verify(certs, "edge-1", NodeID{}, Policy{}, now)
		return err
	}
	refused(t, verify(), CheckCRL, ErrCRLMissing)
	if _, err := verifier.UpdateCRL(out("CRL 1"), now); err != nil {
		t.Fatal(err)
	}
	if err := verify(); err != nil {
		t.Error(err)
	}
	held := verifier.Trust().CRL
	if _, err := verifier.UpdateCRL(out("CRL delta 1 to 3"), now); err != nil {
		t.Fatal(err)
	}
	refused(t, verify(), CheckCRL, ErrRevoked)
	if !bytes.Equal(verifier.Trust().CRL.Marshal(), out("CRL 3")) {
		t.Error("the delta leads to another list than number 3")
	}
	if held, err = UpdateCRL(p, held, out("CRL 2"), now); err != nil {
		t.Fatal(err)
	}
	if held, err = UpdateCRL(p, held, out("CRL delta 2 to 3"), now); err != nil || held.Head().Number != 3 {
		t.Errorf("number 2, then the delta to 3: %v", err)
	}
	for _, name := range []string{"N:C of edge-2, out of a batch of two", "N:C of edge-3, out of a batch of two"} {
		if _, err := verifier.Verify([][]byte{out(name)}, "", NodeID{}, Policy{}, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
