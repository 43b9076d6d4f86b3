package run

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
)

// Where the key of an X.509 certificate is.
const (
	KeySoftware = "software" // in memory, and in the files; a new one with each N:C
	KeyTPM      = "tpm"      // N:SK
)

// An X509Request asks for the node's X.509 certificate and list, and for
// whatever follows them, as long as the request lasts.
type X509Request struct {
	Key string `json:"key"` // KeySoftware or KeyTPM
}

// An X509Event is a set that is to replace the last one, or why there is none.
type X509Event struct {
	Set   *X509Set `json:"set,omitempty"`
	Error string   `json:"error,omitempty"`
	Hint  string   `json:"hint,omitempty"`
}

// An X509Set belongs together. All of it is PEM.
type X509Set struct {
	Serial      string    `json:"serial"` // of N:C, and so of the certificate
	NotAfter    time.Time `json:"not_after"`
	Number      uint64    `json:"crl"`
	Revoked     int       `json:"revoked"`
	NextUpdate  time.Time `json:"next_update"`
	Key         []byte    `json:"key"`
	Certificate []byte    `json:"certificate"`
	Issuer      []byte    `json:"issuer"`
	CRL         []byte    `json:"list"`
}

// thirdParties is the node as programs know it that know X.509. The zero value
// is ready.
type thirdParties struct {
	// mu guards the fields. It is held while the coordinator is asked: who comes
	// meanwhile wants the same.
	mu         sync.Mutex
	identities map[string]*x509Identity // by kind of key
	list       *x509List
}

// An x509Identity is a certificate that accompanies an N:C.
type x509Identity struct {
	nc          *chancery.Certificate
	pkcs8       []byte // the key; nil for N:SK
	keyPEM      []byte
	certificate *x509.Certificate
	issuer      *x509.Certificate
}

// An x509List is a CRL with the head of our own that it was fetched for.
type x509List struct {
	*x509.RevocationList
	own *chancery.CRLHead
}

// watchX509 tells of each set, until ctx ends.
func (a *agent) watchX509(ctx context.Context, r *X509Request, tell func(X509Event)) {
	if r.Key != KeySoftware && r.Key != KeyTPM {
		tell(X509Event{Error: fmt.Sprintf("the key is to be %q or %q", KeySoftware, KeyTPM)})
		return
	}
	var told X509Event
	a.followX509(ctx, r.Key, func(id *x509Identity, list *x509List, err error) error {
		if id != nil && list != nil {
			if set := newX509Set(id, list); told.Set == nil || !bytes.Equal(set.Certificate, told.Set.Certificate) || !bytes.Equal(set.CRL, told.Set.CRL) {
				told.Set = set
				tell(X509Event{Set: set})
			}
		}
		if err == nil {
			told.Error = ""
		} else if e := (X509Event{Error: err.Error(), Hint: cli.HintOf(err)}); e.Error != told.Error && ctx.Err() == nil {
			told.Error = e.Error
			tell(e)
		}
		return nil
	})
}

