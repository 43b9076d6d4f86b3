package tpm

// steady returns what two readings in a row agree on, of three at most. An
// answer of the chip carries no checksum, so it is for what is kept or decided
// by, and cannot be checked in another way.
func steady[T any](read func() (T, error), same func(T, T) bool) (T, error) {
	var none T
	last, err := read()
	if err != nil {
		return none, err
	}
	for range 2 {
		again, err := read()
		if err != nil {
			return none, err
		}
		if same(last, again) {
			return again, nil
		}
		last = again
	}
	return none, ErrDamaged
}

func same[T comparable](a, b T) bool { return a == b }
