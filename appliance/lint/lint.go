// Package lint judges a certificate before CA:SK or the X.509 issuer is asked
// for it.
//
// Start with [New]. A [Linter] reads a log entry, which is all that CA:SK
// certifies of a TBSCertificate but for the serial number, and holds it
// against what the pointer record promises verifiers, against RFC 5280 and
// against docs/protocol.md section 5.1. It comes last, behind the gates of an
// enrolment and the encoder: what is appended cannot be taken back.
//
// # A second reader
//
// The entry was written by the root package and merkle. This package shares no
// reader, no writer and no number with them; what it knows of the form, object
// identifiers included, is written out a second time in form.go. So a mistake
// has to be made twice before it is certified.
//
// The certificate that an N:C is accompanied by for third parties is held
// against that N:C, and read by crypto/x509: see [Linter.CheckX509].
//
// # Not judged
//
// Whether the node may have the certificate is for authority to say, and
// whether N:S verifies for evidence. Here are only bytes: no clock, no disk, no
// network.
//
// # Failure
//
// Every refusal is an [*Error], which names the rule. Most of them mean that
// the coordinator has a fault, for its gates let through what cannot be
// certified; the others tell in their hint what the node or the operator can
// do.
package lint

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// Rules say what a CA may certify.
type Rules struct {
	CA          merkle.TrustAnchorID // the issuer
	Log         uint16               // the log that it appends to
	TrustDomain string
	DNSSuffix   string        // every node has the DNS name NAME.SUFFIX; empty: none has one
	MaxLife     time.Duration // from notBefore to notAfter
	MinSuite    chancery.Suite

	// Forbidden are the keys that are not a node's, the CA's own among them:
	// whose each is, by fingerprint.
	Forbidden map[[sha256.Size]byte]string
}

// RulesOf returns what a pointer record says about its current CA. It knows
// nothing of DNS names.
func RulesOf(p *chancery.Pointer) Rules {
	current := p.Current()
	r := Rules{CA: current.ID, Log: current.Log(), TrustDomain: p.TrustDomain, MaxLife: p.MaxLife, MinSuite: p.MinSuite,
		Forbidden: map[[sha256.Size]byte]string{p.Genesis.NextCA: "the next CA key"}}
	for _, change := range p.Rollovers {
		r.Forbidden[change.NextCA] = "the next CA key"
	}
	for _, e := range p.Endpoints {
		for _, pin := range e.Pins {
			r.Forbidden[pin] = "the coordinator's TLS key"
		}
	}
	r.Forbidden[p.Approval.Fingerprint()] = "the approval key"
	if !p.X509Issuer.IsZero() {
		r.Forbidden[p.X509Issuer.Fingerprint()] = "the X.509 issuer's key"
	}
	for _, k := range p.Keys { // last: a CA key that was announced is one
		r.Forbidden[k.Key.Fingerprint()] = "the key of CA " + k.ID.String()
	}
	return r
}

// A Linter holds entries against its rules. Its methods may be called
// concurrently.
type Linter struct {
	rules  Rules
	issuer string // DER Name
	uri    string // up to the node's name
	dns    string // after the node's name; empty if there is no DNS name
}

// New returns a linter. It refuses rules under which nothing could be
// certified, or anything.
func New(r Rules) (*Linter, error) {
	switch {
	case r.CA.IsZero() || r.Log == 0:
		return nil, fmt.Errorf("lint: log %d of CA %q is not a log", r.Log, r.CA)
	case !isTrustDomain(r.TrustDomain):
		return nil, fmt.Errorf("lint: trust domain %q is not 1 to 255 of a-z, 0-9, -, . and _", r.TrustDomain)
	case r.DNSSuffix != "" && !isHostName(r.DNSSuffix):
		return nil, fmt.Errorf("lint: DNS suffix %q is not a host name in lower case", r.DNSSuffix)
	case len(r.DNSSuffix) > maxDNSName-maxName-1:
		return nil, fmt.Errorf("lint: DNS suffix of %d characters, at most %d leave room for a node's name", len(r.DNSSuffix), maxDNSName-maxName-1)
	case r.MaxLife < time.Second:
		return nil, fmt.Errorf("lint: longest life is %s, must be 1s or more", r.MaxLife)
	case curveOfSuite(r.MinSuite) == nil:
		return nil, fmt.Errorf("lint: lowest suite %s is not a known one", r.MinSuite)
	case len(r.Forbidden) == 0:
		return nil, fmt.Errorf("lint: no key is forbidden, the CA's own must be")
	}
	l := &Linter{rules: r, issuer: nameOf(oidTrustAnchorID, r.CA.String()), uri: "spiffe://" + r.TrustDomain + "/node/"}
	if r.DNSSuffix != "" {
		l.dns = "." + r.DNSSuffix
	}
	return l, nil
}

