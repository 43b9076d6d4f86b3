package issuer

// Keep bounds the memory for lists that were made.
func (i *Issuer) Keep(bytes int) { i.keep = bytes }
