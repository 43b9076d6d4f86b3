package evidence_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/evidence"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm/eventlog"
)

// byteFields finds every byte string in a record, by its path.
func byteFields(r *evidence.Record) map[string][]byte {
	found := map[string][]byte{}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				walk(path, v.Elem())
			}
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[time.Time]() {
				return
			}
			for f, field := range v.Fields() {
				walk(path+"."+f.Name, field)
			}
		case reflect.Map:
			for it := v.MapRange(); it.Next(); {
				walk(fmt.Sprintf("%s[%v]", path, it.Key()), it.Value())
			}
		case reflect.Slice:
			if b, ok := v.Interface().([]byte); ok {
				found[path] = b
				return
			}
			for i := range v.Len() {
				walk(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
			}
		}
	}
	walk("", reflect.ValueOf(r))
	return found
}

// immaterial are the byte strings that no link is about:
//
//   - the proof of the join token: who may enrol is between the node and the
//     coordinator, which knows the token's key (docs/protocol.md section 4.1);
//   - the event log, of which only the digests of quoted PCRs are vouched for
//     (package eventlog): see TestTamperedLog.
var immaterial = []string{".Connection.TokenProof", ".Submission.EventLog"}

// bigRecord has a value for every byte string that a record can have.
func bigRecord(t testing.TB) (*evidence.Record, evidence.Trust) {
	w := newWorld(t)
	root, issuer := w.makers()
	m := w.machine(papertpm.Options{}, true)
	x := whole
	x.connection = func(c *chancery.InitialConnection) { c.EKChain = [][]byte{issuer} }
	r := m.record(x)
	trust := w.trust()
	trust.Roots.Makers = root
	wantHolds(t, "the whole record", r.Verify(trust), logging...)
	return r, trust
}

// A record with any bit of any byte changed does not hold, in every field but
// those of which it is said why that does not matter. Those are here by name:
// a new field is in neither list until somebody has thought about it.
func TestTampered(t *testing.T) {
	good, trust := bigRecord(t)
	text := must(json.Marshal(good))(t)
	material := []string{
		".Connection.NodeKey", ".Connection.NodePublic", ".Connection.PoP", ".Connection.AKPublic", ".Connection.EKPublic",
		".Connection.EKCertificate", ".Connection.EKChain[0]", ".Connection.Nonce", ".Connection.Sealing.Nonce", ".Connection.Sealing.PCRDigest",
		".Exporter", ".Activation",
		".Submission.NS", ".Submission.CANS", ".Submission.Activation", ".Submission.Creation.Attest", ".Submission.Creation.Signature", ".Submission.CreationData",
		".Submission.Epoch.Attest", ".Submission.Epoch.Signature", ".Submission.Quote.Attestation.Attest", ".Submission.Quote.Attestation.Signature",
		".Submission.Quote.Values[0]", ".Submission.Quote.Values[4]", ".Submission.Quote.Values[7]", ".NC",
	}
	want := slices.Sorted(slices.Values(slices.Concat(material, immaterial)))
	if got := slices.Sorted(maps.Keys(byteFields(good))); !slices.Equal(got, want) {
		t.Fatalf("byte strings %q, want %q", got, want)
	}
	flip := func(t rapid.TB, path string, at int, mask byte) {
		r := &evidence.Record{}
		if err := json.Unmarshal(text, r); err != nil {
			t.Fatal(err)
		}
		byteFields(r)[path][at] ^= mask
		if r.Verify(trust).Holds {
			t.Errorf("it holds with byte %d of %s changed by %02x", at, path, mask)
		}
	}
	for _, path := range material {
		for at := range byteFields(good)[path] {
			if at%7 == 0 || !testing.Short() {
				flip(t, path, at, 1<<(at%8))
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.SampledFrom(material).Draw(t, "field")
		flip(t, path, rapid.IntRange(0, len(byteFields(good)[path])-1).Draw(t, "byte"), rapid.ByteRange(1, 255).Draw(t, "mask"))
	})
}

// Byte strings that lose bytes, get more, or change places are no better, and
// nothing makes Verify panic.
func TestTorn(t *testing.T) {
	good, trust := bigRecord(t)
	text := must(json.Marshal(good))(t)
	paths := slices.Sorted(maps.Keys(byteFields(good)))
	rapid.Check(t, func(t *rapid.T) {
		r := &evidence.Record{}
		if err := json.Unmarshal(text, r); err != nil {
			t.Fatal(err)
		}
		path := rapid.SampledFrom(paths).Draw(t, "field")
		b := byteFields(r)[path]
		switch rapid.IntRange(0, 3).Draw(t, "how") {
		case 0:
			b = b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]
		case 1:
			b = append(b, rapid.Byte().Draw(t, "more"))
		case 2:
			b = byteFields(r)[rapid.SampledFrom(paths).Draw(t, "another's")]
		case 3:
			b = rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "rubbish")
		}
		if bytes.Equal(b, byteFields(good)[path]) || path == ".Connection.TokenProof" {
			return
		}
		set(t, r, path, b)
		report := r.Verify(trust)
		if last := report.Links[len(report.Links)-1]; last.What == "" {
			t.Errorf("%s: %+v", path, last)
		}
		// Without bytes, optional things are not there at all, and without a
		// log the quote stands alone.
		if without := len(b) == 0 && path == ".Submission.EventLog"; report.Holds != without {
			t.Errorf("holds %t with %s = %x", report.Holds, path, b)
		}
	})
}

