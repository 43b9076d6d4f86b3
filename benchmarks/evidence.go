package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"runtime"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/simulator/fleet"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// evidenceCPU compares what the coordinator does with a node's evidence, from
// the bytes of its two messages to the proof, with a fixed list of the
// cryptography in it: the EK's certificate chain, a credential, and the four
// signatures of an unsealed key's evidence. The chips are paper ones, whose
// structures are those of real chips.
func evidenceCPU() (results []Result, err error) {
	const limit = 1 / 1.3
	for _, c := range []struct {
		id, what  string
		kind      papertpm.Kind
		chain     chain
		sealed    bool
		allocates bool // is to be reported
	}{
		{"rsa", "with an RSA-2048 EK, whose issuer's certificate the chip carries", papertpm.RSA2048, carried, false, true},
		{"p384", "with a P-384 EK, whose issuer's certificate the chip carries", papertpm.P384, carried, false, true},
		{"rsa-issuer", "with an RSA-2048 EK, whose issuer is among the roots", papertpm.RSA2048, known, false, false},
		{"p384-issuer", "with a P-384 EK, whose issuer is among the roots", papertpm.P384, known, false, false},
		{"rsa-simulators", "with an RSA-2048 EK, where makers of simulators are believed too", papertpm.RSA2048, besideSimulators, false, false},
		{"p384-simulators", "with a P-384 EK, where makers of simulators are believed too", papertpm.P384, besideSimulators, false, false},
		{"rsa-sealed", "with an RSA-2048 EK and a sealed key, whose counter's signature is not in the list", papertpm.RSA2048, carried, true, false},
		{"p384-sealed", "with a P-384 EK and a sealed key, whose counter's signature is not in the list", papertpm.P384, carried, true, false},
	} {
		s, err := newShown(c.kind, c.chain, c.sealed)
		if err != nil {
			return nil, err
		}
		const n = 200
		p, err := beside(n, s.judge, s.list)
		if err != nil {
			return nil, err
		}
		ours, list := median(p.ours), median(p.beside)
		r := Result{ID: "evidence-cpu-" + c.id, What: "microseconds of CPU for the evidence of a node " + c.what, Ours: ours, Beside: list,
			Peer: "the cryptography in it", Ratio: list / ours, Met: true, Command: command + " evidence-cpu"}
		if !c.sealed {
			r.Target, r.Met = ">= 1/1.3", list/ours >= limit
		}
		results = append(results, r.of(p.ours, p.beside))
		if !c.allocates {
			continue
		}
		if ours, err = allocations(n, s.judge); err != nil {
			return nil, err
		}
		if list, err = allocations(n, s.list); err != nil {
			return nil, err
		}
		results = append(results, Result{ID: "evidence-allocs-" + c.id, What: "allocations for the same", Ours: ours, Beside: list,
			Peer: r.Peer, Ratio: list / ours, Met: true, Command: r.Command})
	}
	return results, nil
}

// A chain is where the certificates between an EK's and a root come from.
type chain int

const (
	carried          chain = iota // the issuer's comes with the EK's; two signatures
	known                         // the issuer is among the roots, as swtpm's; one signature
	besideSimulators              // carried, and the coordinator looks among makers of simulators first
)

// allocations returns how often one run allocates.
func allocations(n int, run func() error) (float64, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		if err := run(); err != nil {
			return 0, err
		}
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n), nil
}

// shown is what one node shows, and what the list needs to do the same
// cryptography.
type shown struct {
	request    *chancery.InitialConnection
	exporter   [32]byte
	question   *evidence.Question
	submission *chancery.Submission
	approval   chancery.PublicKey
	roots      evidence.Roots
	at         time.Time

	certificate   *x509.Certificate // of the EK, parsed and understood
	chain         *x509.CertPool
	encapsulation tpm2.LabeledEncapsulationKey
	akName        tpm.Name
	signatures    []signature // pop, N:S, creation, quote
}

// A signature is one that verifies.
type signature struct {
	key    *ecdsa.PublicKey
	digest [32]byte
	asn1   []byte
}

var benchFleet = chancery.FleetID{1}

