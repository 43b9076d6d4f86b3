//go:build !linux

package bitmap

func allocate(words int) (memory []uint64, release func()) { return make([]uint64, words), nil }
