//go:build amd64 || arm64

package bitmap

// prefetch brings what p points to into the caches, without waiting for it.
//
//go:noescape
func prefetch(p *uint64)
