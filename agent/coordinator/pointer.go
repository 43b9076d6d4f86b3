package coordinator

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"

	"github.com/chancery-pki/chancery"
)

// maxPointer is the limit of the format.
const maxPointer = 64 << 10

// FetchPointer fetches the pointer record that a coordinator publishes and
// parses it. TLS is only transport here (docs/protocol.md section 3): the
// server's certificate is not looked at, and the record is worth nothing before
// chancery.AcceptPointer has judged it.
func FetchPointer(ctx context.Context, address string) (*chancery.Pointer, error) {
	base, err := parseURL(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime+callTime)
	defer cancel()
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}
	client := http.Client{Transport: transport, CheckRedirect: noRedirect}
	r, err := exchange(ctx, &client, http.MethodGet, base.JoinPath("/.well-known/chancery/pointer"), nil, maxPointer)
	if err != nil {
		return nil, fmt.Errorf("pointer record: %w", err)
	}
	return chancery.ParsePointer(r.body)
}
