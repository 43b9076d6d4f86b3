package ekroots

import "fmt"

// advice is a sentinel error with a hint for people.
type advice struct{ text, hint string }

func (e *advice) Error() string { return e.text }
func (e *advice) Hint() string  { return e.hint }

// Errors of this package. They are wrapped with detail; compare with
// [errors.Is].
var (
	// ErrNotCertificate: the bytes are neither PEM certificates nor one in DER.
	ErrNotCertificate error = &advice{"not a certificate", "give PEM blocks of the type CERTIFICATE and nothing else, or a single certificate in DER"}
	// ErrNotCA: the certificate is not of an authority.
	ErrNotCA error = &advice{"not the certificate of an authority", "add the certificate of whoever signed it: openssl x509 -noout -issuer tells the name"}
	// ErrEKCertificate: the certificate is of one chip.
	ErrEKCertificate error = &advice{"this is the EK certificate of one chip, not of its maker", "to let that chip in, import its EK with chancery ek import; to let in all chips of the maker, add the certificate of whoever signed it"}
	// ErrExpired: the certificate could not help any chip.
	ErrExpired error = &advice{"expired", "ask the vendor for the certificate's successor; chips below an expired one can be let in by chancery ek import"}
	// ErrPresent: all of the certificates are in the set.
	ErrPresent error = &advice{"there already", "nothing is to be done; chancery ek-roots list shows it"}
	// ErrTooLarge: more than the package reads.
	ErrTooLarge error = &advice{"too large", "add only the certificates that the fleet's chips need"}
	// ErrFingerprint: a fingerprint that is none.
	ErrFingerprint error = &advice{"not a fingerprint", "the SHA-256 of the certificate, or its first 8 hexadecimal digits or more, as chancery ek-roots list prints it"}
	// ErrUnknown: no certificate has this fingerprint.
	ErrUnknown error = &advice{"no such certificate", "chancery ek-roots list shows all of them"}
	// ErrAmbiguous: several certificates' fingerprints begin like this.
	ErrAmbiguous error = &advice{"several certificates begin like this", "give more digits"}
	// ErrShipped: the certificate is part of the program.
	ErrShipped error = &advice{"the program carries this certificate", "only certificates that were added can be removed"}
	// ErrVendor: the program carries no certificates of this vendor.
	ErrVendor error = &advice{"no such vendor", "chancery ek-roots list shows the vendors"}

	errStray error = &advice{"not a .pem file", "take it out of the directory; names that begin with a dot are passed over"}
)

// A FileError says that a file of the operator's directory is not what it
// should be, so that nothing is loaded.
type FileError struct {
	File string // with its path
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }
func (e *FileError) Unwrap() error { return e.Err }

// Hint says how to go on.
func (e *FileError) Hint() string {
	return "put the file right or take it out of the directory; a coordinator does not work with a part of its EK roots"
}
