package papertpm_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// TestParity lays what a paper chip says next to what an swtpm says. What may
// differ is blanked, byte for byte; the rest is the same.
func TestParity(t *testing.T) {
	approver := newApprover(t)
	process := tpmtest.New(t)
	chip := process.Open(t)
	paper := newChip(t, papertpm.Options{EK: papertpm.P384})
	for what, sealing := range map[string]*tpm.Sealing{"sealed": approver.sealing(), "unsealed": nil} {
		t.Run(what, func(t *testing.T) {
			same(t, what, form(t, collect(t, paper, sealing)), form(t, collect(t, chip, sealing)))
		})
	}

	all := make([]int, 24)
	for pcr := range all {
		all[pcr] = pcr
	}
	if p, c := must(paper.PCRValues(all))(t), must(chip.PCRValues(all))(t); !maps.Equal(p, c) {
		t.Errorf("PCRs after a reset are\n%x, those of an swtpm\n%x", p, c)
	}
	if err := errors.Join(paper.ExtendPCR(7, measurement), chip.ExtendPCR(7, measurement)); err != nil {
		t.Fatal(err)
	}
	if p, c := must(paper.PCRValues(all))(t), must(chip.PCRValues(all))(t); !maps.Equal(p, c) {
		t.Error("PCR 7 differs from an swtpm's after it was extended")
	}
	if p, c := extensions(t, must(paper.EK())(t).Certificate), extensions(t, must(chip.EK())(t).Certificate); p != c {
		t.Errorf("EK certificate has the extensions\n%s, an swtpm's\n%s", p, c)
	}
}

// form is the structures of an enrolment without what is a chip's own.
func form(t *testing.T, e evidence) map[string]string {
	t.Helper()
	f := map[string]string{"length of private area": fmt.Sprint(len(e.file.Private))}
	for what, b := range map[string][]byte{"EK": e.ek.Public, "AK": e.ak.Public, "N:SK": e.file.Public} {
		f[what] = formOf(t, b, func(p *tpm2.TPMTPublic) {
			if what == "N:SK" {
				clear(p.AuthPolicy.Buffer)
			}
			if p.Type == tpm2.TPMAlgRSA {
				clear(must(p.Unique.RSA())(t).Buffer)
				return
			}
			point := must(p.Unique.ECC())(t)
			clear(point.X.Buffer)
			clear(point.Y.Buffer)
		})
	}
	f["creation data"] = formOf(t, e.file.CreationData, func(d *tpm2.TPMSCreationData) {
		clear(d.ParentName.Buffer[2:])
		clear(d.ParentQualifiedName.Buffer[2:])
	})
	f["ticket"] = formOf(t, e.file.CreationTicket, func(k *tpm2.TPMTTKCreation) { clear(k.Digest.Buffer) })
	for what, a := range map[string]tpm.Attestation{"creation": e.creation, "quote": e.quote, "counter": e.counter} {
		if a.Attest == nil {
			continue
		}
		f["signature of "+what] = formOf(t, a.Signature, func(s *tpm2.TPMTSignature) {
			ecc := must(s.Signature.ECDSA())(t)
			clear(ecc.SignatureR.Buffer)
			clear(ecc.SignatureS.Buffer)
		})
		f["attestation of "+what] = formOf(t, a.Attest, func(a *tpm2.TPMSAttest) {
			clear(a.QualifiedSigner.Buffer[2:])
			a.ClockInfo.Clock, a.ClockInfo.ResetCount, a.FirmwareVersion = 0, 0, 0
			switch a.Type {
			case tpm2.TPMSTAttestCreation:
				info := must(a.Attested.Creation())(t)
				clear(info.ObjectName.Buffer[2:])
				clear(info.CreationHash.Buffer)
			case tpm2.TPMSTAttestNV:
				// A chip's first counter starts at 1; swtpm's may have been
				// used by its manufacturer.
				info := must(a.Attested.NV())(t)
				clear(info.IndexName.Buffer[2:])
				clear(info.NVContents.Buffer)
			}
		})
	}
	return f
}

// formOf parses a structure, which must be its own encoding, and encodes it
// again after blanking.
func formOf[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](t *testing.T, b []byte, blank func(*T)) string {
	t.Helper()
	v := must(tpm2.Unmarshal[T, P](b))(t)
	if !bytes.Equal(tpm2.Marshal(*v), b) {
		t.Errorf("%T is not encoded as go-tpm encodes it: %x", *v, b)
	}
	blank(v)
	return fmt.Sprintf("%x", tpm2.Marshal(*v))
}

func same(t *testing.T, what string, paper, chip map[string]string) {
	t.Helper()
	for part, want := range chip {
		if paper[part] != want {
			t.Errorf("%s: %s is\n%s, an swtpm's\n%s", what, part, paper[part], want)
		}
	}
	if len(paper) != len(chip) {
		t.Errorf("%s: %d parts, an swtpm has %d", what, len(paper), len(chip))
	}
}

