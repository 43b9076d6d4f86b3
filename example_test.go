package chancery_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/chancery-pki/chancery"
)

// A fleet's files, as the test vectors have them: what an agent keeps on its
// disk, except that its keys would be in a TPM.
type files struct {
	Now     int64
	Keys    map[string]string
	Outputs map[string]string
}

func readFiles() (f files) {
	b, err := os.ReadFile("testdata/vectors/v1.json")
	if err != nil {
		log.Fatal(err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		log.Fatal(err)
	}
	return f
}

func (f files) now() time.Time { return time.Unix(f.Now, 0) }

func (f files) read(name string) []byte {
	b, err := hex.DecodeString(f.Outputs[name])
	if err != nil || len(b) == 0 {
		log.Fatalf("no %s", name)
	}
	return b
}

func (f files) key(name string) *ecdsa.PrivateKey {
	b, err := hex.DecodeString(f.Keys[name])
	if err != nil {
		log.Fatal(err)
	}
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b)
	if err != nil {
		log.Fatal(err)
	}
	return k
}

// verifier begins with nothing but the pin.
func (f files) verifier() *chancery.Verifier {
	fleet, err := chancery.ParsePin(f.Outputs["pin"])
	if err != nil {
		log.Fatal(err)
	}
	pointer, err := chancery.ParsePointer(f.read("pointer record 1"))
	if err != nil {
		log.Fatal(err)
	}
	if err := chancery.AcceptPointer(fleet, nil, pointer, f.now()); err != nil {
		log.Fatal(err)
	}
	v := chancery.NewVerifier(chancery.Trust{Pointer: pointer})
	if _, err := v.UpdateCRL(f.read("CRL 2"), f.now()); err != nil {
		log.Fatal(err)
	}
	return v
}

// Judging a peer by the certificates that it presents: with CA:PK and a fresh
// CRL no coordinator is needed.
func ExampleVerifier() {
	f := readFiles()
	v := f.verifier()
	certs := [][]byte{f.read("session certificate of edge-1"), f.read("N:C of edge-1, a batch of one")}
	policy := chancery.Policy{Roles: []string{"storage"}, MinAssurance: chancery.AssuranceEK}

	peer, err := v.Verify(certs, "edge-1", chancery.NodeID{}, policy, f.now())
	fmt.Println(peer.Name, peer.Certificate.Serial, peer.Certificate.Assurance.Level, err)

	// Then the node is revoked.
	if _, err := v.UpdateCRL(f.read("CRL delta 2 to 3"), f.now()); err != nil {
		log.Fatal(err)
	}
	_, err = v.Verify(certs, "edge-1", chancery.NodeID{}, policy, f.now())
	fmt.Println(err)

	// Output:
	// edge-1 1:0 quote-matched <nil>
	// edge-1 refused by the crl check: certificate is revoked: 1:0 is in CRL number 3
}

// Two nodes and a connection between them. edge-1 listens under a session
// key; edge-2 has its TPM sign in the handshake itself.
func ExampleServerConfig() {
	f := readFiles()
	options := func(session []byte, nc, key string) chancery.TLSOptions {
		c, err := chancery.ParseCertificate(f.read(nc))
		if err != nil {
			log.Fatal(err)
		}
		v := f.verifier()
		return chancery.TLSOptions{
			Verifier: v,
			Identity: func() (*chancery.Identity, error) {
				return &chancery.Identity{Session: session, NC: c, Key: f.key(key)}, nil
			},
			Now:  f.now,
			Self: c.NodeID(v.Fleet()),
		}
	}
	one := options(f.read("session certificate of edge-1"), "N:C of edge-1, a batch of one", "session edge-1")
	two := options(nil, "N:C of edge-2, out of a batch of two", "N:SK edge-2")

	l, err := tls.Listen("tcp", "127.0.0.1:0", chancery.ServerConfig(one))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := tls.Dial("tcp", l.Addr().String(), chancery.ClientConfig(two, "edge-1"))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprint(c, "hello")
		c.Close()
	}()

	conn, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	peer, err := one.VerifyConnection(conn.(*tls.Conn).ConnectionState(), "")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s says %s\n", peer.Name, text)

	// Output:
	// edge-2 says hello
}

// The pin is what people compare and type.
func ExampleFleetID_Pin() {
	fleet, err := chancery.ParsePin("chpin1-aaaa")
	fmt.Println(fleet == chancery.FleetID{}, err)
	pin := readFiles().Outputs["pin"]
	fleet, err = chancery.ParsePin(pin)
	fmt.Println(fleet.Pin() == pin, err)

	// Output:
	// true pin: malformed: 4 characters after "chpin1-", want 58 of a-z and 2-7
	// true <nil>
}
