package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/tpm"
)

// Columns of a purchase manifest that say which chip a line is about.
const (
	columnDigest      = "ek_sha256"
	columnPublic      = "ek_public"
	columnCertificate = "ek_certificate"
	columnNote        = "note"
)

const byteOrderMark = "\ufeff"

// maxManifest bounds a manifest, in lines.
const maxManifest = 1_000_000

// readManifest reads the chips of a purchase manifest: CSV with a header.
func readManifest(r io.Reader) (chips []api.EKInfo, err error) {
	buffered := bufio.NewReader(r)
	if mark, err := buffered.Peek(len(byteOrderMark)); err == nil && string(mark) == byteOrderMark {
		buffered.Discard(len(mark)) // spreadsheets write one
	}
	in := csv.NewReader(buffered)
	in.TrimLeadingSpace = true
	header, err := in.Read()
	if err != nil {
		return nil, fmt.Errorf("no header: %w", err)
	}
	for i := range header {
		header[i] = strings.ToLower(strings.TrimSpace(header[i]))
	}
	column, key := "", -1
	for _, name := range []string{columnDigest, columnPublic, columnCertificate} {
		if i := slices.Index(header, name); i >= 0 {
			column, key = name, i
			break
		}
	}
	if key < 0 {
		return nil, fmt.Errorf("no column is called %s, %s or %s; there are %q", columnDigest, columnPublic, columnCertificate, header)
	}
	note := slices.Index(header, columnNote)
	for {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		line, _ := in.FieldPos(0)
		if len(chips) == maxManifest {
			return nil, fmt.Errorf("line %d: more than %d chips", line, maxManifest)
		}
		digest, err := chipDigest(column, strings.TrimSpace(record[key]))
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", line, column, err)
		}
		e := api.EKInfo{EK: digest}
		if note >= 0 {
			e.Note = strings.TrimSpace(record[note])
		}
		chips = append(chips, e)
	}
	if len(chips) == 0 {
		return nil, errors.New("no chip is in it")
	}
	return chips, nil
}

// chipDigest returns the digest that names a chip.
func chipDigest(column, text string) (string, error) {
	if column == columnDigest {
		text = strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(text), "sha256:"), ":", "")
		if b, err := hex.DecodeString(text); err != nil || len(b) != sha256.Size {
			return "", fmt.Errorf("%q is not 64 hexadecimal digits", text)
		}
		return text, nil
	}
	der, err := decodeDER(text)
	if err != nil {
		return "", err
	}
	if column == columnCertificate {
		c, err := tpm.ParseEKCertificate(der)
		if err != nil {
			return "", err
		}
		der = c.Cert.RawSubjectPublicKeyInfo
	}
	// Encoded anew, as an EK from a chip is: there is one encoding that counts.
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:]), nil
}

// decodeDER takes PEM, hexadecimal or base64.
func decodeDER(text string) ([]byte, error) {
	if block, rest := pem.Decode([]byte(text)); block != nil && len(bytes.TrimSpace(rest)) == 0 {
		return block.Bytes, nil
	}
	if b, err := hex.DecodeString(text); err == nil && len(b) > 0 {
		return b, nil
	}
	if b, err := base64.StdEncoding.DecodeString(text); err == nil && len(b) > 0 {
		return b, nil
	}
	return nil, errors.New("it is neither PEM nor DER in base64 or hexadecimal")
}
