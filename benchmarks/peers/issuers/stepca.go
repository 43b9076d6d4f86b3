package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// openStepCA asks a step-ca over HTTPS, with a one-time token of its JWK
// provisioner and a connection for each certificate: each is a node's. Tokens
// and requests are made before.
func openStepCA(j *job, ca *x509.Certificate, requests []*request) (issuer, error) {
	text, err := os.ReadFile(j.Provisioner)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the provisioner's key is not PEM")
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the provisioner's key is not ECDSA")
	}
	for _, r := range requests {
		request, err := csr(r.name, r.key)
		if err != nil {
			return nil, err
		}
		token, err := oneTimeToken(key, j.URL+"/1.0/sign", r.name)
		if err != nil {
			return nil, err
		}
		if r.body, err = json.Marshal(map[string]string{"csr": string(request), "ott": token}); err != nil {
			return nil, err
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return func(r *request) ([]byte, error) {
		resp, err := client.Post(j.URL+"/1.0/sign", "application/json", bytes.NewReader(r.body))
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusCreated {
			return nil, fmt.Errorf("step-ca: %s: %.200s", resp.Status, b)
		}
		var answer struct {
			Certificate string `json:"crt"`
		}
		if err := json.Unmarshal(b, &answer); err != nil {
			return nil, err
		}
		block, _ := pem.Decode([]byte(answer.Certificate))
		if block == nil {
			return nil, errors.New("not PEM")
		}
		return block.Bytes, nil
	}, nil
}

// oneTimeToken is a JWT (RFC 7519) for one certificate.
func oneTimeToken(key *ecdsa.PrivateKey, audience, name string) (string, error) {
	now := time.Now().Unix()
	nonce := make([]byte, 16)
	rand.Read(nonce)
	header, err := json.Marshal(map[string]string{"alg": "ES256", "typ": "JWT", "kid": "bench"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{"iss": "bench", "aud": audience, "sub": name, "sans": []string{name}, "nbf": now, "iat": now, "exp": now + 3600,
		"jti": base64.RawURLEncoding.EncodeToString(nonce)})
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}
