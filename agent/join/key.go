package join

import (
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
func key(dir *state.Dir, chip *tpm.TPM, approval chancery.PublicKey, o *Options) (*tpm.KeyFile, *tpm.Key, error) {
	file, err := dir.Key()
	if err == nil {
		if k := usable(chip, file, approval, o); k != nil {
			return file, k, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, tpm.ErrKeyFile) {
		return nil, nil, err
	}
	var sealing *tpm.Sealing
	if !o.Unsealed {
		sealing = &tpm.Sealing{Approval: approval, PCRs: o.PCRs}
		rand.Read(sealing.Nonce[:])
	}
	if file, err = chip.CreateKey(sealing); err != nil {
		return nil, nil, err
	}
	if err := dir.SaveKey(file); err != nil {
		return nil, nil, err
	}
	k, err := chip.LoadKey(file)
	return file, k, err
}

// usable loads the key of an earlier attempt if it is of this chip and of the
// kind that is asked for now, and its seal is open.
func usable(chip *tpm.TPM, file *tpm.KeyFile, approval chancery.PublicKey, o *Options) *tpm.Key {
	if (file.Seal == nil) != o.Unsealed {
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
	k, err := chip.LoadKey(file)
	if err != nil {
		return nil
	}
	return k
}
