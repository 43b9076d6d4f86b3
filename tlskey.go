package chancery

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// A CertificateVerify is what TLS 1.3 has an end of a connection sign: its
// transcript, under a label of TLS's own (RFC 8446 section 4.4.3). N:SK signs
// nothing else that is not of this package, see [TLSKey].
type CertificateVerify struct{ content []byte }

func (c CertificateVerify) message(FleetID, Suite) []byte { return c.content }

// ErrNotTLS means that something was to be signed for TLS that is not a TLS 1.3
// CertificateVerify.
var ErrNotTLS = errors.New("not a TLS 1.3 CertificateVerify")

// The labels of RFC 8446 section 4.4.3, with what is before and after them.
var certificateVerifyLabels = [2][]byte{
	[]byte(strings.Repeat(" ", 64) + "TLS 1.3, client CertificateVerify\x00"),
	[]byte(strings.Repeat(" ", 64) + "TLS 1.3, server CertificateVerify\x00"),
}

// NewCertificateVerify takes the content that is to be signed: 64 spaces, the
// label, a zero and the hash of the transcript, of 32 or 48 bytes.
func NewCertificateVerify(content []byte) (CertificateVerify, error) {
	for _, label := range certificateVerifyLabels {
		if hash, ok := bytes.CutPrefix(content, label); ok && (len(hash) == 32 || len(hash) == 48) {
			return CertificateVerify{bytes.Clone(content)}, nil
		}
	}
	return CertificateVerify{}, ErrNotTLS
}

// TLSKey makes a TLS key of N:SK, for a node that wants its chip in every
// handshake: it leaves Session in its [Identity] empty. The key signs TLS 1.3
// CertificateVerify and refuses everything else, digests among it; a signature
// may take as long as wait.
func TLSKey(s Signer, wait time.Duration) crypto.Signer { return &tlsKey{s, wait} }

type tlsKey struct {
	signer Signer
	wait   time.Duration
}

var _ crypto.MessageSigner = (*tlsKey)(nil)

func (k *tlsKey) Public() crypto.PublicKey { return k.signer.PublicKey().ECDSA() }

func (k *tlsKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, fmt.Errorf("%w: a digest", ErrNotTLS)
}

// SignMessage is what crypto/tls calls.
func (k *tlsKey) SignMessage(_ io.Reader, content []byte, opts crypto.SignerOpts) ([]byte, error) {
	if want := k.signer.PublicKey().Suite().Hash(); opts.HashFunc() != want {
		return nil, fmt.Errorf("%w: with %s, and the key's suite has %s", ErrNotTLS, opts.HashFunc(), want)
	}
	c, err := NewCertificateVerify(content)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), k.wait)
	defer cancel()
	sig, err := k.signer.Sign(ctx, FleetID{}, c)
	if err != nil {
		return nil, err
	}
	return sig.ASN1(), nil
}
