// Issuers issues certificates with what others use, a signature of the token
// for each, for the benchmarks, which start it. It reads a job as JSON and
// answers with how many certificates it had in how long; each of them is
// verified afterwards.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// makeCA is the peer of a job that makes the CA's certificate instead.
const makeCA = "make-ca"

// A job says with what to issue, and for how long.
type job struct {
	Peer                        string // one of issuers, or makeCA
	Module, Token, PINFile, Key string // of the token
	CA                          string // file with the CA's certificate, DER
	URL, Provisioner            string // of step-ca: where it is, and the file with its provisioner's key
	Callers                     int
	Seconds                     float64
	Most                        int // certificates
}

// A result is what came of it.
type result struct {
	Certificates int     `json:"certificates"`
	Seconds      float64 `json:"seconds"`
}

// An issuer certifies a key under a name, and returns the certificate, DER.
type issuer func(r *request) ([]byte, error)

// A request is one certificate's. It is made before the clock runs.
type request struct {
	name string
	key  *ecdsa.PrivateKey
	body []byte // of step-ca: what is posted
}

// issuers are the peers, by name, and how they are opened.
var issuers = map[string]func(j *job, ca *x509.Certificate, requests []*request) (issuer, error){
	"crypto11": openCrypto11,
	"bare":     openBare,
	"pkcs11":   openPKCS11,
	"cfssl":    openCFSSL,
	"step-ca":  openStepCA,
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		return err
	}
	if j.Peer == makeCA {
		return makeOwn(&j)
	}
	open, ok := issuers[j.Peer]
	if !ok {
		return fmt.Errorf("no peer is called %q", j.Peer)
	}
	der, err := os.ReadFile(j.CA)
	if err != nil {
		return err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	requests := make([]*request, j.Most)
	for i := range requests {
		requests[i] = &request{name: fmt.Sprintf("node-%06d.example", i)}
		if requests[i].key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
	}
	issue, err := open(&j, ca, requests)
	if err != nil {
		return err
	}
	if _, err := issue(requests[len(requests)-1]); err != nil { // what is made once is made now
		return err
	}
	r, issued, err := measure(&j, issue, requests[:len(requests)-1])
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for i, der := range issued {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if _, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return err
		}
		if !requests[i].key.PublicKey.Equal(c.PublicKey) {
			return errors.New("a certificate is for another key")
		}
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// measure issues until the time is over, or all have theirs.
func measure(j *job, issue issuer, requests []*request) (r result, issued [][]byte, err error) {
	issued = make([][]byte, len(requests))
	var mu sync.Mutex // guards next and err
	next := 0
	take := func() int {
		mu.Lock()
		defer mu.Unlock()
		if next == len(requests) || err != nil {
			return -1
		}
		next++
		return next - 1
	}
	var group sync.WaitGroup
	began := time.Now()
	for range j.Callers {
		group.Go(func() {
			for time.Since(began).Seconds() < j.Seconds {
				i := take()
				if i < 0 {
					return
				}
				der, failed := issue(requests[i])
				issued[i] = der
				if failed != nil {
					mu.Lock()
					err = failed
					mu.Unlock()
					return
				}
			}
		})
	}
	group.Wait()
	r.Seconds = time.Since(began).Seconds()
	if err != nil {
		return r, nil, err
	}
	if r.Certificates = next; next == 0 {
		return r, nil, errors.New("nothing was issued")
	}
	return r, issued[:next], nil
}
