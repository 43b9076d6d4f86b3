package issuer

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/lint"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/merkle"
)

// ErrOtherKey means that an N:C is accompanied by the certificate of another
// key already. A serial number is one certificate's for ever.
var ErrOtherKey = errors.New("its X.509 certificate is another key's")

// Certificate returns the X.509 certificate of a key that accompanies an N:C
// (docs/protocol.md section 6.8). Whether the node may have it is for the caller
// to know, as is that it holds the key. Who asks again with the same key gets
// the same bytes; with another one, [ErrOtherKey]. A key that can have no
// certificate is a [*lint.Error].
func (i *Issuer) Certificate(ctx context.Context, nc *chancery.Certificate, key chancery.PublicKey) ([]byte, error) {
	tbs, err := chancery.NewX509(i.Pointer, nc, key)
	if err != nil {
		return nil, err
	}
	c := &lint.X509{TBS: chancery.Message(i.Pointer.FleetID(), i.Pointer.X509Issuer.Suite(), tbs), NC: nc.Raw(), Serial: nc.Serial, SPKI: key.SPKI(), Issuer: i.Pointer.X509Issuer.SPKI()}
	for _, e := range i.Pointer.Endpoints {
		c.Endpoints = append(c.Endpoints, e.URL)
	}
	if err := i.lint.CheckX509(c); err != nil {
		return nil, err
	}
	return i.certify(ctx, nc.CA, nc.Serial, key, tbs)
}

// CA returns the issuer's own certificate for the current CA key, which is made
// once.
func (i *Issuer) CA(ctx context.Context) ([]byte, error) {
	current := i.Pointer.Current()
	tbs, serial, err := chancery.NewX509CA(i.Pointer, current)
	if err != nil {
		return nil, err
	}
	return i.certify(ctx, current.ID, serial, i.Pointer.X509Issuer, tbs)
}

// certify signs a certificate unless there is one. The serial number is the
// key's before anything is signed, so that two that ask at a time, or a crash in
// between, cannot make two certificates of one number and different keys; of
// two with one key only the first that is stored is ever shown.
func (i *Issuer) certify(ctx context.Context, ca merkle.TrustAnchorID, serial merkle.Serial, key chancery.PublicKey, tbs chancery.X509TBS) (der []byte, err error) {
	log, index := store.Log{CA: ca.String(), Number: serial.Log()}, serial.Index()
	var x store.X509
	err = i.Store.Update(ctx, func(tx *store.Tx) (err error) {
		x, err = tx.ReserveX509(log, index, key.SPKI())
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(x.SPKI, key.SPKI()):
		return nil, fmt.Errorf("%s: %w", serial, ErrOtherKey)
	case x.DER != nil:
		return x.DER, nil
	}
	sig, err := i.Signer.Sign(ctx, i.Pointer.FleetID(), tbs)
	if err != nil {
		return nil, err
	}
	err = i.Store.Update(ctx, func(tx *store.Tx) (err error) {
		der, err = tx.KeepX509(log, index, tbs.Certificate(sig))
		return err
	})
	if err != nil {
		return nil, err // it may have been set before the commit failed
	}
	return der, nil
}
