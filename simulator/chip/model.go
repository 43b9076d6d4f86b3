package chip

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Model is what a chip is like. The zero Model is as fast as the swtpm and
// always ready.
type Model struct {
	Name    string
	Vendor  string  // TCG vendor identifier of those who make it, such as "IFX". A label: the chip does not say it
	Latency Latency // of its commands
	Jitter  float64 // of the latency, 0 to 1: it is uniform within ± this part
	Busy    float64 // the part of the commands, 0 to below 1, that it refuses with TPM_RC_RETRY
	Seed    uint64  // of what is random in it
}

func (m Model) check() error {
	switch {
	case !(m.Jitter >= 0 && m.Jitter <= 1): // NaN too
		return fmt.Errorf("chip: jitter %v must be 0 to 1", m.Jitter)
	case !(m.Busy >= 0 && m.Busy < 1):
		return fmt.Errorf("chip: busy %v must be 0 to below 1: a chip that is always busy does nothing", m.Busy)
	}
	return m.Latency.check()
}

// Calm returns the model without its being busy.
func (m Model) Calm() Model {
	m.Busy = 0
	return m
}

// models are in the order of their speed, the slowest signature first.
//
// The figures of [benched] are those of wolfTPM's benchmark program, measured
// over SPI by its authors (README of github.com/wolfSSL/wolfTPM, TPM2
// Benchmarks): averages for RSA 2048 key gen, ECC 256 key gen, ECDSA 256 sign,
// ECDSA 256 verify, ECDHE 256 agree and RSA 2048 Public. "Reported" are figures
// that this project's requirements name for a vendor's chips, and of which
// neither part numbers nor conditions are known.
var models = []Model{
	benched("nuvoton-npct650", "NTC", 4479, 148, 190, 265, 176, 13), // 195 ms reported

	// 137 ms reported for a signature, the slower one of two.
	reported("intel-ptt-slow", "INTC", 137),

	// 69 ms for a signature in the benchmark, 74 ms reported.
	benched("infineon-slb9670", "IFX", 2196, 231, 71, 114, 232, 9),

	benched("microchip-attpm20", "MCHP", 5276, 153, 59, 43, 64, 47),

	benched("nuvoton-npct750", "NTC", 3409, 84, 56, 39, 29, 7.5),

	// The ST33TP. 42 ms for a signature in the benchmark, 50 ms reported.
	benched("st33", "STM", 7455, 220, 46, 74, 247, 9),

	// The Z32H330.
	benched("nations", "NTZ", 2184, 52, 23, 37, 39, 19),

	// 19 ms reported for a signature, which none of the benchmark's two is.
	reported("nuvoton-fast", "NTC", 19),

	// 12 ms reported for a signature, the faster one of two.
	reported("intel-ptt", "INTC", 12),

	// 5 ms reported for a signature.
	reported("amd-ftpm", "AMD", 5),
}

// What the named models have in common: a jitter that covers the benchmark's
// and the reported figure where there are both, and the part of nonces that
// Pebble, the ACME test server, refuses.
const (
	namedJitter = 0.1
	namedBusy   = 0.05
)

// benched is a chip of which the benchmark has six figures, in milliseconds. It
// has none for small commands, for loading and for NV, so these are guesses from
// the RSA public operation, which is the smallest that it has: a command that
// computes nothing takes half of that, to load a key, which is to decrypt and to
// hash, takes all of it, and to write to flash memory takes twice as long.
// Composing an attestation is nothing beside signing it, and activating a
// credential is an ECDH before all.
func benched(name, vendor string, rsaKey, eccKey, sign, verify, ecdh, public float64) Model {
	return Model{
		Name:   name,
		Vendor: vendor,
		Latency: Latency{
			RSAKey: ms(rsaKey), ECCKey: ms(eccKey), Create: ms(eccKey),
			Sign: ms(sign), Attest: ms(sign), Verify: ms(verify),
			ECDH: ms(ecdh), Activate: ms(ecdh),
			Load: ms(public), NVWrite: ms(2 * public), NVRead: ms(public / 2), Other: ms(public / 2),
		},
		Jitter: namedJitter,
		Busy:   namedBusy,
	}
}

// reported is a chip of which one figure is known, that of a signature. The
// others are guesses from the proportions that the chips of the benchmark have:
// operations on a curve take about as long as each other, to make an RSA key
// takes 60 times as long, and an RSA public operation an eighth.
func reported(name, vendor string, sign float64) Model {
	return benched(name, vendor, 60*sign, sign, sign, sign, sign, sign/8)
}

func ms(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }

// Models returns the named models, the slowest signature first.
func Models() []Model { return slices.Clone(models) }

// Find returns the model of that name, or an [*UnknownModelError].
func Find(name string) (Model, error) {
	for _, m := range models {
		if m.Name == name {
			return m, nil
		}
	}
	return Model{}, &UnknownModelError{Name: name}
}

// An UnknownModelError is a name that no model has.
type UnknownModelError struct {
	Name string
}

func (e *UnknownModelError) Error() string {
	return fmt.Sprintf("no model of a chip is named %q", e.Name)
}

// Hint lists the names.
func (e *UnknownModelError) Hint() string {
	var names []string
	for _, m := range models {
		names = append(names, m.Name)
	}
	return "the models are " + strings.Join(names, ", ")
}
