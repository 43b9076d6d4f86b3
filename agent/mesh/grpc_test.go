package mesh_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// nodeOf says which node makes a call, judged now: the connection may be older
// than its revocation.
func nodeOf(ctx context.Context, node *mesh.Node) (*chancery.Peer, error) {
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "not over TLS")
	}
	who, err := node.VerifyConnection(info.State, "")
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, "not for you")
	}
	return who, nil
}

// A gRPC server whose callers are nodes.
func ExampleNode_ServerConfig_gRPC() {
	node, err := mesh.Connect(context.Background(), "", mesh.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(node.ServerConfig("h2"))),
		grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			who, err := nodeOf(ctx, node)
			if err != nil {
				return nil, err
			}
			fmt.Println(who.Name, "calls")
			return handle(ctx, request)
		}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	l, err := net.Listen("tcp", ":9443")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Serve(l))
}

// And its client.
func ExampleNode_ClientConfig() {
	ctx := context.Background()
	node, err := mesh.Connect(ctx, "", mesh.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	conn, err := grpc.NewClient("10.0.0.7:9443", grpc.WithTransportCredentials(credentials.NewTLS(node.ClientConfig("db-1", "h2"))))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}))
}

// gRPC over the TLS configurations: calls have a caller, another node does not
// pass for the one that was dialled, and a revocation ends the calls of a
// connection that is there.
func TestGRPC(t *testing.T) {
	w := newWorld(t, fleet.Options{})
	a, b := w.agent("web-1"), w.agent("db-1")
	client, server := a.connect(), b.connect()
	callers := make(chan string, 10)
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(server.ServerConfig("h2"))),
		grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			who, err := nodeOf(ctx, server)
			if err != nil {
				return nil, err
			}
			callers <- who.Name
			return handle(ctx, request)
		}))
	healthpb.RegisterHealthServer(g, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	defer func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	dial := func(name string) healthpb.HealthClient {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(client.ClientConfig(name, "h2"))))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return healthpb.NewHealthClient(conn)
	}
	good := dial("db-1")
	if _, err := good.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if name := <-callers; name != "web-1" {
		t.Errorf("the caller is %s", name)
	}
	if _, err := dial("db-2").Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("db-1 passes for db-2: %v", err)
	}
	list, err := w.Revoke(a.paper)
	if err != nil {
		t.Fatal(err)
	}
	b.update(list)
	for { // the program hears of it a moment later
		if _, err := good.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) == codes.Unauthenticated {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		<-callers
	}
}
