package main

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/internal/bitmap"
	"github.com/chancery-pki/chancery/merkle"
)

// Each lookup is waited for: a processor would guess that nothing is found and
// go on with the next one, which is what a server does not have. What is
// looked up are indexes of good certificates, at random.

// bareLoads loads words of a table: the least that a lookup can cost. It finds
// nothing.
func bareLoads(m *bitmap.Map, indexes []uint32) uint64 {
	sum := uint64(0)
	for _, i := range indexes {
		sum += m.Word(uint64(i) / 64)
		barrier()
	}
	loaded = sum
	return 0
}

var loaded uint64 // so that the loads are not for nothing

// checks are what a verifier does.
func checks(c *chancery.CRL, ca merkle.TrustAnchorID, indexes []uint32, now time.Time) (found uint64) {
	for _, i := range indexes {
		if c.Check(ca, merkle.Serial(serialOf(uint64(i))), now, now) != nil {
			found++
		}
		barrier()
	}
	return found
}

func mapLookups(m map[uint64]struct{}, indexes []uint32) (found uint64) {
	for _, i := range indexes {
		if _, is := m[uint64(i)]; is {
			found++
		}
		barrier()
	}
	return found
}

func searches(sorted []uint64, indexes []uint32) (found uint64) {
	for _, i := range indexes {
		if _, is := slices.BinarySearch(sorted, uint64(i)); is {
			found++
		}
		barrier()
	}
	return found
}

// scans are what programs do with the entries of x509.RevocationList.
func scans(l *x509.RevocationList, indexes []uint32) (found uint64) {
	for _, i := range indexes {
		serial := new(big.Int).SetUint64(serialOf(uint64(i)))
		if slices.ContainsFunc(l.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(serial) == 0 }) {
			found++
		}
		barrier()
	}
	return found
}

// A lookup is a way to look up indexes; it returns how many were found.
type lookup struct {
	id, what string
	n        int // in a turn
	run      func(indexes []uint32) uint64
}

