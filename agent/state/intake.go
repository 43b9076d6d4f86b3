package state

import (
	"encoding/json"
	"time"

	"github.com/chancery-pki/chancery"
)

// An Intake is an enrolment that the coordinator has not decided yet. It is
// saved before N:S is sent: from then on the coordinator gives this N:S, and
// no other, its certificate.
type Intake struct {
	Fleet  string    `json:"fleet"` // pin
	ID     string    `json:"intake"`
	NS     []byte    `json:"n_s"`
	PCRs   []int     `json:"pcrs"`
	TPM    string    `json:"tpm"`
	Opened time.Time `json:"opened"`

	PINFile string `json:"key_pin_file,omitempty"`
}

// Statement returns the N:S that was sent.
func (i *Intake) Statement() (*chancery.NS, error) { return chancery.ParseNS(i.NS) }

// Intake returns the enrolment under way; without one the error is
// fs.ErrNotExist.
func (d *Dir) Intake() (*Intake, error) {
	return read(d, "intake.json", func(b []byte) (*Intake, error) {
		i := new(Intake)
		if err := json.Unmarshal(b, i); err != nil {
			return nil, err
		}
		_, err := i.Statement()
		return i, err
	})
}

// SaveIntake remembers an enrolment.
func (d *Dir) SaveIntake(i *Intake) error {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return d.write("intake.json", b)
}

// RemoveIntake forgets the enrolment once it is decided.
func (d *Dir) RemoveIntake() error { return d.remove("intake.json") }
