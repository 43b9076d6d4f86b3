package merkle

import "testing"

func BenchmarkEntryHash(b *testing.B) {
	c, err := ParseCertificate(readPEM(b, "p256/cert_0_2.pem"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.EntryHash()
	}
}

func BenchmarkEvaluate(b *testing.B) {
	const size = 10_000
	var tree Tree
	for i := range size {
		tree.Append(Hash{byte(i), byte(i >> 8)})
	}
	s := Subtree{0, size}
	proof, err := tree.Inclusion(5_000, s)
	if err != nil {
		b.Fatal(err)
	}
	leaf := Hash{5_000 & 0xff, 5_000 >> 8}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Evaluate(5_000, s, leaf, proof); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	var tree Tree
	b.ReportAllocs()
	for b.Loop() {
		tree.Append(Hash{1})
	}
}

func BenchmarkParseCertificate(b *testing.B) {
	der := readPEM(b, "p256/cert_0_2.pem")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseCertificate(der); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	ca := readCA(b, "p256")
	c, err := ParseCertificate(readPEM(b, "p256/cert_0_2.pem"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := ca.Verify(c, in2025); err != nil {
			b.Fatal(err)
		}
	}
}
