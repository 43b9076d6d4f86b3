package issuer

import (
	"errors"
	"fmt"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/merkle"
)

// What a list is of: all that has not expired, or a block of it; and the block
// that the next certificate may be in, because its distribution point names it
// before any list of ours knows it.
func TestSpans(t *testing.T) {
	ours, other := merkle.TrustAnchorID{}.Append(32473, 1), merkle.TrustAnchorID{}.Append(32473, 2)
	const block = chancery.X509PartitionSpan
	head := &chancery.CRLHead{Logs: []chancery.CRLLog{
		{CA: ours, Log: 1, First: block + 7, Size: 3*block + 1, Revoked: 5},
		{CA: ours, Log: 2, First: 0, Size: 0},
		{CA: other, Log: 1, First: 0, Size: block, Revoked: MaxEntries + 1},
	}}
	for _, test := range []struct {
		part Part
		want string // log, from, below of each; empty: an error
		err  error
	}{
		{Part{CA: ours}, "[1 65543 196609] [2 0 0]", nil},
		{Part{CA: ours, Log: 1, Partition: 0}, "", ErrNoList}, // has expired
		{Part{CA: ours, Log: 1, Partition: 1}, "[1 65543 131072]", nil},
		{Part{CA: ours, Log: 1, Partition: 2}, "[1 131072 196608]", nil},
		{Part{CA: ours, Log: 1, Partition: 3}, "[1 196608 196609]", nil},
		{Part{CA: ours, Log: 1, Partition: 4}, "[1 196609 196609]", nil},
		{Part{CA: ours, Log: 1, Partition: 5}, "", ErrNoList},
		{Part{CA: ours, Log: 1, Partition: 1 << 63}, "", ErrNoList},
		{Part{CA: ours, Log: 2, Partition: 0}, "[2 0 0]", nil},
		{Part{CA: ours, Log: 3, Partition: 0}, "", ErrNoList},
		{Part{CA: merkle.TrustAnchorID{}.Append(32473, 3)}, "", ErrNoList},
		{Part{CA: other}, "", ErrLarge},
		{Part{CA: other, Log: 1, Partition: 0}, "[1 0 65536]", nil},
	} {
		spans, err := spansOf(head, test.part)
		got := ""
		for i, s := range spans {
			if base, _ := merkle.NewSerial(s.log, 0); s.base != base {
				t.Errorf("%+v: log %d begins with %s", test.part, s.log, s.base)
			}
			if i > 0 {
				got += " "
			}
			got += fmt.Sprint([]uint64{uint64(s.log), s.from, s.below})
		}
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%+v is of %q, %v; want %q, %v", test.part, got, err, test.want, test.err)
		}
	}
}
