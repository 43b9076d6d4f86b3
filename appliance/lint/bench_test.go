package lint_test

import (
	"testing"
)

// BenchmarkCheck is what each certificate costs the ledger's job, without the
// question to the store.
func BenchmarkCheck(b *testing.B) {
	for _, i := range []int{0, 1, 4, 5} {
		b.Run(kinds[i].name, func(b *testing.B) {
			w, s := kinds[i].of(b)
			l, c := w.linter(), w.candidate(s)
			b.SetBytes(int64(len(c.Entry)))
			b.ReportAllocs()
			for b.Loop() {
				if err := l.Check(c, stranger); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
