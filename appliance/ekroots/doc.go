// Package ekroots keeps the certificates of those who make TPMs: whoever has
// an endorsement key's certificate that leads to one of them has a chip of
// theirs.
//
// Start with [Load], which gives all that a coordinator believes in: the
// vendors' certificates that the program carries, and the operator's own, which
// are files in a directory. [Add] and [Remove] change the directory, and
// [Vendors] lists what is carried without it. Where the carried certificates
// are from is told in vendors/SOURCES.md.
//
// # Anchors
//
// Every certificate of a [Set] is a trust anchor, whether it is a root or an
// intermediate: crypto/x509 follows a chain up to the first certificate that
// is in the pool and looks no further. So an intermediate's own signature and
// its issuer are not checked, it counts for as long as it is valid itself, and
// whoever adds one believes its key. The verifier does check, of anchors as of
// the rest, that the time is within the validity, that the path is not longer
// than basicConstraints allow, and that there is no critical extension that it
// does not know; name constraints on names that EK certificates do not have
// (DNS, e-mail, URI, IP) pass. [Certificate.Notes] tells what to know of one.
//
// # Failure
//
// A directory is loaded whole or not at all. A file in it that cannot be read,
// or holds anything but certificates of authorities, is a [FileError] with its
// name, because a coordinator with half of its roots refuses half of its nodes
// and nobody sees why. Only names that begin with a dot are passed over: those
// are writes that a crash interrupted, and what tools of configuration
// management keep for themselves. A directory that does not exist is empty.
//
// Validity is no condition for loading. Certificates expire while a
// coordinator runs, and one that did is refused where it is used.
package ekroots
