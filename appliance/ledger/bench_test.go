package ledger_test

import (
	"context"
	"sync"
	"testing"
)

// BenchmarkIssue is what the ledger takes for a certificate when many wait, of
// requests that were verified before.
func BenchmarkIssue(b *testing.B) {
	w := newWorld(b)
	const waiting = 4096
	requests := make([]*request, b.N)
	for i := range requests {
		requests[i] = w.newRequest()
	}
	next := make(chan *request)
	b.ReportAllocs()
	b.ResetTimer()
	var group sync.WaitGroup
	for range waiting {
		group.Go(func() {
			for r := range next {
				if _, err := w.Issue(context.Background(), r); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for _, r := range requests {
		next <- r
	}
	close(next)
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "certs/s")
	b.ReportMetric(float64(w.signer.Total())/b.Elapsed().Seconds(), "signatures/s")
}
