package chancery

import (
	"fmt"
	"strings"
)

// A ReasonCode says why a certificate was revoked: CRLReason of RFC 5280
// section 5.3.1. It is for software that reads X.509 CRLs. A fleet's own list
// has no reasons; what is in it is revoked.
type ReasonCode uint8

// The reasons that there are. certificateHold and removeFromCRL (6, 8) are not
// among them, because no revocation is taken back, and neither is aACompromise
// (10), because there are no attribute certificates.
const (
	ReasonUnspecified          ReasonCode = 0
	ReasonKeyCompromise        ReasonCode = 1
	ReasonCACompromise         ReasonCode = 2
	ReasonAffiliationChanged   ReasonCode = 3
	ReasonSuperseded           ReasonCode = 4
	ReasonCessationOfOperation ReasonCode = 5
	ReasonPrivilegeWithdrawn   ReasonCode = 9
)

var reasonNames = map[ReasonCode]string{
	ReasonUnspecified:          "unspecified",
	ReasonKeyCompromise:        "keyCompromise",
	ReasonCACompromise:         "cACompromise",
	ReasonAffiliationChanged:   "affiliationChanged",
	ReasonSuperseded:           "superseded",
	ReasonCessationOfOperation: "cessationOfOperation",
	ReasonPrivilegeWithdrawn:   "privilegeWithdrawn",
}

// ReasonCodes returns all of them, by number.
func ReasonCodes() []ReasonCode {
	return []ReasonCode{ReasonUnspecified, ReasonKeyCompromise, ReasonCACompromise, ReasonAffiliationChanged, ReasonSuperseded, ReasonCessationOfOperation, ReasonPrivilegeWithdrawn}
}

// ParseReasonCode parses a name, as the standard spells it or in other case.
func ParseReasonCode(s string) (ReasonCode, error) {
	for _, r := range ReasonCodes() {
		if strings.EqualFold(s, reasonNames[r]) {
			return r, nil
		}
	}
	return 0, fmt.Errorf("%q is no reason for a revocation (RFC 5280 section 5.3.1)", s)
}

// String returns the name that the standard has for it.
func (r ReasonCode) String() string {
	if s := reasonNames[r]; s != "" {
		return s
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// MarshalText writes the name, which is how JSON has it.
func (r ReasonCode) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a name.
func (r *ReasonCode) UnmarshalText(b []byte) (err error) {
	*r, err = ParseReasonCode(string(b))
	return err
}
