package issuer_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/internal/appliancetest"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/appliance/lint"
)

// restart makes the issuer anew over the same store, as a start does.
func (w *world) restart() {
	w.t.Helper()
	var err error
	if w.Issuer, err = issuer.New(w.Issuer.Config); err != nil {
		w.t.Fatal(err)
	}
}

// There is one certificate for each serial number, whoever asks how often,
// whatever was in between.
func TestCertificateOnce(t *testing.T) {
	w := newWorld(t, 10)
	nc, key := w.nc(1), newSoftKey(t).public
	var group sync.WaitGroup
	got := make([][]byte, 8)
	for i := range got {
		group.Go(func() {
			var err error
			if got[i], err = w.Certificate(t.Context(), nc, key); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.restart()
	again, err := w.Certificate(t.Context(), nc, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, der := range got {
		if !bytes.Equal(der, again) {
			t.Fatal("two certificates have one serial number")
		}
	}
	if err := chancery.VerifyX509(w.Pointer, nc, key, again); err != nil {
		t.Error(err)
	}
	signed := w.signer.Total()
	if _, err := w.Certificate(t.Context(), nc, newSoftKey(t).public); !errors.Is(err, issuer.ErrOtherKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := w.Certificate(t.Context(), nc, key); err != nil || w.signer.Total() != signed {
		t.Errorf("what there is took another signature, or %v", err)
	}
	if _, err := w.Certificate(t.Context(), w.nc(2), newSoftKey(t).public); err != nil {
		t.Errorf("another key beside another N:C: %v", err)
	}
}

// The issuer's own is made once, too, and verifies what it signs.
func TestOwn(t *testing.T) {
	w := newWorld(t, 10)
	signed := w.signer.Total()
	w.restart()
	if own := w.own(); !own.Equal(w.cert) || w.signer.Total() != signed {
		t.Errorf("%d signatures, serial number %s and before %s", w.signer.Total()-signed, own.SerialNumber, w.cert.SerialNumber)
	}
	if err := chancery.VerifyX509CA(w.Pointer, w.Pointer.Current(), w.cert.Raw); err != nil {
		t.Error(err)
	}
	if err := w.companion(1).cert.CheckSignatureFrom(w.cert); err != nil {
		t.Error(err)
	}
}

// A token or a store that fails leaves the serial number with the key that it
// was given to: nobody knows what was signed.
func TestCertificateFails(t *testing.T) {
	for what, fail := range map[string]func(w *world) (mend func()){
		"the token": func(w *world) func() { w.signer.Refuse(1); return func() {} },
		"the store, in the end": func(w *world) func() {
			return appliancetest.Break(t, w.File, appliancetest.Step{Table: "x509_certificates", Op: "UPDATE"})
		},
		"the commit": func(w *world) func() {
			return appliancetest.Break(t, w.File, appliancetest.Step{Table: "x509_certificates", Op: "UPDATE", Commit: true})
		},
	} {
		w := newWorld(t, 10)
		nc, key := w.nc(1), newSoftKey(t).public
		mend := fail(w)
		if der, err := w.Certificate(t.Context(), nc, key); err == nil || der != nil {
			t.Fatalf("%s fails, and there is a certificate", what)
		}
		mend()
		w.restart()
		if _, err := w.Certificate(t.Context(), nc, newSoftKey(t).public); !errors.Is(err, issuer.ErrOtherKey) {
			t.Errorf("after %s has failed, another key: %v", what, err)
		}
		der, err := w.Certificate(t.Context(), nc, key)
		if err == nil {
			err = chancery.VerifyX509(w.Pointer, nc, key, der)
		}
		if err != nil {
			t.Errorf("after %s has failed: %v", what, err)
		}
	}

	// One that fails before the key has the number leaves nothing.
	w := newWorld(t, 10)
	mend := appliancetest.Break(t, w.File, appliancetest.Step{Table: "x509_certificates", Op: "INSERT"})
	if _, err := w.Certificate(t.Context(), w.nc(1), newSoftKey(t).public); err == nil {
		t.Fatal("the store fails, and there is a certificate")
	}
	mend()
	w.companion(1)

	// Who does not wait gets nothing, and the number stays the key's.
	nc, key := w.nc(2), newSoftKey(t).public
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Certificate(ctx, nc, key); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not wait: %v", err)
	}
	if _, err := w.Certificate(t.Context(), nc, key); err != nil {
		t.Error(err)
	}
}

// A key that is the coordinator's own is refused before anything is stored.
func TestCertificateLinted(t *testing.T) {
	w := newWorld(t, 10)
	nc := w.nc(1)
	for _, key := range []chancery.PublicKey{w.key.public, w.Coordinator.CA.PublicKey(), w.Approval.PublicKey()} {
		_, err := w.Certificate(t.Context(), nc, key)
		if e, ok := errors.AsType[*lint.Error](err); !ok || e.Rule != lint.KeyPurpose {
			t.Errorf("%s: %v", key, err)
		}
	}
	w.companion(1) // the number is still free
}
