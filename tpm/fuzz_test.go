package tpm

import (
	"bytes"
	"testing"
)

// The corpus of the fuzz tests starts from structures built here; what chips
// really send is in the other tests.

func FuzzParseKeyFile(f *testing.F) {
	key := generatorKey()
	seal := &Seal{Sealing: Sealing{Approval: key, PCRs: []int{7}}, Epoch: 1, PCRDigest: PCRValues{7: {}}.Digest()}
	policy := seal.Policy()
	area := approvalArea(key)
	point := area[len(area)-68:]
	x, y := point[2:34], point[36:]
	creation := append([]byte{0, 0, 0, 1, 0, 11, 3, 0x80, 0, 0, 0, 32}, make([]byte, 32)...)
	creation = append(creation, 1, 0, 11, 0, 34)
	creation = append(append(creation, make([]byte, 34)...), 0, 0, 0, 0)
	sealed := &KeyFile{
		Public: signingArea(attributesSealed, policy[:], x, y), Private: []byte{1}, CreationData: creation, CreationTicket: []byte{2},
		Seal: seal, Approvals: []Approval{{Epoch: 2, Signature: make([]byte, 64)}},
	}
	plain := &KeyFile{Public: signingArea(attributesUnsealed, nil, x, y), CreationData: creation}
	for _, file := range []*KeyFile{sealed, plain} {
		if _, err := ParseKeyFile(file.Marshal()); err != nil {
			f.Fatal(err)
		}
		f.Add(file.Marshal())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := ParseKeyFile(b)
		if err != nil {
			return
		}
		if !bytes.Equal(file.Marshal(), b) {
			t.Error("a key file has two encodings")
		}
		if _, err := file.PublicKey(); err != nil {
			t.Errorf("a key file without a key: %v", err)
		}
	})
}

// FuzzPublicArea parses public areas as each kind of key. An area is one kind
// at most.
func FuzzPublicArea(f *testing.F) {
	area := approvalArea(generatorKey())
	point := area[len(area)-68:]
	x, y := point[2:34], point[36:]
	f.Add(signingArea(attributesAK, nil, x, y))
	f.Add(signingArea(attributesSealed, make([]byte, 32), x, y))
	f.Add(signingArea(attributesUnsealed, nil, x, y))
	for _, e := range ekTemplates {
		f.Add(e.template())
	}
	f.Add(append(ekTemplates[0].head[:len(ekTemplates[0].head):len(ekTemplates[0].head)], point...))
	f.Fuzz(func(t *testing.T, b []byte) {
		kinds := 0
		if k, err := ParseAttestationKey(b); err == nil {
			kinds++
			if k.Name() != nameOf(b) || k.Key().IsZero() {
				t.Error("an attestation key without key or with another Name")
			}
		}
		if k, err := parseNodeKey(b); err == nil {
			kinds++
			if k.Name != nameOf(b) || k.Key.IsZero() {
				t.Error("a node key without key or with another Name")
			}
		}
		if k, err := ParseEndorsementKey(b); err == nil {
			kinds++
			if _, _, err := k.MakeCredential(Name{}, []byte("secret")); err != nil {
				t.Errorf("an endorsement key that does not encrypt: %v", err)
			}
		}
		if kinds > 1 {
			t.Errorf("an area of %d kinds", kinds)
		}
	})
}

// FuzzAttest parses what an attestation key signed: a chip, or a thief of an
// attestation key, may sign nonsense.
func FuzzAttest(f *testing.F) {
	head := []byte{0xff, 'T', 'C', 'G', 0x80, 0x18, 0, 0, 0, 0}
	head = append(head, make([]byte, 25)...)
	quote := append(append(head, 0, 0, 0, 1, 0, 11, 3, 0x80, 0, 0, 0, 32), make([]byte, 32)...)
	if _, err := parseQuote(quote); err != nil {
		f.Fatal(err)
	}
	f.Add(quote)
	f.Add(head)
	f.Add([]byte{0, 0x18, 0, 11, 0, 1, 1, 0, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, body, err := parseAttest(b); err == nil && len(body) > len(b)-35 {
			t.Error("an attestation shorter than its head")
		}
		if r, s, err := parseSignature(b); err == nil && (r.BitLen() > 256 || s.BitLen() > 256) {
			t.Error("a signature of more than 256 bits")
		}
		if c, err := parseCreation(b); err == nil && checkPCRs(c.PCRs) != nil {
			t.Errorf("creation data of PCRs %v", c.PCRs)
		}
		if _, err := parseQuote(b); err == nil && len(b) < 35+32 {
			t.Error("a quote without a digest")
		}
	})
}
