package docscheck

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// The structures of the document, and nothing but them, lead through every
// byte of the test vectors.
func TestLayouts(t *testing.T) {
	doc := read(t, protocol)
	l, v := parseLanguage(t, doc), readVectors(t)
	kinds := map[byte]string{}
	for name, d := range l {
		if len(d.fields) > 1 && d.fields[0].name == "magic" {
			kinds[d.fields[1].fixed[0]] = name
		}
	}
	bodies := map[string]string{}
	for _, row := range doc.find(t, "label", "value", "body", "signed by", "code").rows {
		label, _ := code(row[1])
		bodies[label], _ = code(row[2])
	}
	used := map[string]bool{}
	exact := func(vector, structure string, b []byte) {
		used[structure] = true
		if _, err := l.decode(structure, b); err != nil {
			t.Errorf("%s: %v", vector, err)
		}
		if _, err := l.decode(structure, b[:len(b)-1]); err == nil {
			t.Errorf("%s without its last byte is still a %s", vector, structure)
		}
		if _, err := l.decode(structure, append(bytes.Clone(b), 0)); err == nil {
			t.Errorf("%s with a byte more is still a %s", vector, structure)
		}
	}
	const prefix = "chancery-v1/"
	for name := range v.Outputs {
		if name == "pin" || name == "audit origin" {
			continue
		}
		b := v.bytes(t, name)
		switch {
		case bytes.HasPrefix(b, []byte("CHY1")):
			exact(name, kinds[b[4]], b)
		case bytes.HasPrefix(b, []byte(prefix)):
			label, body := labelledBody(t, v, name, b[len(prefix):])
			exact(name, bodies[label], body)
		case bytes.HasPrefix(b, []byte("subtree/")):
			exact(name, "CosignedMessage", b)
		case strings.HasPrefix(name, "N:C"):
			nc, err := chancery.ParseCertificate(b)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			proof, err := nc.MTC().Proof.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			exact(name, "MTCProof", proof)
			exact(name, "DetachedNS", private(t, nc, 1))
			exact(name, "Assurance", private(t, nc, 2))
			exact(name, "Roles", private(t, nc, 3))
		}
	}
	for _, body := range bodies {
		if !used[body] {
			t.Errorf("no vector is a %s", body)
		}
	}
	for _, name := range []string{"PointerRecord", "CANS", "NS", "CRL", "CRLDelta", "CosignedMessage", "MTCProof"} {
		if !used[name] {
			t.Errorf("no vector is a %s", name)
		}
	}
}

// labelledBody takes apart what is signed, as section 2.3 has it.
func labelledBody(t *testing.T, v vectors, name string, b []byte) (label string, body []byte) {
	t.Helper()
	text, rest, _ := bytes.Cut(b, []byte{0})
	head := append([]byte{0, 1}, v.bytes(t, "fleet_id")...)
	rest, ok := bytes.CutPrefix(rest, head)
	if !ok || len(rest) < 4 || int(binary.BigEndian.Uint32(rest)) != len(rest)-4 {
		t.Fatalf("%s: after the label there is not suite, fleet_id and length: %x", name, rest)
	}
	return string(text), rest[4:]
}

// private returns the structure in the private extension of the number.
func private(t *testing.T, nc *chancery.Certificate, number int) []byte {
	t.Helper()
	for _, e := range nc.MTC().Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 2, number}) {
			s := cryptobyte.String(e.Value)
			var octets cryptobyte.String
			if !s.ReadASN1(&octets, 4) || !s.Empty() {
				t.Fatalf("extension %d is not an OCTET STRING", number)
			}
			return octets
		}
	}
	t.Fatalf("no extension %d", number)
	return nil
}

