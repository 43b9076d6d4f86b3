package papertpm_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// TestActivate opens credentials of every size, and no others.
func TestActivate(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			chip := newChip(t, papertpm.Options{EK: kind})
			ek := must(tpm.ParseEndorsementKey(must(chip.EK())(t).Public))(t)
			ak := must(chip.AK())(t)
			for _, size := range []int{1, 31, 32} {
				secret := bytes.Repeat([]byte{byte(size)}, size)
				credential, encrypted, err := ek.MakeCredential(ak.Name, secret)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := chip.Activate(credential, encrypted); err != nil || !bytes.Equal(got, secret) {
					t.Errorf("activated %x (%v), want %x", got, err, secret)
				}
			}
			for what, bad := range badCredentials(t, chip) {
				if _, err := chip.Activate(bad.credential, bad.encrypted); code(err) == 0 {
					t.Errorf("%s: %v, want an error of the chip", what, err)
				}
			}
			bad := badCredentials(t, chip)["another AK"]
			if _, err := chip.Activate(bad.credential, bad.encrypted); !errors.Is(err, tpm2.TPMRCIntegrity) {
				t.Errorf("another AK: %v, want TPM_RC_INTEGRITY", err)
			}
		})
	}
}

type credential struct{ credential, encrypted []byte }

// badCredentials are some that the chip must not open.
func badCredentials(t testing.TB, chip applicant) map[string]credential {
	t.Helper()
	ek := must(tpm.ParseEndorsementKey(must(chip.EK())(t).Public))(t)
	name := must(chip.AK())(t).Name
	stranger := name
	stranger[33] ^= 1
	blob := func(n tpm.Name) credential {
		c, e, err := ek.MakeCredential(n, []byte("a secret"))
		if err != nil {
			t.Fatal(err)
		}
		return credential{c, e}
	}
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[(at+len(b))%len(b)] ^= 1
		return b
	}
	good, other := blob(name), blob(name)
	return map[string]credential{
		"another AK":         blob(stranger),
		"HMAC flipped":       {flip(good.credential, 2), good.encrypted},
		"secret flipped":     {flip(good.credential, -1), good.encrypted},
		"of another seed":    {good.credential, other.encrypted},
		"no credential":      {nil, good.encrypted},
		"HMAC alone":         {good.credential[:2+int(good.credential[1])], good.encrypted},
		"HMAC cut":           {good.credential[:20], good.encrypted},
		"no seed":            {good.credential, nil},
		"seed flipped":       {good.credential, flip(good.encrypted, -1)},
		"seed cut":           {good.credential, good.encrypted[:len(good.encrypted)-1]},
		"bytes behind value": {append(bytes.Clone(good.credential), 0), good.encrypted},
	}
}

// code is the TPM's response code in an error, without the number of the
// parameter, or 0.
func code(err error) tpm2.TPMRC {
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) {
		return 0
	}
	for _, c := range []tpm2.TPMRC{tpm2.TPMRCIntegrity, tpm2.TPMRCValue, tpm2.TPMRCSize, tpm2.TPMRCInsufficient, tpm2.TPMRCECCPoint, tpm2.TPMRCFailure} {
		if errors.Is(rc, c) {
			return c
		}
	}
	return rc
}
