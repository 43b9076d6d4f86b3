package anchor_test

import (
	"path/filepath"
	"testing"

	"github.com/chancery-pki/chancery/appliance/anchor"
)

// BenchmarkNote is what a list waits for with its anchor in a file of this disk;
// a batch of certificates waits for nothing.
func BenchmarkNote(b *testing.B) {
	k, err := anchor.Open(anchor.At(filepath.Join(b.TempDir(), "anchor")), at(1), false, logger)
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	for n := uint64(2); b.Loop(); n++ {
		k.Note(at(n))
	}
	if p := k.Problem(); p != "" {
		b.Error(p)
	}
}
