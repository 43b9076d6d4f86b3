package join

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"slices"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/tpm"
)

// key returns N:SK: the one that an earlier attempt left, if it is of use,
// else a new one, which is on disk before anybody hears of it. Nobody has
// certified the earlier one, so nothing is lost with it.
func key(ctx context.Context, dir *state.Dir, chip *tpm.TPM, approval chancery.PublicKey, o *Options) (*tpm.KeyFile, *tpm.Key, error) {
	file, err := dir.Key()
	if err == nil {
		if k := usable(ctx, chip, file, approval, o); k != nil {
			return file, k, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, tpm.ErrKeyFile) {
		return nil, nil, err
	}
	if file, err = create(chip, approval, o); err != nil {
		return nil, nil, err
	}
	if err := dir.SaveKey(file); err != nil {
		return nil, nil, err
	}
	k, err := state.LoadKey(chip, file, o.PINFile)
	return file, k, err
}

func create(chip *tpm.TPM, approval chancery.PublicKey, o *Options) (*tpm.KeyFile, error) {
	switch {
	case o.PINFile != "":
		pin, err := state.ReadPIN(o.PINFile)
		if err != nil {
			return nil, err
		}
		return chip.CreateKeyWithPIN(pin)
	case o.Unsealed:
		return chip.CreateKey(nil)
	}
	sealing := &tpm.Sealing{Approval: approval, PCRs: o.PCRs}
	rand.Read(sealing.Nonce[:])
	return chip.CreateKey(sealing)
}

// usable loads the key of an earlier attempt if it is of this chip and of the
// kind that is asked for now, and its seal is open or its PIN the one that is
// given.
func usable(ctx context.Context, chip *tpm.TPM, file *tpm.KeyFile, approval chancery.PublicKey, o *Options) *tpm.Key {
	if (file.Seal == nil) != (o.Unsealed || o.PINFile != "") || file.PIN != (o.PINFile != "") {
		return nil
	}
	if s := file.Seal; s != nil {
		if !s.Approval.Equal(approval) || !slices.Equal(s.PCRs, o.PCRs) {
			return nil
		}
		values, err := chip.PCRValues(s.PCRs)
		if err != nil || values.Digest() != s.PCRDigest {
			return nil
		}
		if epoch, err := chip.Epoch(approval); err != nil || epoch > s.Epoch {
			return nil
		}
	}
	k, err := state.LoadKey(chip, file, o.PINFile)
	if err != nil {
		return nil
	}
	if file.PIN {
		if _, err := k.Sign(ctx, o.Fleet, chancery.Challenge{}); err != nil {
			return nil
		}
	}
	return k
}
