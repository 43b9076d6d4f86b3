package docscheck

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/tpm"
)

// The worked examples of section 6.1 are what the coordinator's code makes.
func TestIndexSetExamples(t *testing.T) {
	doc := read(t, protocol)
	l := parseLanguage(t, doc)
	var list *chancery.CRL // the one that the text continues
	for _, row := range doc.find(t, "first", "size", "revoked", "body", "why").rows {
		indexes := parseIndexes(t, row[2])
		crl := next(t, nil, number(t, row[0]), number(t, row[1]), indexes)
		r, err := l.decode("CRL", crl.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if want := "`" + hex.EncodeToString(r["bodies.0.data"]) + "`"; row[3] != want {
			t.Errorf("[%s, %s) with %s is %s, documented %s", row[0], row[1], row[2], want, row[3])
		}
		if row[2] == "3, 7, 8" {
			list = crl
		}
	}
	if list == nil {
		t.Fatal("the example with 3, 7, 8 is gone")
	}
	second := next(t, list, 0, 24, []uint64{3, 7, 8, 20})
	delta, err := second.Delta(list)
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.decode("CRLDelta", delta)
	if err != nil {
		t.Fatal(err)
	}
	sum := second.Head().Change
	for _, want := range []string{hex.EncodeToString(r["change"]), hex.EncodeToString(sum[:])} {
		if !strings.Contains(strings.Join(doc.lines, "\n"), "`"+want+"`") {
			t.Errorf("the change of the example is not %s", want)
		}
	}
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// parseIndexes reads "1, 3, 5-7".
func parseIndexes(t *testing.T, s string) (list []uint64) {
	t.Helper()
	if s == "" {
		return nil
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		for i := number(t, low); i <= number(t, high); i++ {
			list = append(list, i)
		}
	}
	return list
}

func next(t *testing.T, before *chancery.CRL, first, size uint64, revoked []uint64) *chancery.CRL {
	t.Helper()
	ca, err := merkle.ParseTrustAnchorID("32473.1.1")
	if err != nil {
		t.Fatal(err)
	}
	sets := []chancery.RevokedSet{{CA: ca, Log: 1, First: first, Size: size, Indexes: revoked}}
	crl, err := chancery.NextCRL(before, sets, time.Unix(1, 0), time.Unix(2, 0))
	if err != nil {
		t.Fatal(err)
	}
	crl.Sign(make([]byte, chancery.P256.SignatureSize())) // layout, not verification
	return crl
}

// The known answers of section 4.9, from the formulas beside them, and from
// package tpm where it tells.
func TestSealingExamples(t *testing.T) {
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), big.NewInt(1).FillBytes(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	approval, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	ak := tpm.Name(append([]byte{0x00, 0x0b}, bytes.Repeat([]byte{0x11}, 32)...))
	nonce := [32]byte(bytes.Repeat([]byte{0x22}, 32))
	later := tpm.PCRValues{7: {0: 1}}

	// The formulas of the document.
	approvalName := join("000b", hash("0023000b00040040000000100018000b000300100020", point[1:33], "0020", point[33:]))
	approveRef := hash([]byte("chancery-v1 approve"), "0022", ak[:], nonce[:])
	incrementRef := hash([]byte("chancery-v1 increment"), "0022", ak[:])
	zero := make([]byte, 32)
	authorize := func(ref []byte) []byte { return hash(hash(zero, "0000016a", approvalName), ref) }
	or := func(a, b []byte) []byte { return hash(zero, "00000171", a, b) }
	first := hash(hash(zero, "0000018f", "00"), "0000016c", "00000134")
	nvName := join("000b", hash("01800101000b220400180020", or(first, authorize(incrementRef)), "0008"))
	pnv := func(op, epoch string) []byte {
		return hash(zero, "00000149", hash("00000000000000"+epoch, "0000", op), nvName)
	}
	state := func(epoch string, pcr7 [32]byte) []byte {
		return hash(pnv("0009", epoch), "0000017f", "00000001000b03", "800000", hash(pcr7[:]))
	}
	a, b := state("01", [32]byte{}), authorize(approveRef)
	want := map[string][]byte{
		"approvalName": approvalName, "approveRef": approveRef, "incrementRef": incrementRef, "nvName": nvName,
		"A": a, "B": b, "authPolicy": or(a, b),
		"state of epoch 2, PCR 7 = 01 and 31 bytes 00": state("02", later[7]),
		"policy of the increment from 1":               hash(pnv("0000", "01"), "0000016c", "00000134"),
	}

	// The code.
	seal := tpm.Seal{Sealing: tpm.Sealing{Approval: approval, Nonce: nonce, PCRs: []int{7}}, AK: ak, Epoch: 1, PCRDigest: tpm.PCRValues{7: {}}.Digest()}
	asCreated, err := seal.Approve(1, tpm.PCRValues{7: {}})
	if err != nil {
		t.Fatal(err)
	}
	approved, err := seal.Approve(2, later)
	if err != nil {
		t.Fatal(err)
	}
	increment, policy := tpm.Increment(approval, ak, 1), seal.Policy()
	for name, got := range map[string][]byte{
		"A": asCreated.Policy[:], "approveRef": asCreated.Ref[:], "authPolicy": policy[:],
		"state of epoch 2, PCR 7 = 01 and 31 bytes 00": approved.Policy[:],
		"policy of the increment from 1":               increment.Policy[:], "incrementRef": increment.Ref[:],
	} {
		if !bytes.Equal(got, want[name]) {
			t.Errorf("%s: package tpm has %x, the formula gives %x", name, got, want[name])
		}
	}

	doc := read(t, protocol)
	rows := doc.find(t, "value", "bytes").rows
	for _, row := range rows {
		if got := "`" + hex.EncodeToString(want[row[0]]) + "`"; got != row[1] {
			t.Errorf("%s is %s, documented %s", row[0], got, row[1])
		}
	}
	if len(rows) != len(want) {
		t.Errorf("%d known answers, want %d", len(rows), len(want))
	}
}

// join joins bytes, and strings of hexadecimal digits.
func join(parts ...any) (b []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			b = append(b, p...)
		case string:
			raw, err := hex.DecodeString(p)
			if err != nil {
				panic(err)
			}
			b = append(b, raw...)
		}
	}
	return b
}

func hash(parts ...any) []byte {
	h := sha256.Sum256(join(parts...))
	return h[:]
}
