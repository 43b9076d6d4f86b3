package hsm

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A URI names a token, and perhaps a key on it, as RFC 7512 has it. Fields
// left empty match everything. The zero URI names no module.
type URI struct {
	Token        string // CKA label of the token, at most 32 bytes
	Manufacturer string
	Serial       string
	Model        string
	SlotID       *uint  // nil: any slot
	Object       string // label of a key; for callers of [Token.Key], not looked at here
	ID           string // CKA_ID of a key, raw bytes; likewise
	Type         string // class of the object: private, public, cert, secret-key, data; likewise

	PINSource  string // where the PIN is: file:/path or /path; never the PIN
	ModulePath string // absolute path of the PKCS#11 library
	ModuleName string // name of a library that [FindModules] finds, such as softhsm2

	// InitReserved is handed to the library in pReserved of C_Initialize, as
	// some want it: NSS its parameters, YubiHSM 2 its connector. It is the
	// vendor attribute x-init-reserved.
	InitReserved string
}

// A URIError is a text that is no URI of this package.
type URIError struct {
	Attribute string // the attribute at fault; empty if it is the form
	Problem   string
	hint      string
}

func (e *URIError) Error() string {
	if e.Attribute == "" {
		return "pkcs11 uri: " + e.Problem
	}
	return fmt.Sprintf("pkcs11 uri: attribute %s %s", e.Attribute, e.Problem)
}

// Hint tells how to write it, or is empty.
func (e *URIError) Hint() string { return e.hint }

// maxURI bounds the text of a URI, in bytes.
const maxURI = 4096

// attribute is a row of the grammar (RFC 7512 section 2.3): where the
// attribute may stand, and how it reaches the struct.
type attribute struct {
	name  string
	query bool // after the "?"
	max   int  // bytes; CK_TOKEN_INFO has fixed widths
	set   func(*URI, string) string
	get   func(URI) string
}

// text is a row whose value is stored as it is.
func text(name string, query bool, max int, field func(*URI) *string) attribute {
	return attribute{name, query, max,
		func(u *URI, v string) string { *field(u) = v; return "" },
		func(u URI) string { return *field(&u) }}
}

// checked is a text row with a check that returns a problem, or "".
func checked(a attribute, check func(string) string) attribute {
	store := a.set
	a.set = func(u *URI, v string) string {
		if problem := check(v); problem != "" {
			return problem
		}
		return store(u, v)
	}
	return a
}

// attributes is the grammar, in the order that String writes.
var attributes = []attribute{
	text("token", false, 32, func(u *URI) *string { return &u.Token }),
	text("manufacturer", false, 32, func(u *URI) *string { return &u.Manufacturer }),
	text("serial", false, 16, func(u *URI) *string { return &u.Serial }),
	text("model", false, 16, func(u *URI) *string { return &u.Model }),
	{"slot-id", false, 20, setSlot, getSlot},
	text("object", false, 256, func(u *URI) *string { return &u.Object }),
	text("id", false, 256, func(u *URI) *string { return &u.ID }),
	checked(text("type", false, 16, func(u *URI) *string { return &u.Type }), checkType),
	checked(text("pin-source", true, maxURI, func(u *URI) *string { return &u.PINSource }), checkPINSource),
	checked(text("module-path", true, maxURI, func(u *URI) *string { return &u.ModulePath }), checkModulePath),
	text("module-name", true, 64, func(u *URI) *string { return &u.ModuleName }),
	text("x-init-reserved", true, 1024, func(u *URI) *string { return &u.InitReserved }),
}

func setSlot(u *URI, v string) string {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return "is not a decimal number"
	}
	slot := uint(n)
	u.SlotID = &slot
	return ""
}

func getSlot(u URI) string {
	if u.SlotID == nil {
		return ""
	}
	return strconv.FormatUint(uint64(*u.SlotID), 10)
}

func checkType(v string) string {
	switch v {
	case "private", "public", "cert", "secret-key", "data":
		return ""
	}
	return "is not one of private, public, cert, secret-key, data"
}

func checkPINSource(v string) string {
	if _, err := pinPath(v); err != nil {
		return "is not file:/path or /path"
	}
	return ""
}

func checkModulePath(v string) string {
	if !filepath.IsAbs(v) {
		return "is not an absolute path"
	}
	return ""
}

