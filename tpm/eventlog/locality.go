package eventlog

import (
	"bytes"
	"fmt"
)

// localitySignature starts the data of the Startup Locality event, which the
// locality follows (PFP section 10.4.5.3).
const localitySignature = "StartupLocality\x00"

// findLocality finds out from where PCR 0 started. TPM2_Startup leaves in it
// the locality that it came from, which is 0 or 3 (TPM 2.0 Part 1, section
// 34.3): 3 where a module of the processor's vendor runs before the firmware.
// After an H-CRTM sequence, with which hardware measures the first code, it
// started from 4 whatever TPM2_Startup came from.
//
// The two events may come once, in PCR 0, and before it is extended: what
// they say could not be true later.
func (l *Log) findLocality() error {
	var announced, hardware, extended bool
	for i, e := range l.Events {
		startup := e.Type == NoAction && bytes.HasPrefix(e.Data, []byte(localitySignature))
		if startup || e.Type == EFIHCRTMEvent {
			switch {
			case e.PCR != 0:
				return fmt.Errorf("%w: how PCR 0 started is told of PCR %d (event %d)", ErrMalformed, e.PCR, i+1)
			case extended || startup && announced:
				return fmt.Errorf("%w: how PCR 0 started is told too late or again (event %d)", ErrMalformed, i+1)
			case startup:
				value := e.Data[len(localitySignature):]
				if len(value) != 1 || value[0] != 0 && value[0] != 3 && value[0] != 4 {
					return fmt.Errorf("%w: startup locality %x, want 00, 03 or 04 (event %d)", ErrMalformed, value, i+1)
				}
				announced, l.locality = true, value[0]
			default:
				hardware = true
			}
		}
		extended = extended || e.PCR == 0 && e.Extends()
	}
	if hardware {
		l.locality = 4
	}
	return nil
}
