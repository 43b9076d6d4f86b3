package papertpm_test

import (
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// BenchmarkNew makes chips. RSA keys share primes, so the more are made, the
// less one costs; a thousand chips take 46 primes.
func BenchmarkNew(b *testing.B) {
	for _, kind := range kinds {
		b.Run(kind.String(), func(b *testing.B) {
			m := must(papertpm.NewMaker())(b)
			b.ReportAllocs()
			for b.Loop() {
				must(m.New(papertpm.Options{EK: kind}))(b)
			}
		})
	}
}

// BenchmarkEnrolment is everything that a chip does in an enrolment: it is
// made, makes N:SK, signs the proof of possession and N:S, activates, and
// attests. The credential is the coordinator's work and not counted.
func BenchmarkEnrolment(b *testing.B) {
	approver := newApprover(b)
	for _, test := range []struct {
		what    string
		sealing *tpm.Sealing
	}{{"sealed", approver.sealing()}, {"unsealed", nil}} {
		for _, kind := range kinds {
			b.Run(test.what+"/"+kind.String(), func(b *testing.B) {
				m := must(papertpm.NewMaker())(b)
				b.ReportAllocs()
				for b.Loop() {
					enrol(b, must(m.New(papertpm.Options{EK: kind}))(b), test.sealing)
				}
			})
		}
	}
}

func enrol(b *testing.B, chip *papertpm.Chip, sealing *tpm.Sealing) {
	file := must(chip.CreateKey(sealing))(b)
	key := must(chip.LoadKey(file))(b)
	ek := must(chip.EK())(b)
	ak := must(chip.AK())(b)
	sign(b, key)

	b.StopTimer()
	credential, encrypted, err := must(tpm.ParseEndorsementKey(ek.Public))(b).MakeCredential(ak.Name, make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	b.StartTimer()

	must(chip.Activate(credential, encrypted))(b)
	must(chip.CertifyCreation(file, qualifying))(b)
	if sealing != nil {
		must(chip.CertifyEpoch(qualifying))(b)
	}
	if _, _, err := chip.Quote(quoted, qualifying); err != nil {
		b.Fatal(err)
	}
	sign(b, key)
}

func sign(b *testing.B, key chancery.Signer) {
	must(key.Sign(b.Context(), fleet, statement))(b)
}
