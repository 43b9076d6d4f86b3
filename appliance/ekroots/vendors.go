package ekroots

import (
	"embed"
	"fmt"
	"path"
	"strings"
)

// A bundle is a PEM file named after the vendor, with a comment before each
// certificate; the package's tests hold the comments to it.
//
//go:embed vendors/*.pem
var bundles embed.FS

// Vendors returns the certificates that the program carries, by vendor. An
// error is a mistake in the program.
func Vendors() ([]Certificate, error) {
	entries, err := bundles.ReadDir("vendors")
	if err != nil {
		return nil, err
	}
	var list []Certificate
	for _, entry := range entries {
		data, err := bundles.ReadFile(path.Join("vendors", entry.Name()))
		if err != nil {
			return nil, err
		}
		certs, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("carried bundle %s: %w", entry.Name(), err)
		}
		for _, cert := range certs {
			if err := check(cert); err != nil {
				return nil, fmt.Errorf("carried bundle %s: %w", entry.Name(), err)
			}
			list = append(list, Certificate{Cert: cert, Vendor: strings.TrimSuffix(entry.Name(), ".pem")})
		}
	}
	return list, nil
}
