package eventlog

// secureBootPCR is what Secure Boot is measured into (PFP section 3.3.4.8).
const secureBootPCR = 7

// debugMode is the action with which firmware owns up to a debugger, under
// which Secure Boot proves nothing (PFP section 3.3.4.8).
const debugMode = "UEFI Debug Mode"

// SecureBoot returns whether the firmware had Secure Boot enabled, and whether
// the log tells. It is worth what PCR 7 is: ask after [Log.Verify] has found
// PCR 7 to be as quoted.
//
// The answer is the variable SecureBoot among what the firmware measured
// before it finished PCR 7 with a separator. Types are ignored, since whoever
// sends the log chooses them: if each event up to the separator hashes to its
// digest, each is what it was when it was measured. When one does not, an
// event that said otherwise may hide in it, and nothing is known. What comes
// after the separator may be anybody's, such as a second SecureBoot.
//
// Enabled means that the firmware checked what it started. What that did is
// not said here: shim has its own switch, measured into PCR 14.
func (l *Log) SecureBoot() (enabled, known bool) {
	found := 0
	for _, e := range l.Events {
		if e.PCR != secureBootPCR || !e.Extends() {
			continue
		}
		if !e.hashed() || string(e.Data) == debugMode {
			return false, false
		}
		if isSeparator(e.Data) {
			return enabled && found == 1, found == 1
		}
		v, ok := ParseVariable(e.Data)
		if !ok || v.GUID != GlobalVariable || v.Name != "SecureBoot" {
			continue
		}
		switch string(v.Value) {
		case "", "\x00": // firmware measures a variable that does not exist as an empty one
			enabled = false
		case "\x01":
			enabled = true
		default:
			return false, false
		}
		found++
	}
	return false, false
}

// isSeparator reports whether this is what firmware measures when it has
// finished a PCR without an error (PFP section 3.3.2).
func isSeparator(data []byte) bool {
	return string(data) == "\x00\x00\x00\x00" || string(data) == "\xff\xff\xff\xff"
}
