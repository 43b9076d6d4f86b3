package tpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// attempts bounds how often an operation is done again because PCRs changed
// under it.
const attempts = 5

// PCRValues reads PCRs of the SHA-256 bank, all at one moment. Nothing
// vouches for them; [TPM.Quote] does.
func (t *TPM) PCRValues(pcrs []int) (PCRValues, error) {
	if err := checkPCRs(pcrs); err != nil {
		return nil, err
	}
	end, err := t.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	return t.readPCRs(pcrs)
}

// ExtendPCR sends TPM2_PCR_Extend (TPM 2.0 Part 3, section 22.2): the PCR
// becomes SHA-256 of its value and the digest. What is sealed to it is closed
// until the next reset of the chip, or an approval. PCRs are extended by
// firmware and boot loader; this is for demonstrations and tests.
func (t *TPM) ExtendPCR(pcr int, digest [32]byte) error {
	if err := checkPCRs([]int{pcr}); err != nil {
		return err
	}
	end, err := t.begin()
	if err != nil {
		return err
	}
	defer end()
	_, err = tpm2.PCRExtend{
		PCRHandle: hierarchy(tpm2.TPMHandle(pcr)),
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
			{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]},
		}},
	}.Execute(t.transport)
	if err != nil {
		return fmt.Errorf("tpm: extend PCR %d: %w", pcr, err)
	}
	return nil
}

// readPCRs reads until the chip's update counter stood still over it all; one
// command returns at most eight values (TPM 2.0 Part 3, section 22.4).
func (t *TPM) readPCRs(pcrs []int) (PCRValues, error) {
	for range attempts {
		values, stable, err := t.readPCRsOnce(pcrs)
		if err != nil {
			return nil, err
		}
		if stable {
			return values, nil
		}
	}
	return nil, ErrUnstable
}

func (t *TPM) readPCRsOnce(pcrs []int) (_ PCRValues, stable bool, err error) {
	values := PCRValues{}
	var counter uint32
	for left := pcrs; len(left) > 0; {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(left)}.Execute(t.transport)
		if err != nil {
			return nil, false, fmt.Errorf("tpm: read PCRs: %w", err)
		}
		if len(values) > 0 && rsp.PCRUpdateCounter != counter {
			return nil, false, nil
		}
		counter = rsp.PCRUpdateCounter
		n := len(rsp.PCRValues.Digests)
		if n == 0 || n > len(left) {
			return nil, false, fmt.Errorf("%w: %d values for PCR %s", ErrBank, n, numbers(left))
		}
		for i, d := range rsp.PCRValues.Digests {
			if len(d.Buffer) != 32 {
				return nil, false, fmt.Errorf("%w: a value has %d bytes", ErrBank, len(d.Buffer))
			}
			values[left[i]] = [32]byte(d.Buffer)
		}
		left = left[n:]
	}
	return values, true, nil
}

func selection(pcrs []int) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: bitmap(pcrs)},
	}}
}