// Hashes in one artefact are over the parts of another that the document
// names.
func TestHashes(t *testing.T) {
	l, v := parseLanguage(t, read(t, protocol)), readVectors(t)
	open := func(structure, vector string) reading {
		r, err := l.decode(structure, v.bytes(t, vector))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	same := func(what string, got, want []byte) {
		t.Helper()
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", what, got, want)
		}
	}
	hash := func(parts ...[]byte) []byte {
		h := sha256.Sum256(bytes.Join(parts, nil))
		return h[:]
	}
	p1, p2 := open("PointerRecord", "pointer record 1"), open("PointerRecord", "pointer record 2")
	fleet := hash([]byte("chancery-v1 genesis"), p1["body.genesis"])
	same("fleet_id", fleet, v.bytes(t, "fleet_id"))
	same("previous", p2["body.previous"], hash(p1["body"]))
	same("commitment to the key after", p2["body.genesis.next_ca"], hash(p2["body.rollovers.0.body.new_key"]))

	ns, answer := open("NS", "N:S"), open("CANS", "CA:N:S alone")
	same("hash of CA:N:S", ns["body.ca_n_s"], hash(answer["body"]))
	same("node_id", answer["body.node_id"], hash([]byte("chancery-v1 node"), fleet, ns["body.node_key"]))
	secret := v.bytes(t, "activated secret")
	mac := hmac.New(sha256.New, secret)
	mac.Write(append([]byte("chancery-v1 activation"), ns["body.ca_n_s"]...))
	same("activation", mac.Sum(nil), v.bytes(t, "activation proof"))

	before, list, delta := open("CRL", "CRL 2"), open("CRL", "CRL 3"), open("CRLDelta", "CRL delta 2 to 3")
	same("previous head", list["head.body.previous"], hash(before["head.body"]))
	same("change", list["head.body.change"], hash(delta["change"]))
	same("body", list["head.body.logs.0.body"], hash(list["bodies.0.data"]))

	entry := v.bytes(t, "log entry of edge-1")
	if !bytes.HasPrefix(entry, []byte{0, 0, 0, 1, 0xa0, 3, 2, 1, 2, 0x30}) {
		t.Errorf("log entry begins %x", entry[:10])
	}
	spki := ns["body.node_key"]
	if !bytes.Contains(entry, append([]byte{4, 32}, hash(spki)...)) || bytes.Contains(entry, spki) {
		t.Error("log entry does not have the hash of N:PK in place of N:PK")
	}
	nc, err := chancery.ParseCertificate(v.bytes(t, "N:C of edge-1, a batch of one"))
	if err != nil {
		t.Fatal(err)
	}
	leaf := nc.MTC().EntryHash()
	same("leaf hash", leaf[:], hash([]byte{0}, entry))
	cosigned, err := l.decode("CosignedMessage", v.bytes(t, "subtree [0, 1) message"))
	if err != nil {
		t.Fatal(err)
	}
	same("subtree of one", cosigned["hash"], leaf[:])
	const arc = "oid/1.3.6.1.4.1."
	same("cosigner", cosigned["cosigner"], []byte(arc+nc.CA.String()))
	same("log", cosigned["log"], []byte(arc+nc.CA.String()+".0.1"))
	if serial, err := merkle.NewSerial(1, 0); err != nil || nc.Serial != serial || uint64(serial) != 1<<48 {
		t.Errorf("serial %v, %v", nc.Serial, err)
	}
}

// The join token's proof, put together from the document.
func TestTokenProof(t *testing.T) {
	l, v := parseLanguage(t, read(t, protocol)), readVectors(t)
	token, err := chancery.ParseToken(v.Inputs["join token"])
	if err != nil {
		t.Fatal(err)
	}
	var b cryptobyte.Builder
	for _, part := range []struct {
		width uint
		value []byte
	}{{2, []byte("chancery-v1 token proof")}, {4, v.bytes(t, "pop message")}, {4, []byte("edge-1")}} {
		for shift := int(part.width-1) * 8; shift >= 0; shift -= 8 {
			b.AddUint8(uint8(len(part.value) >> shift))
		}
		b.AddBytes(part.value)
	}
	body := b.BytesOrPanic()
	if _, err := l.decode("TokenProof", body); err != nil {
		t.Error(err)
	}
	key := token.Key()
	mac := hmac.New(sha256.New, key[:])
	mac.Write(body)
	if got := mac.Sum(nil); !bytes.Equal(got, v.bytes(t, "join token proof for edge-1")) {
		t.Errorf("proof %x", got)
	}
}

// The example of section 2.4 is of the test vectors.
func TestPinExample(t *testing.T) {
	doc, v := read(t, protocol), readVectors(t)
	want := []string{"fleet_id  " + v.Outputs["fleet_id"], "pin       " + v.Outputs["pin"]}
	for _, b := range doc.blocks {
		if strings.Join(b.lines, "\n") == strings.Join(want, "\n") {
			return
		}
	}
	t.Errorf("no block has\n%s", strings.Join(want, "\n"))
}

// The CA id that a CA key gets unless another one is chosen, by section 5.2.
func TestCAID(t *testing.T) {
	doc, v := read(t, protocol), readVectors(t)
	l := parseLanguage(t, doc)
	r, err := l.decode("PointerRecord", v.bytes(t, "pointer record 1"))
	if err != nil {
		t.Fatal(err)
	}
	spki := r["body.genesis.ca"]
	key, err := chancery.ParsePublicKey(spki)
	if err != nil {
		t.Fatal(err)
	}
	fp := sha256.Sum256(spki)
	want := fmt.Sprintf("32473.1.%d.%d", binary.BigEndian.Uint32(fp[:])/2, binary.BigEndian.Uint32(fp[4:])/2)
	if got := chancery.DefaultCAID(key).String(); got != want {
		t.Errorf("CA id %s, want %s", got, want)
	}
}

// N:C has the extensions of section 5.1 in the order of its table.
func TestExtensions(t *testing.T) {
	doc, v := read(t, protocol), readVectors(t)
	nc, err := chancery.ParseCertificate(v.bytes(t, "N:C of edge-1, a batch of one"))
	if err != nil {
		t.Fatal(err)
	}
	rows := doc.find(t, "extension", "oid", "critical", "content").rows
	if got := nc.MTC().Extensions; len(got) != len(rows) {
		t.Fatalf("%d extensions, documented %d", len(got), len(rows))
	}
	for i, e := range nc.MTC().Extensions {
		if oid, critical := e.Id.String(), map[bool]string{true: "yes", false: "no"}[e.Critical]; oid != rows[i][1] || critical != rows[i][2] {
			t.Errorf("extension %d is %s, critical %s; documented %s, %s", i, oid, critical, rows[i][1], rows[i][2])
		}
	}
}
