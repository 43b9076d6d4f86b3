package spiffe

import (
	"context"
	"slices"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// securityHeader is in every request to the Workload API, so that whoever can
// only have somebody else fetch a URL gets nothing (SPIFFE_Workload_Endpoint.md
// section 6).
const securityHeader = "workload.spiffe.io"

// workloadAPI is the SPIFFE Workload API.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	Config
}

func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return w.stream(stream.Context(), "FetchX509SVID", func(x *SVID) error {
		return stream.Send(&workload.X509SVIDResponse{
			Svids: []*workload.X509SVID{{SpiffeId: x.ID, X509Svid: x.Certificate, X509SvidKey: x.Key, Bundle: x.Bundle}},
			Crl:   w.lists(x),
		})
	})
}

func (w *workloadAPI) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return w.stream(stream.Context(), "FetchX509Bundles", func(x *SVID) error {
		return stream.Send(&workload.X509BundlesResponse{Bundles: map[string][]byte{x.TrustDomain: x.Bundle}, Crl: w.lists(x)})
	})
}

func (w *workloadAPI) stream(ctx context.Context, method string, send func(*SVID) error) error {
	if !slices.Equal(metadata.ValueFromIncomingContext(ctx, securityHeader), []string{"true"}) {
		return status.Errorf(codes.InvalidArgument, "the header %s: true is missing", securityHeader)
	}
	return w.follow(ctx, method, send)
}

// lists is the CRL, if it is not too long.
func (w *workloadAPI) lists(x *SVID) [][]byte {
	if len(x.CRL) > MaxCRL {
		w.Logger.Warn("the X.509 CRL is too long for programs of the Workload API", "bytes", len(x.CRL), "most", MaxCRL)
		return nil
	}
	return [][]byte{x.CRL}
}
