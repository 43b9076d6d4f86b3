package mesh_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/chancery-pki/chancery/agent/mesh"
)

// A program that serves HTTP to its peers, and knows who each of them is. It
// needs an agent that runs and has a rule for it.
func ExampleConnect() {
	ctx := context.Background()
	node, err := mesh.Connect(ctx, "/run/chancery/programs.sock", mesh.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	listener, err := node.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{
		ConnContext: mesh.ConnContext,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, ok := mesh.PeerFromContext(r.Context())
			if !ok || !peer.Certificate.HasRole("web") {
				http.Error(w, "not for you", http.StatusForbidden)
				return
			}
			fmt.Fprintf(w, "hello %s\n", peer.Name)
		}),
	}
	log.Fatal(server.Serve(listener))
}

// The same from the other end: the host of the URL is a node's name.
func ExampleNode_Transport() {
	ctx := context.Background()
	node, err := mesh.Connect(ctx, "", mesh.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	addresses := map[string]string{"db-1": "10.0.0.7:8080"}
	client := &http.Client{Transport: node.Transport(func(_ context.Context, name string) (string, error) { return addresses[name], nil })}
	resp, err := client.Get("https://db-1/status")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	fmt.Println(string(b), err)
}

// A server that does TLS itself, HTTP/2 and gRPC among them: a certificate of
// the node, and peers that are of the fleet. It has to see for itself that
// connections do not live for ever.
func ExampleNode_ServerConfig() {
	node, err := mesh.Connect(context.Background(), "", mesh.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	server := &http.Server{
		Addr:        ":8443",
		TLSConfig:   node.ServerConfig("h2", "http/1.1"),
		IdleTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// Judged again with each request: the connection may be older than
			// the revocation.
			peer, err := node.VerifyConnection(*r.TLS, "")
			if err != nil {
				w.Header().Set("Connection", "close")
				http.Error(w, "not for you", http.StatusForbidden)
				return
			}
			fmt.Fprintf(w, "hello %s\n", peer.Name)
		}),
	}
	log.Fatal(server.ListenAndServeTLS("", ""))
}
