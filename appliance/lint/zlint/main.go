// Zlint runs zlint over certificates and prints what it finds as JSON.
//
//	zlint [FILE...]
//
// A file holds one certificate, DER or PEM; without files one is read from
// standard input. Only lints that follow from RFCs are run: the rest ask for
// what public certification authorities promise browsers and each other.
package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// A Report is what is said of one certificate.
type Report struct {
	File string `json:"file"`
	// Applied are the names of the lints that looked at it, passed or not.
	Applied  []string  `json:"applied"`
	Findings []Finding `json:"findings"`
	Error    string    `json:"error,omitempty"` // why it was not looked at
}

// A Finding is what a lint has against a certificate.
type Finding struct {
	Lint     string `json:"lint"`
	Status   string `json:"status"` // info, warn, error or fatal
	Source   string `json:"source"`
	Citation string `json:"citation"`
	Details  string `json:"details,omitempty"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// sources of lints that are about certificates as such.
var sources = lint.SourceList{lint.RFC3279, lint.RFC5280, lint.RFC5480, lint.RFC5891, lint.RFC8813, lint.Community}

func run(files []string) error {
	lints, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: sources})
	if err != nil {
		return err
	}
	if len(files) == 0 {
		files = []string{"/dev/stdin"}
	}
	reports := []Report{}
	for _, file := range files {
		b, err := read(file)
		if err != nil {
			return err
		}
		reports = append(reports, look(file, b, lints))
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(reports)
}

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	return b, err
}

func look(file string, der []byte, lints lint.Registry) Report {
	r := Report{File: file, Applied: []string{}, Findings: []Finding{}}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	for name, result := range zlint.LintCertificateEx(c, lints).Results {
		switch result.Status {
		case lint.NA, lint.NE:
			continue
		case lint.Pass:
		default:
			r.Findings = append(r.Findings, Finding{name, result.Status.String(), string(result.LintMetadata.Source), result.LintMetadata.Citation, result.Details})
		}
		r.Applied = append(r.Applied, name)
	}
	slices.Sort(r.Applied)
	slices.SortFunc(r.Findings, func(a, b Finding) int { return strings.Compare(a.Lint, b.Lint) })
	return r
}
