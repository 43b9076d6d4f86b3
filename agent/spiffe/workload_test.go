package spiffe

import (
	"bytes"
	"context"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// withHeader is a request as clients of the Workload API make it.
func withHeader(ctx context.Context, value string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", value)
}

// receive opens a stream and takes the first message.
func receive[R any](stream grpc.ServerStreamingClient[R], err error) (*R, error) {
	if err != nil {
		return nil, err
	}
	return stream.Recv()
}

// SPIFFE's own client believes what it gets, and gets the next one.
func TestClient(t *testing.T) {
	i := newIssuer(t)
	first := i.svid()
	n := newNode(t, first)
	client, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+n.socket))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	svid, err := client.FetchX509SVID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if svid.ID.String() != first.ID || !bytes.Equal(svid.Certificates[0].Raw, first.Certificate) {
		t.Errorf("the SVID is %s", svid.ID)
	}
	bundles, err := client.FetchX509Bundles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if b, err := bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain()); err != nil || !b.HasX509Authority(i.cert) {
		t.Errorf("the bundle: %v", err)
	}

	source, err := workloadapi.NewX509Source(t.Context(), workloadapi.WithClient(client))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	second := i.svid()
	n.set(second, nil)
	if err := source.WaitUntilUpdated(t.Context()); err != nil {
		t.Fatal(err)
	}
	if svid, err := source.GetX509SVID(); err != nil || !bytes.Equal(svid.Certificates[0].Raw, second.Certificate) {
		t.Errorf("after a change: %v", err)
	}
}

// A stream says what changed, and nothing when nothing did.
func TestStream(t *testing.T) {
	i := newIssuer(t)
	first := i.svid()
	n := newNode(t, first)
	stream, err := workload.NewSpiffeWorkloadAPIClient(n.dial()).FetchX509SVID(withHeader(t.Context(), "true"), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want *SVID) {
		t.Helper()
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Svids) != 1 || !bytes.Equal(m.Svids[0].X509Svid, want.Certificate) || !bytes.Equal(m.Svids[0].X509SvidKey, want.Key) ||
			!bytes.Equal(m.Svids[0].Bundle, want.Bundle) || len(m.Crl) != 1 || !bytes.Equal(m.Crl[0], want.CRL) {
			t.Errorf("it is another one: %v", m)
		}
	}
	next(first)
	n.set(first, nil)
	n.set(first, errNone) // the one that there is is good
	list := *first
	list.CRL = i.svid(7).CRL
	n.set(&list, nil)
	next(&list)
	second := i.svid()
	n.set(second, nil)
	next(second)
	n.set(nil, errNone)
	_, err = stream.Recv()
	wantCode(t, "a certificate that ended", err, codes.Unavailable)
}

// What is refused, and how.
func TestRefusals(t *testing.T) {
	n := newNode(t, newIssuer(t).svid())
	client := workload.NewSpiffeWorkloadAPIClient(n.dial())
	good := withHeader(t.Context(), "true")
	for what, ctx := range map[string]context.Context{
		"no header": t.Context(), "another value": withHeader(t.Context(), "TRUE"), "two of them": withHeader(good, "true"),
	} {
		_, err := receive(client.FetchX509SVID(ctx, &workload.X509SVIDRequest{}))
		wantCode(t, what, err, codes.InvalidArgument)
		_, err = receive(client.FetchX509Bundles(ctx, &workload.X509BundlesRequest{}))
		wantCode(t, what, err, codes.InvalidArgument)
	}
	_, err := client.FetchJWTSVID(good, &workload.JWTSVIDRequest{Audience: []string{"a"}})
	wantCode(t, "JWT-SVID", err, codes.Unimplemented)
	_, err = receive(client.FetchJWTBundles(good, &workload.JWTBundlesRequest{}))
	wantCode(t, "JWT bundles", err, codes.Unimplemented)

	n.denied.Store(true)
	_, err = receive(client.FetchX509SVID(good, &workload.X509SVIDRequest{}))
	wantCode(t, "no rule", err, codes.PermissionDenied)
	_, err = receive(client.FetchX509Bundles(good, &workload.X509BundlesRequest{}))
	wantCode(t, "no rule", err, codes.PermissionDenied)
	n.denied.Store(false)

	n.set(nil, errNone)
	_, err = receive(client.FetchX509SVID(good, &workload.X509SVIDRequest{}))
	wantCode(t, "no certificate", err, codes.Unavailable)
}

// Who loses his rule loses his stream.
func TestRuleIsTaken(t *testing.T) {
	i := newIssuer(t)
	n := newNode(t, i.svid())
	stream, err := workload.NewSpiffeWorkloadAPIClient(n.dial()).FetchX509SVID(withHeader(t.Context(), "true"), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	n.denied.Store(true)
	n.set(i.svid(), nil)
	m, err := stream.Recv()
	if wantCode(t, "without a rule", err, codes.PermissionDenied); m != nil {
		t.Error("it got the next certificate")
	}
}

// A list that no message has room for is left out; the certificate is not.
func TestLongList(t *testing.T) {
	i := newIssuer(t)
	x := i.svid()
	x.CRL = make([]byte, MaxCRL)
	n := newNode(t, x)
	client := workload.NewSpiffeWorkloadAPIClient(n.dial())
	m, err := receive(client.FetchX509SVID(withHeader(t.Context(), "true"), &workload.X509SVIDRequest{}))
	if err != nil || len(m.Crl) != 1 {
		t.Errorf("the longest list: %v", err)
	}
	longer := *x
	longer.CRL = make([]byte, MaxCRL+1)
	n.set(&longer, nil)
	m, err = receive(client.FetchX509SVID(withHeader(t.Context(), "true"), &workload.X509SVIDRequest{}))
	if err != nil || len(m.Crl) != 0 || len(m.Svids) != 1 {
		t.Errorf("a longer list: %v", err)
	}
}

// The end of the agent ends streams, and does not wait for whoever has them.
func TestStop(t *testing.T) {
	n := newNode(t, newIssuer(t).svid())
	stream, err := workload.NewSpiffeWorkloadAPIClient(n.dial()).FetchX509SVID(withHeader(t.Context(), "true"), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	n.stop()
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on")
	}
}
