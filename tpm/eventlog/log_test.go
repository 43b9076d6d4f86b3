package eventlog_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/chancery-pki/chancery/tpm/eventlog"
	"github.com/chancery-pki/chancery/tpm/eventlog/eventlogtest"
)

// le writes integers of their own size, and bytes, one after the other.
func le(fields ...any) []byte {
	var b bytes.Buffer
	for _, f := range fields {
		if s, ok := f.(string); ok {
			f = []byte(s)
		}
		if err := binary.Write(&b, binary.LittleEndian, f); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// header is a first event with these data.
func header(pcr, kind uint32, data []byte) []byte {
	return le(pcr, kind, make([]byte, 20), uint32(len(data)), data)
}

// specID is the data of a Spec ID event whose table is these pairs of
// algorithm and size.
func specID(table ...uint16) []byte {
	return le("Spec ID Event03\x00", uint32(0), []byte{0, 2, 106, 2}, uint32(len(table)/2), table, uint8(0))
}

// sha256Only is the head of a log of one bank.
func sha256Only() []byte { return header(0, 3, specID(0x000b, 32)) }

// event is an event of a log of one bank.
func event(pcr, kind uint32, data []byte) []byte {
	digest := sha256.Sum256(data)
	return le(pcr, kind, uint32(1), uint16(0x000b), digest[:], uint32(len(data)), data)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func parse(t testing.TB, b []byte) *eventlog.Log {
	t.Helper()
	l, err := eventlog.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestParse(t *testing.T) {
	other := sha256.Sum256([]byte("other"))
	l := parse(t, eventlogtest.NewBuilder().
		Add(0, eventlog.SCRTMVersion, []byte("1.0")).
		AddDigest(4, eventlog.EFIBootServicesApplication, other, []byte("loader")).
		Add(23, eventlog.NoAction, nil).
		Bytes())
	want := []eventlog.Event{
		{PCR: 0, Type: eventlog.SCRTMVersion, Digest: sha256.Sum256([]byte("1.0")), Data: []byte("1.0")},
		{PCR: 4, Type: eventlog.EFIBootServicesApplication, Digest: other, Data: []byte("loader")},
		{PCR: 23, Type: eventlog.NoAction},
	}
	if len(l.Events) != len(want) {
		t.Fatalf("%d events, want %d", len(l.Events), len(want))
	}
	for i, e := range l.Events {
		w := want[i]
		if e.PCR != w.PCR || e.Type != w.Type || e.Digest != w.Digest || !bytes.Equal(e.Data, w.Data) {
			t.Errorf("event %d is %v, want %v", i, e, w)
		}
	}
}

// What is unusual and within the specification.
func TestParseAccepts(t *testing.T) {
	d20, d32, d48 := make([]byte, 20), make([]byte, 32), make([]byte, 48)
	for name, b := range map[string][]byte{
		"no events":           sha256Only(),
		"server, errata 2":    header(0, 3, le("Spec ID Event03\x00", uint32(1), []byte{0, 2, 2, 1}, uint32(1), uint16(11), uint16(32), uint8(0))),
		"vendor information":  header(0, 3, le("Spec ID Event03\x00", uint32(0), []byte{0, 2, 0, 2}, uint32(1), uint16(11), uint16(32), uint8(3), "abc")),
		"unknown algorithm":   join(header(0, 3, specID(0x7777, 20, 0x000b, 32)), le(uint32(1), uint32(4), uint32(2), uint16(0x7777), d20, uint16(11), d32, uint32(0))),
		"digests reordered":   join(header(0, 3, specID(0x000b, 32, 0x000c, 48)), le(uint32(1), uint32(4), uint32(2), uint16(12), d48, uint16(11), d32, uint32(0))),
		"type without a name": join(sha256Only(), event(1, 0xdeadbeef, nil)),
		"16 algorithms":       header(0, 3, specID(manyAlgorithms(16)...)),
		"16384 events":        join(sha256Only(), bytes.Repeat(event(1, 4, nil), 16384)),
		"64 KiB of data":      join(sha256Only(), event(1, 4, make([]byte, 64<<10))),
		"locality 4":          eventlogtest.NewBuilder().StartupLocality(4).Add(0, eventlog.EFIHCRTMEvent, []byte("HCRTM")).Bytes(),
	} {
		if _, err := eventlog.Parse(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// manyAlgorithms is a table of n algorithms, the last of which is SHA-256.
func manyAlgorithms(n uint16) []uint16 {
	var table []uint16
	for i := range n - 1 {
		table = append(table, 0x7000+i, 32)
	}
	return append(table, 0x000b, 32)
}

func TestParseRefuses(t *testing.T) {
	malformed, tooLarge, noSHA256 := eventlog.ErrMalformed, eventlog.ErrTooLarge, eventlog.ErrNoSHA256
	d32 := make([]byte, 32)
	head := sha256Only()
	two := header(0, 3, specID(0x0004, 20, 0x000b, 32))
	locality := func(pcr int, data string) []byte {
		return eventlogtest.NewBuilder().Add(pcr, eventlog.NoAction, []byte(data)).Bytes()
	}
	for name, c := range map[string]struct {
		log  []byte
		want error
	}{
		"nothing":           {nil, malformed},
		"half a header":     {head[:40], malformed},
		"a header too long": {le(uint32(0), uint32(3), make([]byte, 20), uint32(1<<31), specID(0x000b, 32)), malformed},
		"padding":           {bytes.Repeat([]byte{0xff}, 64), malformed},
		"a log of TDX":      {header(1, 3, specID(0x000c, 48)), malformed}, // CCEL: no TPM, and registers that are no PCRs
		"header's digest":   {le(uint32(0), uint32(3), bytes.Repeat([]byte{1}, 20), uint32(33), specID(0x000b, 32)), malformed},

		"log of TPM 1.2":        {header(0, 8, []byte("version")), noSHA256},
		"Spec ID Event02":       {header(0, 3, le("Spec ID Event02\x00", uint32(0), []byte{2, 1, 2, 2, 0})), noSHA256},
		"short EV_NO_ACTION":    {header(0, 3, []byte("Spec ID")), noSHA256},
		"TPM 1.2 and PCR 24":    {header(24, 8, []byte("version")), malformed},
		"SHA-1 only":            {header(0, 3, specID(0x0004, 20)), noSHA256},
		"SHA-1 and SHA-384":     {header(0, 3, specID(0x0004, 20, 0x000c, 48)), noSHA256},
		"specification 1.2":     {header(0, 3, le("Spec ID Event03\x00", uint32(0), []byte{2, 1, 2, 2}, uint32(1), uint16(11), uint16(32), uint8(0))), malformed},
		"uintnSize 3":           {header(0, 3, le("Spec ID Event03\x00", uint32(0), []byte{0, 2, 0, 3}, uint32(1), uint16(11), uint16(32), uint8(0))), malformed},
		"Spec ID without table": {header(0, 3, []byte("Spec ID Event03\x00")), malformed},
		"no algorithms":         {header(0, 3, specID()), malformed},
		"17 algorithms":         {header(0, 3, specID(manyAlgorithms(17)...)), tooLarge},
		"many algorithms":       {header(0, 3, le("Spec ID Event03\x00", uint32(0), []byte{0, 2, 0, 2}, uint32(1<<32-1), uint8(0))), tooLarge},
		"a table too short":     {header(0, 3, le("Spec ID Event03\x00", uint32(0), []byte{0, 2, 0, 2}, uint32(2), uint16(11), uint16(32), uint8(0))), malformed},
		"a table too long":      {header(0, 3, append(specID(0x000b, 32), 0)), malformed},
		"vendor information":    {header(0, 3, append(specID(0x000b, 32)[:32], 9)), malformed},
		"an algorithm twice":    {header(0, 3, specID(0x000b, 32, 0x000b, 32)), malformed},
		"SHA-256 of 20 bytes":   {header(0, 3, specID(0x000b, 20)), malformed},
		"digests of 0 bytes":    {header(0, 3, specID(0x7777, 0, 0x000b, 32)), malformed},
		"digests of 65 bytes":   {header(0, 3, specID(0x7777, 65, 0x000b, 32)), malformed},

		"PCR 24":                {join(head, event(24, 4, nil)), malformed},
		"PCR -1":                {join(head, event(1<<32-1, 3, nil)), malformed},
		"no digests":            {join(head, le(uint32(0), uint32(3), uint32(0), uint32(0))), malformed},
		"one digest of two":     {join(two, event(0, 4, nil)), malformed},
		"two digests of one":    {join(head, le(uint32(0), uint32(4), uint32(2), uint16(11), d32, uint16(11), d32, uint32(0))), malformed},
		"many digests":          {join(head, le(uint32(0), uint32(4), uint32(1<<32-1), uint16(11), d32, uint32(0))), malformed},
		"the same digest":       {join(two, le(uint32(0), uint32(4), uint32(2), uint16(11), d32, uint16(11), d32, uint32(0))), malformed},
		"unannounced digest":    {join(head, le(uint32(0), uint32(4), uint32(1), uint16(12), make([]byte, 48), uint32(0))), malformed},
		"data beyond the end":   {join(head, le(uint32(0), uint32(4), uint32(1), uint16(11), d32, uint32(5), "four")), malformed},
		"64 KiB and 1 byte":     {join(head, event(1, 4, make([]byte, 64<<10+1))), tooLarge},
		"4 GiB of data":         {join(head, le(uint32(0), uint32(4), uint32(1), uint16(11), d32, uint32(1<<32-1))), tooLarge},
		"16385 events":          {join(head, bytes.Repeat(event(1, 4, nil), 16385)), tooLarge},
		"1 MiB and 1 byte":      {make([]byte, eventlog.MaxSize+1), tooLarge},
		"zeros after the end":   {join(head, event(1, 4, nil), make([]byte, 64)), malformed},
		"ones after the end":    {join(head, event(1, 4, nil), bytes.Repeat([]byte{0xff}, 64)), malformed},
		"one byte after":        {append(sha256Only(), 0), malformed},
		"locality 1":            {locality(0, "StartupLocality\x00\x01"), malformed},
		"locality missing":      {locality(0, "StartupLocality\x00"), malformed},
		"locality of 2 bytes":   {locality(0, "StartupLocality\x00\x03\x00"), malformed},
		"locality in PCR 1":     {locality(1, "StartupLocality\x00\x03"), malformed},
		"locality twice":        {eventlogtest.NewBuilder().StartupLocality(3).StartupLocality(3).Bytes(), malformed},
		"locality too late":     {eventlogtest.NewBuilder().Separator(0).StartupLocality(3).Bytes(), malformed},
		"H-CRTM too late":       {eventlogtest.NewBuilder().Separator(0).Add(0, eventlog.EFIHCRTMEvent, []byte("HCRTM")).Bytes(), malformed},
		"H-CRTM twice":          {eventlogtest.NewBuilder().Add(0, eventlog.EFIHCRTMEvent, nil).Add(0, eventlog.EFIHCRTMEvent, nil).Bytes(), malformed},
		"H-CRTM in PCR 1":       {eventlogtest.NewBuilder().Add(1, eventlog.EFIHCRTMEvent, []byte("HCRTM")).Bytes(), malformed},
		"locality after H-CRTM": {eventlogtest.NewBuilder().Add(0, eventlog.EFIHCRTMEvent, nil).StartupLocality(4).Bytes(), malformed},
	} {
		if l, err := eventlog.Parse(c.log); !errors.Is(err, c.want) || l != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// A log ends where an event ends, and nowhere else.
func TestParsePrefixes(t *testing.T) {
	b := eventlogtest.Boot("1.0", "loader", true).Bytes()
	whole := len(parse(t, b).Events)
	parsed := 0
	for n := range len(b) {
		if l, err := eventlog.Parse(b[:n]); err == nil {
			if len(l.Events) != parsed {
				t.Errorf("%d events in %d bytes, want %d", len(l.Events), n, parsed)
			}
			parsed++
		}
	}
	if parsed != whole {
		t.Errorf("%d prefixes are logs, want one for each of %d events", parsed, whole)
	}
}

// What the sender claims is not allocated before it is there.
func TestParseAllocates(t *testing.T) {
	claims := join(sha256Only(), le(uint32(0), uint32(4), uint32(1), uint16(11), make([]byte, 32), uint32(64<<10)))
	const runs = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		eventlog.Parse(claims)
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 4096 {
		t.Errorf("%d bytes allocated for a log of %d", n, len(claims))
	}
}

func TestNoSHA256Hint(t *testing.T) {
	var advised interface{ Hint() string }
	if !errors.As(eventlog.ErrNoSHA256, &advised) || advised.Hint() == "" {
		t.Error("no hint")
	}
}
