package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// processes are the programs that are started anew for each certificate, or for
// some, with SoftHSM.
func (b *bench) processes(own capacity, noIssuers error) (results []Result, err error) {
	for _, p := range []struct {
		id      string
		prepare func(j issuersJob, n int) (certify func() error, name string, err error)
		n       int
	}{{"openssl-ca", b.opensslCA, sized(300, 50)}, {"openssl-x509", b.opensslX509, sized(60, 10)}, {"nebula-cert", b.nebula, sized(60, 10)}} {
		id := "issue-free-" + p.id
		if noIssuers != nil {
			results = append(results, absent(id, noIssuers))
			continue
		}
		j, env, stop, err := b.job(p.id)
		if err != nil {
			return nil, err
		}
		first := j
		first.Peer = makeCA
		if _, err := b.ask(first, env); err != nil {
			return nil, errors.Join(err, stop())
		}
		var took time.Duration
		certify, name, err := p.prepare(j, p.n)
		if err == nil {
			began := time.Now()
			err = certify()
			took = time.Since(began)
		}
		if err = errors.Join(err, stop()); err != nil {
			results = append(results, absent(id, err))
			continue
		}
		theirs := float64(p.n) / took.Seconds()
		results = append(results, Result{ID: id, What: b.what(), Ours: own.ledger, Beside: theirs, Peer: name, Ratio: own.ledger / theirs, Target: ">= 1", Met: own.ledger >= theirs, Command: command + " issue"})
	}
	return results, nil
}

// opensslURI is the token's key as OpenSSL's engine for PKCS#11 takes it.
func opensslURI(j issuersJob) string {
	return "pkcs11:token=" + j.Token + ";object=" + j.Key + ";type=private?pin-source=file:" + j.PINFile
}

// openssl runs it with the engine.
func (b *bench) openssl(j issuersJob, args ...string) error {
	cmd := exec.Command("openssl", args...)
	cmd.Dir, cmd.Env = b.dir, append(os.Environ(), "PKCS11_MODULE_PATH="+j.Module)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("openssl %s: %w: %s", args[0], err, firstLine(out))
	}
	return nil
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}

// requests writes n certificate requests, and the CA's certificate as PEM.
func (b *bench) requests(j issuersJob, n int) (files []string, err error) {
	if err := b.openssl(j, "x509", "-inform", "DER", "-in", j.CA, "-out", "ca.pem"); err != nil {
		return nil, err
	}
	for i := range n {
		file := fmt.Sprintf("request-%d.pem", i)
		err := b.openssl(j, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null", "-subj", fmt.Sprintf("/CN=node-%06d", i), "-out", file)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// opensslCA has one openssl ca certify all, which it notes in its index.
func (b *bench) opensslCA(j issuersJob, n int) (certify func() error, name string, err error) {
	files, err := b.requests(j, n)
	if err != nil {
		return nil, "", err
	}
	config := `[ca]
default_ca = c
[c]
database = index
new_certs_dir = .
serial = serial
default_md = sha256
default_days = 1
policy = p
unique_subject = no
[p]
commonName = supplied
`
	for file, text := range map[string]string{"ca.conf": config, "index": "", "serial": "1000\n"} {
		if err := os.WriteFile(filepath.Join(b.dir, file), []byte(text), 0o600); err != nil {
			return nil, "", err
		}
	}
	args := append([]string{"ca", "-batch", "-notext", "-config", "ca.conf", "-engine", "pkcs11", "-keyform", "engine", "-keyfile", opensslURI(j), "-cert", "ca.pem", "-infiles"}, files...)
	return func() error { return b.openssl(j, args...) }, fmt.Sprintf("openssl ca, %d at a time", n), nil
}

// opensslX509 starts openssl x509 for each.
func (b *bench) opensslX509(j issuersJob, n int) (certify func() error, name string, err error) {
	files, err := b.requests(j, n)
	if err != nil {
		return nil, "", err
	}
	return func() error {
		for i, file := range files {
			err := b.openssl(j, "x509", "-req", "-in", file, "-engine", "pkcs11", "-CAkeyform", "engine", "-CAkey", opensslURI(j), "-CA", "ca.pem", "-set_serial", strconv.Itoa(i+2), "-days", "1", "-out", "certificate.pem")
			if err != nil {
				return err
			}
		}
		return nil
	}, "openssl x509, one after the other", nil
}

// nebula starts nebula-cert for each, which makes the node's key too. Its CA's
// key is in a file: it asks tokens for CKM_ECDSA_SHA256, which SoftHSM does not
// have.
func (b *bench) nebula(_ issuersJob, n int) (certify func() error, name string, err error) {
	program, err := nebulaCert.install()
	if err != nil {
		return nil, "", err
	}
	run := func(args ...string) error {
		cmd := exec.Command(program, args...)
		cmd.Dir = b.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nebula-cert %s: %w: %s", args[0], err, firstLine(out))
		}
		return nil
	}
	if err := run("ca", "-name", "bench", "-curve", "P256", "-out-crt", "nebula-ca.crt", "-out-key", "nebula-ca.key"); err != nil {
		return nil, "", err
	}
	return func() error {
		for i := range n {
			node := fmt.Sprintf("nebula-%d", i)
			if err := run("sign", "-ca-crt", "nebula-ca.crt", "-ca-key", "nebula-ca.key", "-name", node, "-networks", fmt.Sprintf("10.1.%d.%d/16", i/250, i%250+1), "-out-crt", node+".crt", "-out-key", node+".key"); err != nil {
				return err
			}
		}
		return nil
	}, nebulaCert.name() + " with a key in a file, one after the other", nil
}
