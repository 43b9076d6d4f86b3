package store

// An X509 is the X.509 certificate that has a serial number, or will have it.
type X509 struct {
	SPKI []byte // of its key
	DER  []byte // nil until it is signed
}

// ReserveX509 gives a serial number to a key, unless it has one already, and
// returns whose it is.
func (t *Tx) ReserveX509(l Log, index uint64, spki []byte) (x X509, err error) {
	if _, err := t.execAny(`INSERT INTO x509_certificates (ca, log, idx, spki) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, l.CA, l.Number, int64(index), spki); err != nil {
		return x, err
	}
	return t.X509(l, index)
}

// X509 returns the certificate with a serial number.
func (t *Tx) X509(l Log, index uint64) (x X509, err error) {
	err = t.row(`SELECT spki, der FROM x509_certificates WHERE ca = ? AND log = ? AND idx = ?`, []any{l.CA, l.Number, int64(index)}, &x.SPKI, &x.DER)
	return x, err
}

// KeepX509 stores the certificate with a reserved serial number and returns the
// one that is kept: the first that was signed.
func (t *Tx) KeepX509(l Log, index uint64, der []byte) ([]byte, error) {
	if _, err := t.execAny(`UPDATE x509_certificates SET der = ? WHERE ca = ? AND log = ? AND idx = ? AND der IS NULL`, der, l.CA, l.Number, int64(index)); err != nil {
		return nil, err
	}
	x, err := t.X509(l, index)
	return x.DER, err
}