// extensions lists a certificate's, with a mark at the critical ones.
func extensions(t *testing.T, der []byte) string {
	t.Helper()
	found := map[string]bool{}
	for _, e := range must(x509.ParseCertificate(der))(t).Extensions {
		found[fmt.Sprintf("%v critical=%v", e.Id, e.Critical)] = true
	}
	return fmt.Sprint(found)
}

// TestParityOfKinds compares the endorsement keys of each kind, and what
// becomes of credentials that are not the chip's. An swtpm shows the kind for
// which it holds a certificate, so these are removed one by one.
func TestParityOfKinds(t *testing.T) {
	process := tpmtest.New(t)
	for _, test := range []struct {
		kind   papertpm.Kind
		remove tpm2.TPMHandle // certificate to remove afterwards
	}{{papertpm.P384, 0x01c00016}, {papertpm.RSA2048, 0x01c00002}, {papertpm.P256, 0}} {
		t.Run(test.kind.String(), func(t *testing.T) {
			chip, paper := process.Open(t), newChip(t, papertpm.Options{EK: test.kind})
			defer chip.Close()
			same(t, "unsealed", form(t, collect(t, paper, nil)), form(t, collect(t, chip, nil)))
			refused := badCredentials(t, chip)
			for what, bad := range badCredentials(t, paper) {
				_, err := paper.Activate(bad.credential, bad.encrypted)
				_, want := chip.Activate(refused[what].credential, refused[what].encrypted)
				// What OAEP does not like is TPM_RC_VALUE in the standard, and
				// what OpenSSL does not like TPM_RC_FAILURE in swtpm.
				if test.kind == papertpm.RSA2048 && code(err) == tpm2.TPMRCValue && code(want) == tpm2.TPMRCFailure {
					continue
				}
				if code(err) != code(want) {
					t.Errorf("%s: %v, from an swtpm %v", what, err, want)
				}
			}
			if test.remove != 0 {
				if err := chip.Close(); err != nil {
					t.Fatal(err)
				}
				undefine(t, raw(t, process), test.remove)
			}
		})
	}
}

// raw is the connection to an swtpm that nobody else has open.
func raw(t *testing.T, process *tpmtest.TPM) transport.TPM {
	t.Helper()
	socket, _ := strings.CutPrefix(process.Device(), "swtpm:")
	conn := must(linuxudstpm.Open(socket))(t)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// undefine removes an index that the manufacturer defined; the platform
// hierarchy of a simulator is open.
func undefine(t *testing.T, conn transport.TPM, index tpm2.TPMHandle) {
	t.Helper()
	public := must(tpm2.NVReadPublic{NVIndex: index}.Execute(conn))(t)
	must(tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
	}.Execute(conn))(t)
}

// TestChipBelieves has an swtpm work with the keys of a paper chip: it makes a
// credential for them, and verifies an attestation.
func TestChipBelieves(t *testing.T) {
	conn := raw(t, tpmtest.New(t))
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			paper := newChip(t, papertpm.Options{EK: kind})
			ek, ak := must(paper.EK())(t), must(paper.AK())(t)
			key := external(t, conn, ek.Public)
			made := must(tpm2.MakeCredential{
				Handle:     key.ObjectHandle,
				Credential: tpm2.TPM2BDigest{Buffer: []byte("a secret")},
				ObjectName: tpm2.TPM2BName{Buffer: ak.Name[:]},
			}.Execute(conn))(t)
			if got, err := paper.Activate(made.CredentialBlob.Buffer, made.Secret.Buffer); err != nil || string(got) != "a secret" {
				t.Errorf("activated %q (%v)", got, err)
			}

			key = external(t, conn, ak.Public)
			if !bytes.Equal(key.Name.Buffer, ak.Name[:]) {
				t.Errorf("AK's Name is %v, to an swtpm %x", ak.Name, key.Name.Buffer)
			}
			quote, _, err := paper.Quote(quoted, qualifying)
			if err != nil {
				t.Fatal(err)
			}
			digest := must(tpm2.Hash{
				Data: tpm2.TPM2BMaxBuffer{Buffer: quote.Attest}, HashAlg: tpm2.TPMAlgSHA256, Hierarchy: tpm2.TPMRHNull,
			}.Execute(conn))(t)
			must(tpm2.VerifySignature{
				KeyHandle: tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
				Digest:    digest.OutHash,
				Signature: *must(tpm2.Unmarshal[tpm2.TPMTSignature](quote.Signature))(t),
			}.Execute(conn))(t)
		})
	}
}

// external loads a public area until the test ends.
func external(t *testing.T, conn transport.TPM, public []byte) *tpm2.LoadExternalResponse {
	t.Helper()
	key := must(tpm2.LoadExternal{
		InPublic:  tpm2.BytesAs2B[tpm2.TPMTPublic](public),
		Hierarchy: tpm2.TPMRHNull,
	}.Execute(conn))(t)
	t.Cleanup(func() { must(tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(conn))(t) })
	return key
}
