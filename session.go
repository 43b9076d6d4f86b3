package chancery

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// A SessionTBS is the to-be-signed part of a session certificate: an
// ephemeral TLS key, certified by N:SK. All but the key, the serial number
// and the validity is copied from N:C or fixed, so a node can say nothing
// else with it (docs/protocol.md section 7).
type SessionTBS struct {
	raw []byte
}

// message returns the DER TBSCertificate as RFC 5280 signs it. It begins with
// 0x30, which no labelled body does.
func (s SessionTBS) message(FleetID, Suite) []byte { return s.raw }

// Limits on session certificates (section 7).
const (
	DefaultSessionLife = time.Hour
	MaxSessionLife     = 24 * time.Hour
)

// ErrSession means that a session certificate is not what N:SK may sign for
// its N:C, or that N:SK did not sign it.
var ErrSession = errors.New("session certificate is not acceptable")

// NewSession prepares the certificate of a session key under nc. The validity
// must lie within that of nc and span at most [MaxSessionLife]. serial is 16
// random bytes; the highest bit is cleared.
func NewSession(nc *Certificate, sessionKey PublicKey, serial [16]byte, notBefore, notAfter time.Time) (SessionTBS, error) {
	serial[0] &= 0x7f
	serial[0] |= 0x40 // 16 bytes long whatever was drawn
	notBefore, notAfter = utc(notBefore), utc(notAfter)
	if err := checkSessionValidity(nc, notBefore, notAfter); err != nil {
		return SessionTBS{}, err
	}
	return SessionTBS{sessionTBS(nc, serial, notBefore, notAfter, sessionKey)}, nil
}

func checkSessionValidity(nc *Certificate, notBefore, notAfter time.Time) error {
	life := notAfter.Sub(notBefore)
	if life <= 0 || life > MaxSessionLife {
		return fmt.Errorf("%w: it lives %s, at most %s", ErrSession, life, MaxSessionLife)
	}
	if notBefore.Before(nc.NotBefore) || notAfter.After(nc.NotAfter) {
		return fmt.Errorf("%w: %s to %s is not within its N:C, %s to %s", ErrSession, notBefore, notAfter, nc.NotBefore, nc.NotAfter)
	}
	return nil
}

// Certificate puts the session certificate together from the TBS and N:SK's
// signature over it.
func (s SessionTBS) Certificate(suite Suite, sig Signature) []byte {
	return signed(s.raw, suite, sig)
}

// sessionTBS writes what [NewSession] signs and the verifier rebuilds.
func sessionTBS(nc *Certificate, serial [16]byte, notBefore, notAfter time.Time, key PublicKey) []byte {
	subject := commonName(nc.Name)
	var number cryptobyte.Builder
	number.AddASN1(cbasn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(serial[:]) })
	return tbsCertificate{
		serial: number.BytesOrPanic(), suite: nc.NodeKey.Suite(), issuer: subject, notBefore: notBefore, notAfter: notAfter, subject: subject, key: key,
		extensions: func(b *cryptobyte.Builder) {
			addUsageExtensions(b)
			addExtension(b, oidSubjectAltName, false, nc.subjectAltName())
		},
	}.encode()
}

// addTime writes a Time as RFC 5280 section 4.1.2.5 chooses its form.
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
	} else {
		b.AddASN1GeneralizedTime(t)
	}
}

// algorithmIdentifier is the DER AlgorithmIdentifier of ecdsa-with-SHA256 or
// ecdsa-with-SHA384 (RFC 5758 section 3.2).
func (s Suite) algorithmIdentifier() []byte {
	last := byte(2)
	if s == P384 {
		last = 3
	}
	return []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, last}
}

// maxSession is far above the 700 bytes that a session certificate has.
const maxSession = 4 << 10

// A lifetime is when a certificate is good, both ends included.
type lifetime struct{ from, until time.Time }

// session tells whether a session certificate's lifetime is now.
func (l lifetime) session(now time.Time) error {
	if now.Before(l.from.Add(-clockTolerance)) || now.After(l.until) {
		return fmt.Errorf("%w: good from %s to %s, the clock says %s", ErrSession, l.from, l.until, utc(now))
	}
	return nil
}

// verifySession checks that der is a session certificate under nc at the time
// now, and returns its lifetime. N:C itself has been verified before.
func verifySession(der []byte, nc *Certificate, now time.Time) (life lifetime, err error) {
	if len(der) > maxSession {
		return life, fmt.Errorf("%w: %d bytes, at most %d", ErrSession, len(der), maxSession)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return life, fmt.Errorf("%w: %v", ErrSession, err)
	}
	key, err := ParsePublicKey(c.RawSubjectPublicKeyInfo)
	if err != nil {
		return life, fmt.Errorf("%w: %w", ErrSession, err)
	}
	serial := c.SerialNumber.Bytes()
	if len(serial) != 16 {
		return life, fmt.Errorf("%w: its serial number has %d bytes, want 16", ErrSession, len(serial))
	}
	tbs := SessionTBS{sessionTBS(nc, [16]byte(serial), c.NotBefore, c.NotAfter, key)}
	sig, err := NewSignatureASN1(nc.NodeKey.Suite(), c.Signature)
	if err != nil {
		return life, fmt.Errorf("%w: %w", ErrSession, err)
	}
	if !bytes.Equal(tbs.Certificate(nc.NodeKey.Suite(), sig), der) {
		return life, fmt.Errorf("%w: it says something else than its N:C and the fixed fields, or has high s", ErrSession)
	}
	if err := checkSessionValidity(nc, c.NotBefore, c.NotAfter); err != nil {
		return life, err
	}
	life = lifetime{c.NotBefore, c.NotAfter}
	if err := life.session(now); err != nil {
		return life, err
	}
	if err := nc.NodeKey.Verify(FleetID{}, tbs, sig); err != nil {
		return life, fmt.Errorf("%w: %w", ErrSession, err)
	}
	return life, nil
}