// followX509 looks at the certificate and the list now and whenever they may
// have changed, until ctx ends or look returns an error. Without an error there
// are both of them.
func (a *agent) followX509(ctx context.Context, kind string, look func(*x509Identity, *x509List, error) error) error {
	failed := pause{longest: time.Minute}
	for {
		changed := a.changes.wait() // before the look: what changes after it is not missed
		id, list, err := a.x509(ctx, kind)
		wait := idle
		if err != nil {
			wait = failed.next()
		} else {
			failed.reset()
		}
		if err := look(id, list, err); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func newX509Set(id *x509Identity, list *x509List) *X509Set {
	return &X509Set{
		Serial: id.nc.Serial.String(), NotAfter: id.certificate.NotAfter, Number: list.Number.Uint64(), Revoked: len(list.RevokedCertificateEntries), NextUpdate: list.NextUpdate,
		Key: id.keyPEM, Certificate: encodePEM("CERTIFICATE", id.certificate.Raw), Issuer: encodePEM("CERTIFICATE", id.issuer.Raw), CRL: encodePEM("X509 CRL", list.Raw),
	}
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// x509 returns the certificate and the list as they are to be now. If one cannot
// be had anew it is the last one, with the error, as long as that is good.
func (a *agent) x509(ctx context.Context, kind string) (*x509Identity, *x509List, error) {
	a.third.mu.Lock()
	defer a.third.mu.Unlock()
	id, err := a.x509Identity(ctx, kind)
	if id == nil {
		return nil, nil, err
	}
	list, failed := a.x509List(ctx, id.issuer)
	return id, list, errors.Join(err, failed)
}

func (a *agent) x509Identity(ctx context.Context, kind string) (*x509Identity, error) {
	have := a.third.identities[kind]
	if have != nil && a.clock().After(have.certificate.NotAfter) {
		have = nil
	}
	shown, err := a.present()
	if err != nil {
		return have, err
	}
	if have != nil && have.nc == shown.NC {
		return have, nil
	}
	id, err := a.certifyX509(ctx, kind, shown)
	if err != nil {
		return have, err
	}
	if a.third.identities == nil {
		a.third.identities = map[string]*x509Identity{}
	}
	a.third.identities[kind] = id
	a.Logger.Info("X.509 certificate", "key", kind, "serial", shown.NC.Serial.String(), "until", id.certificate.NotAfter)
	return id, nil
}

// certifyX509 has the coordinator certify a key beside the N:C that is shown,
// unless the state has the certificate already. The key is on disk before the
// coordinator knows it, because it certifies no other one.
func (a *agent) certifyX509(ctx context.Context, kind string, shown *chancery.Identity) (*x509Identity, error) {
	saved, err := a.dir.X509(kind)
	if errors.Is(err, fs.ErrNotExist) {
		saved, err = &state.X509{}, nil
	}
	if err != nil {
		return nil, err
	}
	id, signer, err := a.x509Key(kind, saved.Key)
	if err != nil {
		return nil, err
	}
	id.nc = shown.NC
	if saved.Certificate != nil {
		if id.accept(a.pointer(), signer.PublicKey(), saved) == nil {
			return id, nil
		}
		if kind == KeySoftware { // it was an earlier N:C's
			if id, signer, err = a.x509Key(kind, nil); err != nil {
				return nil, err
			}
			id.nc = shown.NC
		}
	}
	next := &state.X509{Key: id.pkcs8}
	if err := a.dir.SaveX509(kind, next); err != nil {
		return nil, err
	}
	pop, err := signer.Sign(ctx, a.fleet, chancery.X509PoP{Key: signer.PublicKey(), CA: id.nc.CA, Serial: id.nc.Serial})
	if err != nil {
		return nil, err
	}
	conn, err := coordinator.Dial(ctx, a.pointer(), func() (*chancery.Identity, error) { return shown, nil })
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer, err := conn.X509(ctx, &chancery.X509Request{Key: signer.PublicKey().SPKI(), PoP: pop})
	if err != nil {
		return nil, err
	}
	next.Certificate, next.Issuer = answer.Certificate, answer.Issuer
	if err := id.accept(a.pointer(), signer.PublicKey(), next); err != nil {
		return nil, err
	}
	return id, a.dir.SaveX509(kind, next)
}

// accept verifies a certificate and the issuer's, and takes them.
func (id *x509Identity) accept(p *chancery.Pointer, key chancery.PublicKey, x *state.X509) error {
	ca := p.CA(id.nc.CA)
	if ca == nil {
		return chancery.ErrUnknownCA
	}
	err := chancery.VerifyX509(p, id.nc, key, x.Certificate)
	if err == nil {
		err = chancery.VerifyX509CA(p, ca, x.Issuer)
	}
	if err == nil {
		id.certificate, err = x509.ParseCertificate(x.Certificate)
	}
	if err == nil {
		id.issuer, err = x509.ParseCertificate(x.Issuer)
	}
	return err
}

// x509Key returns the key, made anew if it is software and there is none.
func (a *agent) x509Key(kind string, pkcs8 []byte) (*x509Identity, chancery.Signer, error) {
	if kind == KeyTPM {
		file, err := a.dir.Key()
		if err != nil {
			return nil, nil, err
		}
		text, err := file.TSS2()
		return &x509Identity{keyPEM: text}, nodeKey{a}, err
	}
	var private *ecdsa.PrivateKey
	if pkcs8 != nil {
		any, err := x509.ParsePKCS8PrivateKey(pkcs8)
		if err != nil {
			return nil, nil, fmt.Errorf("the saved TLS key: %w", err)
		}
		private, _ = any.(*ecdsa.PrivateKey)
	}
	var err error
	if private == nil {
		if private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, nil, err
		}
	}
	public, err := chancery.NewPublicKey(&private.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	if pkcs8, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		return nil, nil, err
	}
	return &x509Identity{pkcs8: pkcs8, keyPEM: encodePEM("PRIVATE KEY", pkcs8)}, softKey{private, public}, nil
}

// A softKey is a TLS key in memory, which proves its possession.
type softKey struct {
	private *ecdsa.PrivateKey
	public  chancery.PublicKey
}

func (k softKey) PublicKey() chancery.PublicKey { return k.public }

func (k softKey) Sign(_ context.Context, fleet chancery.FleetID, s chancery.Statement) (chancery.Signature, error) {
	suite := k.public.Suite()
	h := suite.Hash().New()
	h.Write(chancery.Message(fleet, suite, s))
	der, err := k.private.Sign(rand.Reader, h.Sum(nil), suite.Hash())
	if err != nil {
		return nil, err
	}
	return chancery.NewSignatureASN1(suite, der)
}

// x509List returns the list that programs are to have: one that names whom our
// own does, fetched anew when that names others, or when half of its time is
// over.
func (a *agent) x509List(ctx context.Context, issuer *x509.Certificate) (*x509List, error) {
	have, own := a.third.list, a.verifier.Trust().CRL
	if own == nil {
		return have, chancery.ErrCRLMissing
	}
	now := a.clock()
	if have != nil && bytes.Equal(have.RawIssuer, issuer.RawSubject) && sameRevoked(have.own, own.Head()) && now.Before(have.ThisUpdate.Add(have.NextUpdate.Sub(have.ThisUpdate)/2)) {
		return have, nil
	}
	list, err := a.fetchX509List(ctx, issuer, own.Head(), now)
	if err != nil {
		return have, err
	}
	a.third.list = list
	return list, nil
}

// sameRevoked tells whether two lists name the same: what is revoked stays so
// until it has expired.
func sameRevoked(a, b *chancery.CRLHead) bool {
	return slices.EqualFunc(a.Logs, b.Logs, func(a, b chancery.CRLLog) bool {
		return a.CA.Compare(b.CA) == 0 && a.Log == b.Log && a.First == b.First && a.Revoked == b.Revoked
	})
}

// errX509List means that a list is not the one that was asked for.
var errX509List = errors.New("the coordinator's X.509 CRL is not acceptable")

func (a *agent) fetchX509List(ctx context.Context, issuer *x509.Certificate, own *chancery.CRLHead, now time.Time) (*x509List, error) {
	conn, err := coordinator.Dial(ctx, a.pointer(), nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	der, err := conn.X509CRL(ctx, a.nc.Load().CA)
	if err != nil {
		return nil, err
	}
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errX509List, err)
	}
	if err := l.CheckSignatureFrom(issuer); err != nil {
		return nil, fmt.Errorf("%w: %v", errX509List, err)
	}
	switch {
	case !bytes.Equal(l.RawIssuer, issuer.RawSubject) || slices.ContainsFunc(l.Extensions, func(e pkix.Extension) bool { return e.Critical }):
		return nil, fmt.Errorf("%w: it is another issuer's, or a part", errX509List)
	case l.Number == nil || !l.Number.IsUint64() || l.Number.Uint64() < own.Number:
		return nil, fmt.Errorf("%w: it has number %s, our own list has number %d", errX509List, l.Number, own.Number)
	case now.After(l.NextUpdate):
		return nil, fmt.Errorf("%w: it was good until %s", errX509List, l.NextUpdate)
	}
	return &x509List{l, own}, nil
}
