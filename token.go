package chancery

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
)

// A Token is a join token: the pin of the fleet, so that a node needs nothing
// else to begin, and a secret that a coordinator made for one enrolment or a
// few. The secret never travels; the node shows that it knows it with
// [TokenKey.Proof].
type Token struct {
	Fleet  FleetID
	ID     TokenID
	secret [32]byte
}

// A TokenID names a token in lists and logs. It is not secret.
type TokenID [8]byte

// String returns the identifier in hexadecimal.
func (t TokenID) String() string { return fmt.Sprintf("%x", t[:]) }

// A TokenKey is what both sides derive from a token's secret. The coordinator
// keeps this and forgets the secret.
type TokenKey [32]byte

// Format writes no part of the key: whoever knows it can join as the token.
func (k TokenKey) Format(f fmt.State, _ rune) { io.WriteString(f, "token key") }

const tokenPrefix = "chtok1-"

// NewToken makes a token for the fleet.
func NewToken(fleet FleetID) Token {
	t := Token{Fleet: fleet}
	rand.Read(t.ID[:])
	rand.Read(t.secret[:])
	return t
}

// Reveal returns the token in the form that is handed to a node. It is a
// secret; a Token printed any other way does not show it.
func (t Token) Reveal() string {
	raw := append(t.Fleet[:], t.ID[:]...)
	raw = append(raw, t.secret[:]...)
	sum := tokenChecksum(raw)
	return tokenPrefix + strings.ToLower(pinEncoding.EncodeToString(append(raw, sum[:]...)))
}

// String names the token without its secret.
func (t Token) String() string { return "token " + t.ID.String() }

// Format writes [Token.String] whatever the verb: %#v and %d must not show the
// secret either.
func (t Token) Format(f fmt.State, _ rune) { io.WriteString(f, t.String()) }

// ParseToken reads what [Token.Reveal] wrote. Errors do not repeat the input.
func ParseToken(s string) (Token, error) {
	body, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("join token: %w: it begins with %q", ErrMalformed, tokenPrefix)
	}
	raw, err := pinEncoding.DecodeString(strings.ToUpper(body))
	if err != nil || len(raw) != 76 || strings.ToLower(body) != body {
		return Token{}, fmt.Errorf("join token: %w: %d characters after %q, want 122 of a-z and 2-7", ErrMalformed, len(body), tokenPrefix)
	}
	if tokenChecksum(raw[:72]) != [4]byte(raw[72:]) {
		return Token{}, fmt.Errorf("join token: %w: the checksum does not fit, a character is wrong", ErrMalformed)
	}
	t := Token{Fleet: FleetID(raw[:32]), ID: TokenID(raw[32:40]), secret: [32]byte(raw[40:72])}
	if t.Reveal() != s {
		return Token{}, fmt.Errorf("join token: %w: not the canonical encoding", ErrMalformed)
	}
	return t, nil
}

func tokenChecksum(raw []byte) [4]byte {
	sum := sha256.Sum256(append([]byte("chancery-v1 token checksum"), raw...))
	return [4]byte(sum[:4])
}

// Key derives the key of the token's proofs.
func (t Token) Key() TokenKey {
	return sha256.Sum256(append([]byte("chancery-v1 token key"), t.secret[:]...))
}

// Proof binds the token to one connection and one request: HMAC-SHA-256 over
// what the statement of the request's [PoP] covers and the wanted name.
func (k TokenKey) Proof(fleet FleetID, pop PoP, name string) []byte {
	mac := hmac.New(sha256.New, k[:])
	var e encoder
	e.vec16([]byte("chancery-v1 token proof"))
	e.vec32(pop.message(fleet, pop.NodeKey.Suite()))
	e.vec32([]byte(name)) // as it came: nobody has looked at it yet
	mac.Write(e.BytesOrPanic())
	return mac.Sum(nil)
}

// Check compares a proof in constant time.
func (k TokenKey) Check(fleet FleetID, pop PoP, name string, proof []byte) bool {
	return hmac.Equal(k.Proof(fleet, pop, name), proof)
}

// ActivationProof shows that the node's TPM activated the credential that came
// with CA:N:S: HMAC-SHA-256 under the activated secret over the hash of the
// CA:N:S body (section 4, step 5).
func ActivationProof(secret []byte, cans [32]byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("chancery-v1 activation"))
	mac.Write(cans[:])
	return mac.Sum(nil)
}
