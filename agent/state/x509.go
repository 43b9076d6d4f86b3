package state

import "encoding/json"

// An X509 is the node's X.509 certificate with its key. Before there is a
// certificate the key is there: a coordinator certifies one key for each N:C.
type X509 struct {
	Key         []byte `json:"key,omitempty"` // PKCS #8; none if the key is N:SK
	Certificate []byte `json:"certificate,omitempty"`
	Issuer      []byte `json:"issuer,omitempty"`
}

// X509 returns the one of a kind of key. Nothing of it is verified.
func (d *Dir) X509(kind string) (*X509, error) {
	return read(d, "x509-"+kind+".json", func(b []byte) (*X509, error) {
		x := new(X509)
		return x, json.Unmarshal(b, x)
	})
}

// SaveX509 replaces it.
func (d *Dir) SaveX509(kind string, x *X509) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return d.write("x509-"+kind+".json", b)
}