// set replaces the byte string at a path.
func set(t rapid.TB, r *evidence.Record, path string, b []byte) {
	v := reflect.ValueOf(r).Elem()
	for _, name := range strings.Split(path[1:], ".") {
		name, index, found := strings.Cut(name, "[")
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		v = v.FieldByName(name)
		var n int
		if fmt.Sscan(strings.TrimSuffix(index, "]"), &n); found && v.Kind() == reflect.Map {
			v.SetMapIndex(reflect.ValueOf(n), reflect.ValueOf(b))
			return
		} else if found {
			v = v.Index(n)
		}
	}
	v.SetBytes(b)
}

// What a record says beside its byte strings is either the chip's word, which
// no link needs, or the coordinator's note of how it decided. Those may change
// and the record holds; all else may not.
func TestWords(t *testing.T) {
	good, trust := bigRecord(t)
	for _, test := range []struct {
		what   string
		holds  bool
		change func(*evidence.Record)
	}{
		{"the chip's maker", true, func(r *evidence.Record) { r.Connection.Chip.Manufacturer = "IFX" }},
		{"the chip's model", true, func(r *evidence.Record) { r.Connection.Chip.Model = "" }},
		{"the chip's firmware", true, func(r *evidence.Record) { r.Connection.Chip.Firmware = "0" }},
		{"the chip does not say that it is a simulator", true, func(r *evidence.Record) { r.Connection.Chip.Simulator = false }},
		{"the token", true, func(r *evidence.Record) { r.Connection.TokenID, r.Connection.TokenProof = "", nil }},
		{"whose place it takes", true, func(r *evidence.Record) { r.Connection.Rejoin = true }},
		{"the rule", true, func(r *evidence.Record) { r.Rule = "another" }},
		{"the policy", true, func(r *evidence.Record) { r.Policy = "ff" }},
		{"a list", true, func(r *evidence.Record) { r.Lists = []string{"lab"} }},
		{"the counter as it is was that of the creation", true, func(r *evidence.Record) { r.Renewal = true }},
		{"as soon as CA:N:S was there", true, func(r *evidence.Record) { r.Submitted = now.Add(-time.Minute) }},
		{"the last second of CA:N:S", true, func(r *evidence.Record) { r.Submitted = now.Add(9 * time.Minute) }},
		{"the log was not kept", true, func(r *evidence.Record) { r.Submission.EventLog = nil }},
		{"neither log nor quote was kept", true, func(r *evidence.Record) { r.Submission.EventLog, r.Submission.Quote = nil, nil }},

		{"a second too late", false, func(r *evidence.Record) { r.Submitted = now.Add(9*time.Minute + time.Second) }},
		{"never", false, func(r *evidence.Record) { r.Submitted = time.Time{} }},
		{"the name", false, func(r *evidence.Record) { r.Connection.Name = "edge-11" }},
		{"the seal", false, func(r *evidence.Record) { r.Connection.Sealing = nil }},
		{"its epoch", false, func(r *evidence.Record) { r.Connection.Sealing.Epoch-- }},
		{"its PCRs", false, func(r *evidence.Record) { r.Connection.Sealing.PCRs[0] = 8 }},
		{"a quoted PCR's number", false, func(r *evidence.Record) {
			r.Submission.Quote.Values[1] = r.Submission.Quote.Values[0]
			delete(r.Submission.Quote.Values, 0)
		}},
		{"the epoch's attestation", false, func(r *evidence.Record) { r.Submission.Epoch = nil }},
		{"the certificate of the EK, whose assurance N:C claims", false, func(r *evidence.Record) { r.Connection.EKCertificate = nil }},
		{"the chain of the EK's certificate", false, func(r *evidence.Record) { r.Connection.EKChain = nil }},
	} {
		r := clone(t, good)
		test.change(r)
		if report := r.Verify(trust); report.Holds != test.holds {
			t.Errorf("%s: holds %t, want %t: %+v", test.what, report.Holds, test.holds, report.Links)
		}
	}
	if r := (&evidence.Record{}).Verify(trust); r.Holds {
		t.Errorf("an empty record holds: %+v", r)
	}
}

// Of the event log, the digests of quoted PCRs are vouched for, and the events
// whose digests they are; the rest describes.
func TestTamperedLog(t *testing.T) {
	w := newWorld(t)
	m := w.machine(papertpm.Options{}, true)
	good := m.record(whole)
	events := must(eventlog.Parse(m.log))(t).Events
	quoted := 0
	for i, e := range events {
		at := bytes.Index(m.log, e.Digest[:])
		if !e.Extends() || at < 0 {
			t.Fatalf("event %d: %+v", i, e)
		}
		for n := range e.Digest {
			r := clone(t, good)
			// Separators have the same digest in each PCR: change the first of them
			// only if its PCR is quoted.
			first := events[slices.IndexFunc(events, func(o eventlog.Event) bool { return o.Digest == e.Digest })]
			r.Submission.EventLog[at+n] ^= 0x80
			report := r.Verify(w.trust())
			if slices.Contains(whole.quote, first.PCR) {
				quoted++
				wantBroken(t, fmt.Sprintf("a digest of PCR %d", first.PCR), report, evidence.LinkEventLog)
			} else {
				wantHolds(t, fmt.Sprintf("a digest of PCR %d, which is not quoted", first.PCR), report)
			}
		}
	}
	if quoted == 0 {
		t.Error("no digest was of a quoted PCR")
	}
	rapid.Check(t, func(t *rapid.T) { // whatever happens to it, nothing panics
		r := *good
		s := *good.Submission
		s.EventLog = bytes.Clone(s.EventLog)
		s.EventLog[rapid.IntRange(0, len(s.EventLog)-1).Draw(t, "byte")] ^= rapid.ByteRange(1, 255).Draw(t, "mask")
		r.Submission = &s
		r.Verify(w.trust())
	})
}
