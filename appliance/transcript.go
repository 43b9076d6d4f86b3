package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/share"
)

// A transcript is what a ceremony leaves behind for auditors: text, of which
// the last line is a signature by CA:SK, over all lines before it.
type transcript struct{ bytes.Buffer }

const (
	transcriptFirst = "chancery ceremony transcript v1\n"
	transcriptKey   = "CA:PK          "
	transcriptFleet = "fleet          "
	transcriptSign  = "signature      "
)

// line adds a name and a value; values that others chose are quoted.
func (t *transcript) line(name, format string, args ...any) {
	fmt.Fprintf(t, "%-14s %s\n", name, fmt.Sprintf(format, args...))
}

// writeTranscript tells what was done. pool has tried all of its tokens.
func writeTranscript(p *Plan, began time.Time, pool *hsm.Pool, pointer *chancery.Pointer, made []string, shares []share.Share) *transcript {
	t := &transcript{}
	t.WriteString(transcriptFirst)
	t.line("title", "%q", p.Title)
	for _, w := range p.Witnesses {
		t.line("witness", "%q", w)
	}
	if p.hash != [32]byte{} {
		t.line("plan", "sha256:%x", p.hash)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	t.line("began", "%s", stamp(began))
	t.line("machine", "%q", host)
	t.line("program", "chancery %s, %s, %s/%s", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, s := range pool.Status() {
		t.WriteString("\n")
		i := s.Info
		if s.State != hsm.Up {
			t.line("token", "%s", s.URI)
			t.line("  state", "%s: %q", s.State, fmt.Sprint(s.Err))
			continue
		}
		t.line("token", "%q", i.Label)
		t.line("  uri", "%s", s.URI)
		t.line("  serial", "%q", i.Serial)
		t.line("  device", "%q of %q, hardware %s, firmware %s", i.Model, i.Manufacturer, i.Hardware, i.Firmware)
		t.line("  library", "%q", i.Library)
		if i.Simulator {
			t.line("  SIMULATOR", "this token is a program: whoever copies its files has the keys")
		}
		for _, k := range s.Keys {
			a := k.Attributes
			t.line("  key", "%s, labelled %q, CKA_ID %s", k.Name, k.Label, hex.EncodeToString(a.ID))
			t.line("    public", "%s", k.Public)
			switch new := slices.Contains(made, k.Name); {
			case new && a.Local == hsm.Yes:
				t.line("    origin", "generated in this ceremony")
			case new && a.Local == hsm.Unknown:
				t.line("    origin", "generated in this ceremony; the token does not tell whether here")
			default:
				t.line("    origin", "there before this ceremony")
			}
			t.line("    attributes", "SENSITIVE %s, ALWAYS_SENSITIVE %s, EXTRACTABLE %s, NEVER_EXTRACTABLE %s, LOCAL %s, WRAP_WITH_TRUSTED %s",
				a.Sensitive, a.AlwaysSensitive, a.Extractable, a.NeverExtractable, a.Local, a.WrapWithTrusted)
			if len(a.Beyond) > 0 {
				t.line("    also", "%s", strings.Join(a.Beyond, ", "))
			}
		}
	}
	t.WriteString("\n")
	if len(shares) > 0 {
		info := shares[0].Info()
		t.line("PIN", "split into %d shares, any %d of which bring it back, set %s", info.N, info.K, info.Set)
	}
	t.line("pointer record", "number %d, %s, trust domain %s", pointer.Seq, pointer.Endpoints[0].URL, pointer.TrustDomain)
	t.line("next CA:PK", "sha256:%x", pointer.Genesis.NextCA)
	fmt.Fprintf(t, "%s%s\n", transcriptFleet, pointer.FleetID().Pin())
	fmt.Fprintf(t, "%s%s\n", transcriptKey, base64.StdEncoding.EncodeToString(pointer.Current().Key.SPKI()))
	t.line("ended", "%s", stamp(time.Now()))
	return t
}

func (t *transcript) sign(sig chancery.Signature) []byte {
	fmt.Fprintf(t, "%s%s\n", transcriptSign, base64.StdEncoding.EncodeToString(sig))
	return t.Bytes()
}

func isTranscript(b []byte) bool { return bytes.HasPrefix(b, []byte(transcriptFirst)) }

// verifyTranscript checks the signature and returns the key that made it and
// the fleet that it speaks of. Whether it is the fleet's CA:PK is for the
// caller: a pointer record knows.
func verifyTranscript(b []byte) (ca chancery.PublicKey, fleet chancery.FleetID, err error) {
	text, last, found := cutLast(string(b), transcriptSign)
	if !found || !isTranscript(b) {
		return ca, fleet, errors.New("the transcript has no signature")
	}
	fleet, err = chancery.ParsePin(fieldOf(text, transcriptFleet))
	if err != nil {
		return ca, fleet, err
	}
	spki, err := base64.StdEncoding.Strict().DecodeString(fieldOf(text, transcriptKey))
	if err == nil {
		ca, err = chancery.ParsePublicKey(spki)
	}
	if err != nil {
		return ca, fleet, fmt.Errorf("CA:PK in the transcript: %w", err)
	}
	line, ok := strings.CutSuffix(last, "\n")
	sig, err := base64.StdEncoding.Strict().DecodeString(line)
	if err != nil || !ok {
		return ca, fleet, errors.New("the transcript's signature is not base64 on the last line")
	}
	return ca, fleet, ca.Verify(fleet, chancery.NewCeremony([]byte(text)), sig)
}

// cutLast cuts text before the last line that begins with prefix.
func cutLast(text, prefix string) (before, after string, found bool) {
	i := strings.LastIndex(text, "\n"+prefix)
	if i < 0 {
		return text, "", false
	}
	return text[:i+1], text[i+1+len(prefix):], true
}

// fieldOf returns what follows prefix on the last line that begins with it:
// quoted values before it have no line ends.
func fieldOf(text, prefix string) string {
	_, after, _ := cutLast(text, prefix)
	line, _, _ := strings.Cut(after, "\n")
	return line
}