// newShown has a paper chip go through an enrolment.
func newShown(kind papertpm.Kind, from chain, sealed bool) (*shown, error) {
	maker, err := papertpm.NewMaker()
	if err != nil {
		return nil, err
	}
	chip, err := maker.New(papertpm.Options{EK: kind})
	if err != nil {
		return nil, err
	}
	approval, err := fleet.NewKey()
	if err != nil {
		return nil, err
	}
	s := &shown{exporter: [32]byte{2}, approval: approval.PublicKey(), at: time.Now().UTC().Truncate(time.Second)}
	var sealing *tpm.Sealing
	if sealed {
		sealing = &tpm.Sealing{Approval: s.approval, Nonce: [32]byte{3}, PCRs: tpm.DefaultPCRs}
	}
	file, err := chip.CreateKey(sealing)
	if err != nil {
		return nil, err
	}
	key, err := chip.LoadKey(file)
	if err != nil {
		return nil, err
	}
	ek, err := chip.EK()
	if err != nil {
		return nil, err
	}
	ak, err := chip.AK()
	if err != nil {
		return nil, err
	}
	if ek.Chain, err = s.trust(maker, from); err != nil {
		return nil, err
	}
	if err := s.connect(chip, file, key, ek, ak); err != nil {
		return nil, err
	}
	if err := s.submit(chip, file, key); err != nil {
		return nil, err
	}
	return s, s.prepare(ek, ak)
}

// trust believes the maker. It returns the chain that a chip of it carries.
func (s *shown) trust(maker *papertpm.Maker, from chain) (carries [][]byte, err error) {
	s.roots.Makers = maker.Roots()
	if from == known {
		return nil, nil
	}
	if from == besideSimulators {
		other, err := newRoot("another maker")
		if err != nil {
			return nil, err
		}
		s.roots.Simulators = x509.NewCertPool()
		s.roots.Simulators.AddCert(other)
	}
	first, rest := pem.Decode(maker.RootsPEM())
	second, _ := pem.Decode(rest)
	root, err := x509.ParseCertificate(first.Bytes)
	if err != nil {
		return nil, err
	}
	s.roots.Makers = x509.NewCertPool()
	s.roots.Makers.AddCert(root)
	return [][]byte{second.Bytes}, nil
}

// newRoot makes the root certificate of somebody.
func newRoot(name string) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// connect composes the initial connection.
func (s *shown) connect(chip *papertpm.Chip, file *tpm.KeyFile, key *papertpm.Key, ek tpm.EK, ak tpm.AK) error {
	info := chip.Info()
	s.request = &chancery.InitialConnection{
		NodeKey: key.PublicKey().SPKI(), NodePublic: file.Public, AKPublic: ak.Public, EKPublic: ek.Public, EKCertificate: ek.Certificate, EKChain: ek.Chain,
		Chip: chancery.Chip{Manufacturer: info.Manufacturer, Model: info.Vendor, Firmware: fmt.Sprintf("%016x", info.Firmware), Simulator: info.Simulator},
		Name: "edge-1", Nonce: make([]byte, 32),
	}
	if l := file.Seal; l != nil {
		s.request.Sealing = &chancery.Sealing{Nonce: l.Nonce[:], PCRs: l.PCRs, PCRDigest: l.PCRDigest[:], Epoch: l.Epoch}
	}
	pop := chancery.PoP{NodeKey: key.PublicKey(), AKName: ak.Name[:], EKDigest: sha256.Sum256(ek.SPKI), NodeNonce: [32]byte(s.request.Nonce), Exporter: s.exporter}
	sig, err := key.Sign(context.Background(), benchFleet, pop)
	s.request.PoP = sig
	s.signed(key.PublicKey(), pop, sig)
	return err
}

// signed adds a signature of N:SK to the list.
func (s *shown) signed(key chancery.PublicKey, what chancery.Statement, sig chancery.Signature) {
	s.signatures = append(s.signatures, signature{key.ECDSA(), sha256.Sum256(chancery.Message(benchFleet, chancery.P256, what)), sig.ASN1()})
}

