package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// startStepCA starts step-ca with the token's key, its default database, and a
// JWK provisioner.
func (b *bench) startStepCA(j *issuersJob, env []string) (pid int, stop func(), err error) {
	der, err := os.ReadFile(j.CA)
	if err != nil {
		return 0, nil, err
	}
	certificate := j.CA + ".pem"
	if err := os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return 0, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return 0, nil, err
	}
	j.Provisioner = filepath.Join(b.dir, "provisioner")
	if err := os.WriteFile(j.Provisioner, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600); err != nil {
		return 0, nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return 0, nil, err
	}
	j.URL = "https://" + address
	public, err := key.PublicKey.Bytes()
	if err != nil {
		return 0, nil, err
	}
	kms := "pkcs11:module-path=" + url.PathEscape(j.Module) + ";token=" + url.PathEscape(j.Token) + "?pin-source=" + url.QueryEscape(j.PINFile)
	config, err := json.Marshal(map[string]any{
		"root": certificate, "crt": certificate, "key": "pkcs11:object=" + j.Key, "kms": map[string]string{"type": "pkcs11", "uri": kms},
		"address": address, "dnsNames": []string{"127.0.0.1"}, "logger": map[string]string{"format": "text"},
		"db": map[string]string{"type": "badgerv2", "dataSource": filepath.Join(b.dir, "step-ca-db")},
		"authority": map[string]any{"provisioners": []any{map[string]any{"type": "JWK", "name": "bench", "key": map[string]string{
			"use": "sig", "kty": "EC", "kid": "bench", "crv": "P-256", "alg": "ES256",
			"x": base64.RawURLEncoding.EncodeToString(public[1:33]), "y": base64.RawURLEncoding.EncodeToString(public[33:]),
		}}}},
	})
	if err != nil {
		return 0, nil, err
	}
	file := filepath.Join(b.dir, "step-ca.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return 0, nil, err
	}
	log, err := os.Create(filepath.Join(b.dir, "step-ca.log"))
	if err != nil {
		return 0, nil, err
	}
	defer log.Close()
	cmd := exec.Command(b.step, file)
	// A thread that waits for a slow token holds one of Go's processors: with as
	// many as there are, step-ca would not ask it often enough.
	cmd.Env, cmd.Stdout, cmd.Stderr = append(env, "STEPPATH="+b.dir, "GOMAXPROCS=8"), log, log
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	err = eventually(func() error {
		resp, err := httpsClient(roots).Get(j.URL + "/health")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	})
	if err != nil {
		stop()
		text, _ := os.ReadFile(log.Name()) // it says more than err
		err = fmt.Errorf("step-ca: %w: %s", err, bytes.TrimSpace(text))
	}
	return cmd.Process.Pid, stop, err
}

func httpsClient(roots *x509.CertPool) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
}