// ParseURI parses a PKCS#11 URI (RFC 7512 section 2.3) strictly: attributes
// this package does not know, attributes given twice, empty values,
// characters that the grammar wants percent-encoded, and pin-value are all a
// [*URIError].
func ParseURI(s string) (URI, error) {
	if len(s) > maxURI {
		return URI{}, &URIError{Problem: fmt.Sprintf("is %d bytes long, at most %d", len(s), maxURI)}
	}
	body, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return URI{}, &URIError{Problem: "does not begin with pkcs11:", hint: "write pkcs11:token=LABEL?module-path=/path/to/module.so&pin-source=file:/path/to/pin"}
	}
	path, query, hasQuery := strings.Cut(body, "?")
	var u URI
	seen := map[string]bool{}
	if path != "" {
		for _, pair := range strings.Split(path, ";") {
			if err := u.parse(pair, false, seen); err != nil {
				return URI{}, err
			}
		}
	}
	if hasQuery {
		for _, pair := range strings.Split(query, "&") {
			if err := u.parse(pair, true, seen); err != nil {
				return URI{}, err
			}
		}
	}
	if u.ModulePath != "" && u.ModuleName != "" {
		return URI{}, &URIError{Attribute: "module-name", Problem: "is given beside module-path", hint: "leave one of them out"}
	}
	return u, nil
}

// parse takes in one name=value.
func (u *URI) parse(pair string, query bool, seen map[string]bool) error {
	name, raw, ok := strings.Cut(pair, "=")
	if !ok {
		// The text is not repeated: it may be a misplaced PIN.
		return &URIError{Problem: "has a part without =", hint: "path attributes are separated by ; and query attributes, after the ?, by &"}
	}
	if name == "pin-value" {
		return &URIError{Attribute: name, Problem: "is not accepted: a PIN in a uri ends up in logs",
			hint: "use pin-source=file:/path/to/pin or the systemd credential " + pinCredential}
	}
	for _, a := range attributes {
		if a.name != name || a.query != query {
			continue
		}
		if seen[name] {
			return &URIError{Attribute: name, Problem: "is given twice"}
		}
		seen[name] = true
		value, problem := unescape(raw, query)
		switch {
		case problem != "":
			return &URIError{Attribute: name, Problem: problem, hint: "percent-encode the value, a space is %20"}
		case value == "":
			return &URIError{Attribute: name, Problem: "is empty", hint: "leave it out to match anything"}
		case len(value) > a.max:
			return &URIError{Attribute: name, Problem: fmt.Sprintf("is %d bytes long, at most %d", len(value), a.max)}
		case name != "id" && (!utf8.ValidString(value) || strings.ContainsRune(value, 0)):
			return &URIError{Attribute: name, Problem: "is not UTF-8 text"}
		}
		if problem := a.set(u, value); problem != "" {
			return &URIError{Attribute: name, Problem: problem}
		}
		return nil
	}
	where := "before the ?"
	if query {
		where = "after the ?"
	}
	return &URIError{Attribute: strconv.QuoteToASCII(name), Problem: "is not known " + where, hint: "known are " + known()}
}

// known lists the grammar for people.
func known() string {
	var path, query []string
	for _, a := range attributes {
		if a.query {
			query = append(query, a.name)
		} else {
			path = append(path, a.name)
		}
	}
	return strings.Join(path, ", ") + "; after the ? " + strings.Join(query, ", ")
}

// String returns the URI in its canonical form: attributes in fixed order,
// everything but unreserved characters percent-encoded. There is no secret in
// a URI.
func (u URI) String() string {
	var path, query []string
	for _, a := range attributes {
		value := a.get(u)
		switch {
		case value == "":
		case a.name == "pin-source" && checkPINSource(value) != "":
			// Not a path, so perhaps a PIN that a caller put here.
		case a.query:
			query = append(query, a.name+"="+escape(value, "/:"))
		default:
			path = append(path, a.name+"="+escape(value, ""))
		}
	}
	s := "pkcs11:" + strings.Join(path, ";")
	if len(query) > 0 {
		s += "?" + strings.Join(query, "&")
	}
	return s
}

// Characters that stand for themselves (RFC 7512 section 2.3: unreserved and
// pk11-res-avail, with what the path and the query each add).
const (
	unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	resAvail   = ":[]@!$'()*+,="
	pathAlso   = "&"
	queryAlso  = "/?|"
)

func escape(v, also string) string {
	var b strings.Builder
	for i := range len(v) {
		if strings.IndexByte(unreserved, v[i]) >= 0 || strings.IndexByte(also, v[i]) >= 0 {
			b.WriteByte(v[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", v[i])
		}
	}
	return b.String()
}

// unescape decodes percent-encoding, or names the problem.
func unescape(raw string, query bool) (value, problem string) {
	plain := unreserved + resAvail + pathAlso
	if query {
		plain = unreserved + resAvail + queryAlso
	}
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		switch {
		case raw[i] == '%':
			if i+3 > len(raw) {
				return "", "ends within a percent-encoding"
			}
			c, err := strconv.ParseUint(raw[i+1:i+3], 16, 8)
			if err != nil {
				return "", "has a % without two hexadecimal digits"
			}
			b.WriteByte(byte(c))
			i += 2
		case strings.IndexByte(plain, raw[i]) >= 0:
			b.WriteByte(raw[i])
		default:
			return "", fmt.Sprintf("has the character 0x%02x unencoded", raw[i])
		}
	}
	return b.String(), ""
}
