// Package docscheck holds the documents against the code. It has tests only:
// what docs/protocol.md says of labels, kinds, object identifiers, limits,
// fields, errors and bytes must be what the packages do, diagrams must parse,
// and links must lead somewhere.
//
// The tests read tables by their headings. A table with the columns "value"
// and "code" names constants; a code block marked tls defines structures in
// the presentation language, which are run against the test vectors.
package docscheck
