package merkle

import (
	"bytes"
	"path/filepath"
	"testing"
)

// Whatever is parsed marshals to the bytes that it was parsed from.

func addGenerated(f *testing.F, pattern string) {
	names, err := filepath.Glob(filepath.Join("testdata", "generator", pattern))
	if err != nil || len(names) == 0 {
		f.Fatalf("%d files match %s: %v", len(names), pattern, err)
	}
	for _, name := range names {
		rel, err := filepath.Rel(filepath.Join("testdata", "generator"), name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(readPEM(f, rel))
	}
}

func FuzzParseCertificate(f *testing.F) {
	addGenerated(f, "*/*.pem")
	ca := readCA(f, "p256")
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := ParseCertificate(der)
		if err != nil {
			return
		}
		// Log 0 can be parsed, to be refused by name, but not marshalled.
		if c.Serial.Log() != 0 {
			checkRoundTrip(t, c)
		}
		_ = ca.Verify(c, in2025)
	})
}

func FuzzParseProof(f *testing.F) {
	for _, test := range generated {
		if c, err := ParseCertificate(readPEM(f, test.name)); err == nil {
			proof, err := c.Proof.Marshal()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(proof)
		}
	}
	f.Add([]byte("\x00\x04\x00\x01\x00\x00" + "\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x01" + "\x00\x00" + "\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProof(b)
		if err != nil {
			return
		}
		again, err := p.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x marshals to %x, %v", b, again, err)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	f.Add(NullEntry())
	f.Add([]byte("\x00\x09\x00\x01\x00\x00\x00\x02\x00\x01x\x00\x00"))
	for _, test := range generated {
		if c, err := ParseCertificate(readPEM(f, test.name)); err == nil {
			entry, err := MarshalEntry(c.fields())
			if err != nil {
				f.Fatal(err)
			}
			f.Add(entry)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err != nil {
			return
		}
		if again := e.Marshal(); !bytes.Equal(again, b) {
			t.Errorf("%x marshals to %x", b, again)
		}
	})
}

// A CA certificate may have more in it than a CA, so what is compared is the
// certificate that the parsed CA makes.
func FuzzParseCA(f *testing.F) {
	addGenerated(f, "*/ca_cert.pem")
	f.Fuzz(func(t *testing.T, der []byte) {
		ca, err := ParseCA(der)
		if err != nil {
			return
		}
		own, err := ca.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		same, err := ParseCA(own)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := same.Marshal(); err != nil || !bytes.Equal(again, own) {
			t.Errorf("%x marshals to %x, %v", own, again, err)
		}
	})
}

func FuzzTrustAnchorID(f *testing.F) {
	for _, s := range []string{"32473.1", "0", "4294967296", "1..2", "01", ""} {
		f.Add(s, []byte(s))
	}
	f.Add("", []byte{0x81, 0xfd, 0x59, 0x01})
	f.Fuzz(func(t *testing.T, ascii string, binary []byte) {
		if id, err := ParseTrustAnchorID(ascii); err == nil {
			if id.String() != ascii {
				t.Errorf("%q comes back as %q", ascii, id)
			}
			if same, err := ParseName(Name(id)); err != nil || same != id {
				t.Errorf("name of %v is that of %v, %v", id, same, err)
			}
		}
		if id, err := TrustAnchorIDFromBytes(binary); err == nil {
			if !bytes.Equal(id.Bytes(), binary) {
				t.Errorf("%x comes back as %x", binary, id.Bytes())
			}
			if same, err := ParseTrustAnchorID(id.String()); err != nil || same != id {
				t.Errorf("%x is %v, which is %v, %v", binary, id, same, err)
			}
		}
	})
}