// A Candidate is an entry that is about to be appended, and what is known of
// it besides.
type Candidate struct {
	Entry  []byte        // MTCLogEntry
	SPKI   []byte        // N:PK, of which the entry has the hash
	Serial merkle.Serial // the entry's place
	Name   string        // of the node that it is for
	Now    time.Time     // of the append
}

// A Holder tells the name under which a key was certified before, "" if it was
// not. It looks into the store, within the transaction that appends.
type Holder func(spki []byte) (name string, err error)

// Check tells whether the candidate may be appended. Refusals are [*Error]s,
// any other error is the holder's.
func (l *Linter) Check(c *Candidate, holder Holder) error {
	e := examination{Linter: l, Candidate: c, rest: c.Entry}
	for _, step := range steps {
		if err := step(&e); err != nil {
			return err
		}
	}
	name, err := holder(c.SPKI)
	if err == nil && name != "" && name != c.Name {
		err = refuse(KeyReuse, "the key is node %s's already, and this one is %s", show([]byte(name)), c.Name)
	}
	return err
}

// CheckName tells whether a node can have the name, for gates that refuse it
// before there is anything to sign.
func CheckName(name string) error {
	if why := wrongName([]byte(name)); why != "" {
		return refuse(Name, "name %s: %s", show([]byte(name)), why)
	}
	return nil
}

// An examination is one pass over an entry, from its first byte to its last.
type examination struct {
	*Linter
	*Candidate
	rest  der    // of the entry, not looked at yet
	curve *curve // of N:PK
}

// steps are in the order of the entry's fields.
var steps = [...]func(*examination) error{
	(*examination).place,
	(*examination).head,
	(*examination).validity,
	(*examination).subject,
	(*examination).key,
	(*examination).extensions,
}

func (e *examination) place() error {
	if len(e.Entry) > maxEntry {
		return refuse(Size, "the entry has %d bytes, at most %d", len(e.Entry), maxEntry)
	}
	if e.Serial.Log() != e.rules.Log {
		return refuse(Serial, "serial number %s is not of log %d", e.Serial, e.rules.Log)
	}
	return nil
}

func (e *examination) head() error {
	if !e.rest.skip(entryHead) {
		return refuse(Encoding, "the entry begins %s, not as a certificate's of version 3 without log extensions", show(e.Entry))
	}
	if at := e.rest; !e.rest.skip(e.issuer) {
		return refuse(Issuer, "issuer is %s, not CA %s", show(at.peek()), e.rules.CA)
	}
	return nil
}

// lead is how far before the append notBefore may lie: as far as verifiers'
// clocks may be apart (docs/protocol.md section 5.4).
const lead = 5 * time.Minute

func (e *examination) validity() error {
	v, ok := e.rest.element(tagSequence)
	if !ok {
		return refuse(Encoding, "validity is not a sequence")
	}
	notBefore, ok1 := readTime(&v)
	notAfter, ok2 := readTime(&v)
	if !ok1 || !ok2 || len(v) > 0 {
		return refuse(Time, "validity is not two times in their one form: %s", show(v))
	}
	switch life := notAfter.Sub(notBefore); {
	case life <= 0:
		return refuse(Validity, "notAfter %s is not after notBefore %s", stamp(notAfter), stamp(notBefore))
	case notBefore.After(e.Now):
		return refuse(NotBefore, "notBefore %s is after the append at %s", stamp(notBefore), stamp(e.Now))
	case e.Now.Sub(notBefore) > lead:
		return refuse(NotBefore, "notBefore %s is more than %s before the append at %s", stamp(notBefore), lead, stamp(e.Now))
	case life > e.rules.MaxLife:
		return refuse(Life, "the certificate lives %s, the pointer record allows %s", life, e.rules.MaxLife)
	}
	return nil
}

func (e *examination) subject() error {
	at := e.rest.peek()
	name, ok := readCommonName(&e.rest)
	if !ok {
		return refuse(Subject, "subject is not one common name: %s", show(at))
	}
	if string(name) != e.Name {
		return refuse(Subject, "common name is %s, the node is %s", show(name), show([]byte(e.Name)))
	}
	return CheckName(e.Name)
}

func (e *examination) key() error {
	if e.curve = curveOf(e.SPKI); e.curve == nil {
		return refuse(Key, "the key is not a point on P-256 or P-384 in its one form: %s", show(e.SPKI))
	}
	at := e.rest.peek()
	if algorithm, ok := e.rest.whole(tagSequence); !ok || string(algorithm) != e.curve.algorithm {
		return refuse(Key, "algorithm is %s, the key's is %s", show(at), e.curve.name)
	}
	at = e.rest.peek()
	fingerprint := sha256.Sum256(e.SPKI)
	if hash, ok := e.rest.element(tagOctets); !ok || !bytes.Equal(hash, fingerprint[:]) {
		return refuse(Key, "the hash of the key is %s, not that of the key", show(at))
	}
	_, err := e.usable(e.SPKI)
	return err
}
