//go:build !amd64 && !arm64

package bitmap

func prefetch(*uint64) {}
