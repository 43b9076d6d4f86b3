package bitmap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	hugePage = 2 << 20 // of amd64, and of arm64 with pages of 4 KiB
	// hugeFrom is the size from which on a map is given huge pages. Below, the
	// TLB holds all of its small ones, and a whole huge one would be waste.
	hugeFrom = 2 * hugePage
)

// allocate returns that many words, all zero, and what gives them back if that
// is not the garbage collector's.
func allocate(words int) (memory []uint64, release func()) {
	size := 8 * words
	if size < hugeFrom {
		return make([]uint64, words), nil
	}
	// One page more, for the start to be at a multiple of its size. Memory that
	// is not touched is not to be accounted for either.
	all, err := unix.Mmap(-1, 0, size+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return make([]uint64, words), nil // a limit on addresses, for one
	}
	used := all[-uintptr(unsafe.Pointer(&all[0]))%hugePage:][:size]
	_ = unix.Madvise(used, unix.MADV_HUGEPAGE) // where there are none, small ones do
	return unsafe.Slice((*uint64)(unsafe.Pointer(&used[0])), words), func() { _ = unix.Munmap(all) }
}
