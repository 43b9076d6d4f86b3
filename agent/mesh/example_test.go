package mesh_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/simulator/fleet"
)

// Two nodes talk; then one of them is revoked.
func Example() {
	// A fleet on paper stands for the coordinator, and for the two agents that
	// hold identity, pointer record and CRL.
	paper, err := fleet.New(fleet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	nodes, err := paper.Enroll(fleet.Request{Name: "edge-1"}, fleet.Request{Name: "edge-2"})
	if err != nil {
		log.Fatal(err)
	}
	var meshes [2]*mesh.Node
	var verifiers [2]*chancery.Verifier
	for i, n := range nodes {
		verifiers[i] = chancery.NewVerifier(paper.Trust())
		meshes[i], err = mesh.New(mesh.Config{Verifier: verifiers[i], Identity: n.Identity, Self: n.ID})
		if err != nil {
			log.Fatal(err)
		}
		defer meshes[i].Close()
	}

	listener, err := meshes[1].Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	session, err := meshes[0].Dial(context.Background(), "tcp", listener.Addr().String(), "edge-2")
	if err != nil {
		log.Fatal(err)
	}
	io.WriteString(session, "hello")

	accepted, err := listener.AcceptSession()
	if err != nil {
		log.Fatal(err)
	}
	word := make([]byte, 5)
	io.ReadFull(accepted, word)
	fmt.Printf("%s says %s\n", accepted.Peer().Name, word)

	list, err := paper.Revoke(nodes[0])
	if err != nil {
		log.Fatal(err)
	}
	if _, err := verifiers[1].UpdateCRL(list, accepted.Opened()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("sessions cut:", meshes[1].Recheck())
	<-accepted.Done()
	fmt.Println(accepted.Err())
	// Output:
	// edge-1 says hello
	// sessions cut: 1
	// edge-1 refused by the crl check: certificate is revoked: 1:1 is in CRL number 2
}
