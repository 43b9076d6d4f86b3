package chip_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/google/go-tpm/tpm2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/chip"
	"github.com/chancery-pki/chancery/tpm"
)

func TestWire(t *testing.T) {
	c := newChip(t, blank(t), chip.Model{})
	w := connect(t, c.Device())
	check(t, w.random())
	if wire := must(c.Wire())(t); len(wire) > 0 {
		t.Errorf("%d bytes are recorded without a listener", len(wire))
	}
	c.Listen(1 << 10)
	rsp := must(tpm2.GetRandom{BytesRequested: 16}.Execute(w))(t)
	wire := must(c.Wire())(t)
	if len(wire) != 12+10+2+16 || binary.BigEndian.Uint32(wire[6:]) != uint32(tpm2.TPMCCGetRandom) || !bytes.HasSuffix(wire, rsp.RandomBytes.Buffer) {
		t.Errorf("a command and its answer are recorded as %x", wire)
	}
	check(t, c.Inject(chip.Fault{Kind: chip.Return, Code: tpm2.TPMRCLockout, Times: 1}))
	if err := w.random(); err == nil {
		t.Error("a fault is passed over")
	}
	if more := must(c.Wire())(t); !bytes.HasPrefix(more, wire) || !bytes.HasSuffix(more, []byte{0, 0, 9, 0x21}) {
		t.Errorf("a refusal is recorded as %x", more[len(wire):])
	}
	c.Listen(20)
	check(t, w.random())
	if wire, err := c.Wire(); err == nil {
		t.Errorf("a recording of %d bytes for 40 is whole", len(wire))
	}
	c.Listen(0)
	check(t, w.random())
	if wire := must(c.Wire())(t); len(wire) > 0 {
		t.Errorf("%d bytes are recorded after the end", len(wire))
	}
}

func TestRewrite(t *testing.T) {
	c := newChip(t, blank(t), chip.Model{})
	w := connect(t, c.Device())
	c.RewriteCommands(func(command []byte) []byte {
		command[11] = 3 // bytes, in place of 16
		return command
	})
	c.RewriteAnswers(func(command, answer []byte) []byte {
		if command[11] != 16 {
			t.Errorf("the command is %x", command)
		}
		return append(answer[:12], 'a', 'b', 'c')
	})
	rsp := must(tpm2.GetRandom{BytesRequested: 16}.Execute(w))(t)
	if got := string(rsp.RandomBytes.Buffer); got != "abc" {
		t.Errorf("random bytes %q", got)
	}
	c.RewriteCommands(nil)
	c.RewriteAnswers(nil)
	check(t, w.random())
}

// Whoever listens on the bus during an enrolment learns neither the activation's
// secret nor what is signed.
func TestListener(t *testing.T) {
	m := newMachine(t, chip.Model{})
	m.chip.Listen(1 << 20)
	check(t, m.join(m.open()))
	wire := must(m.chip.Wire())(t)
	digest := sha256.Sum256(chancery.Message(fleet, chancery.P256, statement))
	for what, secret := range map[string][]byte{
		"the activation's secret": []byte("the secret of this activation"),
		"the digest":              digest[:],
	} {
		if bytes.Contains(wire, secret) {
			t.Errorf("%s passed in the clear", what)
		}
	}
	if !bytes.Contains(wire, m.key.Public) || !bytes.Contains(wire, m.key.Private) {
		t.Error("the listener does not hear the bus")
	}
}

// Whoever sits in the bus cannot have another digest signed.
func TestInterposerChangesDigest(t *testing.T) {
	m := newMachine(t, chip.Model{}).enrol()
	owner := m.open()
	seen := false
	m.chip.RewriteCommands(func(command []byte) []byte {
		if tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCSign {
			seen = true
			// Behind the digest are scheme and ticket: 2, 2, 4 and 2 bytes.
			command[len(command)-11] ^= 1
		}
		return command
	})
	if err := m.sign(owner); !seen || !errors.Is(err, tpm2.TPMRCAuthFail) && !errors.Is(err, tpm2.TPMRCBadAuth) {
		t.Errorf("signing another digest: %v", err)
	}
	m.chip.RewriteCommands(nil)
	check(t, m.sign(owner))
	check(t, owner.Close())
	m.wantSigns("after the interposer")
}

// Nor can he have the sessions salted with a key of his own: the storage root
// key is the one that N:SK was made under.
func TestInterposerOffersKey(t *testing.T) {
	m := newMachine(t, chip.Model{}).enrol()
	his := must(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t).PublicKey.Bytes())(t)[1:]
	offers := 0
	m.chip.RewriteAnswers(func(command, answer []byte) []byte {
		if !bytes.HasSuffix(command, []byte{0, 0, 1, 0x73, 0x81, 0, 0, 1}) { // ReadPublic of it
			return answer
		}
		var public, name, qualified []byte
		s := cryptobyte.String(answer[10:])
		for _, part := range []*[]byte{&public, &name, &qualified} {
			if !s.ReadUint16LengthPrefixed((*cryptobyte.String)(part)) {
				t.Errorf("the answer is %x", answer)
				return answer
			}
		}
		// The public area ends with two coordinates; the names follow from it.
		copy(public[len(public)-66:], his[:32])
		copy(public[len(public)-32:], his[32:])
		sum := sha256.Sum256(public)
		copy(name[2:], sum[:])
		sum = sha256.Sum256(append([]byte{0x40, 0, 0, 1}, name...))
		copy(qualified[2:], sum[:])
		offers++
		return answer
	})
	owner := m.open()
	if err := m.sign(owner); offers != 1 || !errors.Is(err, tpm.ErrForeignKey) {
		t.Errorf("%d offers of another storage root key: %v, want %v", offers, err, tpm.ErrForeignKey)
	}
	m.chip.RewriteAnswers(nil)
	check(t, owner.Close())
	m.wantSigns("after the interposer")
}

// Nor does it help him to tell of an epoch that is over.
func TestInterposerTellsOldEpoch(t *testing.T) {
	m := newMachine(t, chip.Model{}).enrol()
	owner := m.open()
	check(t, m.raise(owner, must(owner.Epoch(m.approval))(t)))
	lies := 0
	m.chip.RewriteAnswers(func(command, answer []byte) []byte {
		if tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCNVRead {
			lies++
			// In front of the authorization's five bytes is the counter.
			counter := answer[len(answer)-13:]
			binary.BigEndian.PutUint64(counter, binary.BigEndian.Uint64(counter)-1)
		}
		return answer
	})
	if err := m.sign(owner); lies != 1 || !errors.Is(err, tpm2.TPMRCPolicy) {
		t.Errorf("%d lies about the epoch: %v, want %v", lies, err, tpm2.TPMRCPolicy)
	}
	check(t, owner.Close())
	wantEmpty(t, "after the interposer", m.behind.Process)
}