// submit composes the submission that follows.
func (s *shown) submit(chip *papertpm.Chip, file *tpm.KeyFile, key *papertpm.Key) error {
	s.question = &evidence.Question{CANSHash: [32]byte{4}, Activation: make([]byte, 32), Approval: s.approval, Asked: s.at}
	ns := &chancery.NS{Fleet: benchFleet, NodeKey: key.PublicKey(), CANSHash: s.question.CANSHash, Created: s.at, Name: s.request.Name}
	var err error
	if ns.Signature, err = key.Sign(context.Background(), benchFleet, ns); err != nil {
		return err
	}
	s.signed(key.PublicKey(), ns, ns.Signature)
	creation, err := chip.CertifyCreation(file, s.question.CANSHash)
	if err != nil {
		return err
	}
	quote, values, err := chip.Quote([]int{0, 2, 4, 7}, s.question.CANSHash)
	if err != nil {
		return err
	}
	s.submission = &chancery.Submission{NS: ns.Marshal(), Activation: s.question.Activation, CreationData: file.CreationData, Creation: chancery.Attestation(creation),
		Quote: &chancery.Quote{Attestation: chancery.Attestation(quote), Values: map[int][]byte{}}}
	for pcr, v := range values {
		s.submission.Quote.Values[pcr] = v[:]
	}
	if file.Seal != nil {
		epoch, err := chip.CertifyEpoch(s.question.CANSHash)
		if err != nil {
			return err
		}
		s.submission.Epoch = new(chancery.Attestation(epoch))
	}
	return nil
}

// prepare parses what the list is not to parse.
func (s *shown) prepare(ek tpm.EK, ak tpm.AK) error {
	c, err := tpm.ParseEKCertificate(ek.Certificate)
	if err != nil {
		return err
	}
	s.certificate, s.chain = c.Cert, x509.NewCertPool()
	for _, der := range ek.Chain {
		issuer, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		s.chain.AddCert(issuer)
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public)
	if err != nil {
		return err
	}
	s.akName = ak.Name
	if s.encapsulation, err = tpm2.ImportEncapsulationKey(area); err != nil {
		return err
	}
	key, err := tpm.ParseAttestationKey(ak.Public)
	if err != nil {
		return err
	}
	for _, a := range []chancery.Attestation{s.submission.Creation, s.submission.Quote.Attestation} {
		sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](a.Signature)
		if err != nil {
			return err
		}
		ecc, err := sig.Signature.ECDSA()
		if err != nil {
			return err
		}
		asn1, err := chancery.NewSignature(chancery.P256, new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer))
		if err != nil {
			return err
		}
		s.signatures = append(s.signatures, signature{key.Key().ECDSA(), sha256.Sum256(a.Attest), asn1.ASN1()})
	}
	return nil
}

// judge is what the coordinator does, in its two requests, without the store:
// the second one begins anew with what the first one has stored.
func (s *shown) judge() error {
	claim, err := evidence.Parse(benchFleet, s.request, s.exporter)
	if err != nil {
		return err
	}
	if err := errors.Join(claim.Possession(), claim.KeyArea(s.approval)); err != nil {
		return err
	}
	standing, err := claim.Standing(s.roots, s.at)
	if err != nil {
		return err
	}
	if standing.Assurance != chancery.AssuranceEK {
		return fmt.Errorf("assurance %s: %v", standing.Assurance, standing.Unknown)
	}
	var secret [32]byte
	rand.Read(secret[:])
	if _, _, err := claim.EK.MakeCredential(claim.AK.Name(), secret[:]); err != nil {
		return err
	}
	if claim, err = evidence.Parse(benchFleet, s.request, s.exporter); err != nil {
		return err
	}
	proof, err := claim.Prove(s.question, s.submission)
	if err == nil && (proof.Quote == nil || proof.Sealed != (s.request.Sealing != nil)) {
		err = errors.New("the proof is not whole")
	}
	return err
}

// list does the cryptography alone.
func (s *shown) list() error {
	_, err := s.certificate.Verify(x509.VerifyOptions{Roots: s.roots.Makers, Intermediates: s.chain, CurrentTime: s.at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return err
	}
	var secret [32]byte
	rand.Read(secret[:])
	if _, _, err := tpm2.CreateCredential(rand.Reader, s.encapsulation, s.akName[:], secret[:]); err != nil {
		return err
	}
	for _, sig := range s.signatures {
		if !ecdsa.VerifyASN1(sig.key, sig.digest[:], sig.asn1) {
			return errors.New("a signature does not verify")
		}
	}
	return nil
}