// perLookup runs them in turn, each with other indexes than the one before,
// and returns the median CPU time of a lookup of each in nanoseconds.
func perLookup(rounds int, all []lookup, indexes []uint32) ([]float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	took, medians := make([][]float64, len(all)), make([]float64, len(all))
	for round := range rounds {
		for i, l := range all {
			from := (round*len(all) + i) * l.n % (len(indexes) - l.n + 1)
			us, err := onThread(func() error {
				if found := l.run(indexes[from : from+l.n]); found != 0 {
					return fmt.Errorf("%s: found %d that are good", l.what, found)
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
			took[i] = append(took[i], us*1000/float64(l.n))
		}
	}
	for i := range all {
		medians[i] = median(took[i])
	}
	return medians, nil
}

// crlLookup compares a lookup with a load from a table of the same size, and
// with what else one would look up in. Tables that the caches hold are for the
// chart only.
func crlLookup() (results []Result, err error) {
	if !hasBarrier {
		return []Result{absent("crl-lookup", errors.New("no barrier for this processor"))}, nil
	}
	chart := chart{Title: "A lookup in a CRL, each waited for, 1 % revoked", Y: "nanoseconds of CPU time", X: "size of the bitmap, MB", Log: true}
	for _, issued := range []uint64{1e6, 1e7, 1e8, 1e9}[:sized(4, 3)] {
		more, err := lookups(issued, &chart)
		if err != nil {
			return nil, err
		}
		if issued >= 1e8 {
			results = append(results, more...)
		}
	}
	return results, chart.write("crl-lookup")
}

func lookups(issued uint64, chart *chart) (results []Result, err error) {
	revoked, megabytes := issued/100, float64(issued)/8e6
	indexes := scattered(issued, revoked)
	l, err := newLister()
	if err != nil {
		return nil, err
	}
	c, err := l.list(nil, issued, indexes)
	if err != nil {
		return nil, err
	}
	table := bitmap.New(issued)
	for _, v := range indexes { // a page that nothing was written to is not in memory
		table.Fill(v, 1)
	}
	hash := make(map[uint64]struct{}, revoked)
	for _, v := range indexes {
		hash[v] = struct{}{}
	}
	good, r := make([]uint32, 0, 1<<20), mathrand.New(mathrand.NewPCG(5, 6))
	for len(good) < cap(good) {
		v := r.Uint64N(issued)
		if _, is := hash[v]; !is {
			good = append(good, uint32(v))
		}
	}
	// What takes the caches from the others has rounds of its own.
	const turn = 1 << 17
	ns, err := perLookup(sized(101, 21), []lookup{
		{"", "bare loads", turn, func(i []uint32) uint64 { return bareLoads(table, i) }},
		{"", "CRL.Check", turn, func(i []uint32) uint64 { return checks(c, l.id, i, l.now) }},
	}, good)
	if err != nil {
		return nil, err
	}
	bare, check := ns[0], ns[1]
	peers := []lookup{
		{"map", "map[uint64]struct{}", turn, func(i []uint32) uint64 { return mapLookups(hash, i) }},
		{"sorted", "slices.BinarySearch", turn, func(i []uint32) uint64 { return searches(indexes, i) }},
	}
	result := func(id string, beside float64, peer string) Result {
		return Result{ID: strings.ReplaceAll(fmt.Sprintf("crl-lookup-%g%s", megabytes, id), ".", "-"),
			What: fmt.Sprintf("nanoseconds of CRL.Check for a good certificate, 1 %% revoked of %d", issued),
			Ours: check, Beside: beside, Peer: peer, Ratio: beside / check, Met: true, Command: command}
	}
	against := result("", bare, fmt.Sprintf("a bare load from a table of that many bits, %g MB", megabytes))
	against.Target, against.Met = ">= 1/1.25", check <= 1.25*bare
	results = append(results, against)
	chart.add("CRL.Check", true, megabytes, check)
	chart.add("a bare load", false, megabytes, bare)
	if issued <= 1e8 { // how they grow is known by then
		der, issuer, err := x509List(indexes)
		if err != nil {
			return nil, err
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, err
		}
		peers = append(peers, lookup{"scan", "a loop over x509.RevocationList", 4, func(i []uint32) uint64 { return scans(list, i) }})
		if o, err := runOpenSSL(der, issuer, issued); err == nil {
			results = append(results, result("-openssl", o.Lookup, o.name()+": X509_CRL_get0_by_serial"))
			chart.add("X509_CRL_get0_by_serial", false, megabytes, o.Lookup)
		} else {
			results = append(results, absent(against.ID+"-openssl", err))
		}
	}
	runtime.GC()
	if ns, err = perLookup(sized(9, 3), peers, good); err != nil {
		return nil, err
	}
	for i, l := range peers {
		results = append(results, result("-"+l.id, ns[i], l.what))
		chart.add(l.what, false, megabytes, ns[i])
	}
	return results, nil
}

// openssl is what peers/openssl prints.
type openssl struct {
	Version string  `json:"version"`
	Load    float64 `json:"load"`   // milliseconds
	Lookup  float64 `json:"lookup"` // nanoseconds
}

func (o openssl) name() string { return "OpenSSL " + o.Version }

// runOpenSSL has OpenSSL load a list and look up entries of log 1 below issued.
func runOpenSSL(crl []byte, issuer *x509.Certificate, issued uint64) (o openssl, err error) {
	dir, err := os.MkdirTemp("", "chancery-benchmarks-")
	if err != nil {
		return o, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "crl")
	out, err := exec.Command("cc", "-O2", "-o", program, filepath.Join("benchmarks", "peers", "openssl", "crl.c"), "-lcrypto").CombinedOutput()
	if err != nil {
		line, _, _ := strings.Cut(string(out), "\n")
		return o, fmt.Errorf("%w: %s", err, line)
	}
	list, certificate := filepath.Join(dir, "list"), filepath.Join(dir, "issuer")
	if err := os.WriteFile(list, crl, 0o600); err != nil {
		return o, err
	}
	if err := os.WriteFile(certificate, issuer.Raw, 0o600); err != nil {
		return o, err
	}
	out, err = exec.Command(program, list, certificate, strconv.FormatUint(issued, 10), strconv.Itoa(sized(200_000, 20_000))).Output()
	if err != nil {
		return o, err
	}
	return o, json.Unmarshal(out, &o)
}
