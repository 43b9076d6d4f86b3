package chancery

import (
	"bytes"
	"fmt"
	"testing"
)

// Names are read in any case, and what a reader could not act on is no reason.
func TestReasonCodes(t *testing.T) {
	for _, r := range ReasonCodes() {
		b, err := r.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back ReasonCode = 99
		if err := back.UnmarshalText(bytes.ToLower(b)); err != nil || back != r {
			t.Errorf("%s is %d, then %d (%v)", b, r, back, err)
		}
	}
	for _, bad := range []string{"", "certificateHold", "removeFromCRL", "1", "keycompromise "} {
		if r, err := ParseReasonCode(bad); err == nil {
			t.Errorf("%q is %s", bad, r)
		}
	}
	if s := fmt.Sprint(ReasonCode(6)); s != "reason-6" {
		t.Error(s)
	}
}
