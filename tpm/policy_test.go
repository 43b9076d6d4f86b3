package tpm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"testing"

	"github.com/chancery-pki/chancery"
)

// generatorKey is the public key whose private key is 1.
func generatorKey() chancery.PublicKey {
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), big.NewInt(1).FillBytes(make([]byte, 32)))
	if err != nil {
		panic(err)
	}
	key, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		panic(err)
	}
	return key
}

// The vector was computed by a program in another language and compared with
// a TPM. It fixes the two references instead of deriving them from an AK.
func TestKnownPolicies(t *testing.T) {
	const (
		ref          = "c2b47cfff87d8d9acce188d34dbe092247211928210afb81dcc1dd92adbab0e4"
		incrementRef = "dbbaac385727098e45dd4000bae5df39c3d975302c29996aad93f2b56bf0b0ad"
		approvalKey  = "000b19366a7e682a0589dc1096b44aab74b7942f84b386b94eab81013d9970daf605"
		indexPolicy  = "53841ef3808af3803af5b18bf8e45e75f904dd00c90f29e73b3aa700e03e04fc"
		index        = "01800101000b22040018002053841ef3808af3803af5b18bf8e45e75f904dd00c90f29e73b3aa700e03e04fc0008"
		indexName    = "000b193b7ad667bfae41d9c9af5560c0a7792dab3620844cbb0e1e73afb25ecea144"
		notPast1     = "eadd64382d6d6e678eb7618d01ac596669b6c1ed6f7b98e5f6506fbab3f373dd"
		zeroPCR      = "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
		branchA      = "322891be57c42cff582ecd6643ef3b42c5647872a9879bcab2ce501e13f590fd"
		branchB      = "a44717c77b5262a1fc7da8e5cdbdaad077e2a5727c05d0faf9daab02d75e087b"
		approved2    = "e18ed0760e9a246865d5d9804c33965fee57e02ad94044ee681ef67667182b89"
		approvedHash = "7e344c85f3bea5e0e236b4115e8a7f4930c58cd04c51ee388679f81d61491ee5"
	)
	same := func(what string, got []byte, want string) {
		t.Helper()
		if hex.EncodeToString(got) != want {
			t.Errorf("%s\n got %x\nwant %s", what, got, want)
		}
	}
	array := func(s string) [32]byte { return [32]byte(unhex(s)) }

	key := approvalName(generatorKey())
	same("approval key's Name", key[:], approvalKey)

	first := policyCommandCode(policyNVUnwritten([32]byte{}), ccNVIncrement)
	either := policyOR(first, policyAuthorize(key, array(incrementRef)))
	nv := nvPublic{handle: epochHandle, attributes: epochAttributes | nvWritten, policy: either[:]}
	same("epoch counter's policy", nv.policy, indexPolicy)
	same("epoch counter", nv.bytes(), index)
	name := nv.name()
	same("epoch counter's Name", name[:], indexName)

	p := policyNV([32]byte{}, opUnsignedLE, 1, name)
	same("PolicyNV", p[:], notPast1)
	digest := PCRValues{7: {}}.Digest()
	same("pcrDigest", digest[:], zeroPCR)
	a := policyPCR(p, []int{7}, digest)
	same("branch A", a[:], branchA)
	b := policyAuthorize(key, array(ref))
	same("branch B", b[:], branchB)

	// The OR of the two is recomputed here from the bytes that TPM2_PolicyOR
	// hashes.
	or := sha256.Sum256(unhex(hex.EncodeToString(make([]byte, 32)) + "00000171" + branchA + branchB))
	both := policyOR(a, b)
	same("PolicyOR", both[:], hex.EncodeToString(or[:]))

	next := policyPCR(policyNV([32]byte{}, opUnsignedLE, 2, name), []int{7},
		PCRValues{7: sha256.Sum256([]byte("pcr7 example"))}.Digest())
	same("approved policy of epoch 2", next[:], approved2)
	message := sha256.Sum256(chancery.Message(chancery.FleetID{}, chancery.P256,
		chancery.PolicyApproval{Policy: next, Ref: array(ref)}))
	same("what the approval key signs", message[:], approvedHash)
}

// The references are per chip and, for approvals, per enrolment.
func TestReferences(t *testing.T) {
	key := generatorKey()
	seal := Seal{Sealing: Sealing{Approval: key, Nonce: [32]byte{1}, PCRs: []int{7}}, AK: Name{0, 11, 1}}
	want := sha256.Sum256(append(append([]byte("chancery-v1 approve\x00\x22"), seal.AK[:]...), seal.Nonce[:]...))
	if seal.ref() != want {
		t.Errorf("policyRef %x, want %x", seal.ref(), want)
	}
	want = sha256.Sum256(append([]byte("chancery-v1 increment\x00\x22"), seal.AK[:]...))
	if got := incrementRef(seal.AK); got != want {
		t.Errorf("reference of increments %x, want %x", got, want)
	}
	seen := map[[32]byte]string{}
	for what, change := range map[string]func(*Seal){
		"nothing":        func(*Seal) {},
		"the AK":         func(s *Seal) { s.AK[33]++ },
		"the nonce":      func(s *Seal) { s.Nonce[0]++ },
		"the epoch":      func(s *Seal) { s.Epoch++ },
		"the PCRs":       func(s *Seal) { s.PCRs = []int{7, 11} },
		"the PCR digest": func(s *Seal) { s.PCRDigest[0]++ },
	} {
		s := seal
		change(&s)
		if other, ok := seen[s.Policy()]; ok {
			t.Errorf("changing %s and changing %s give the same policy", what, other)
		}
		seen[s.Policy()] = what
	}
}

func TestSealingPCRs(t *testing.T) {
	for _, test := range []struct {
		pcrs []int
		ok   bool
	}{
		{[]int{7}, true}, {[]int{0, 2, 4, 7, 11}, true},
		{nil, false}, {[]int{16}, false}, {[]int{7, 23}, false},
		{[]int{7, 4}, false}, {[]int{7, 7}, false}, {[]int{-1}, false}, {[]int{24}, false},
	} {
		err := Sealing{Approval: generatorKey(), PCRs: test.pcrs}.check()
		if (err == nil) != test.ok {
			t.Errorf("sealing to PCRs %v: %v", test.pcrs, err)
		}
	}
	if err := (Sealing{PCRs: []int{7}}).check(); err == nil {
		t.Error("sealing without an approval key is accepted")
	}
}
