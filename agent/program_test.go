package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/chancery-pki/chancery/agent/mesh"
)

// program is a program that uses the node's identity, for scripts:
//
//	program SOCKET serve ADDRESS      says to each peer whom it sees
//	program SOCKET ask ADDRESS NAME   prints what NAME says, to the end
//	program SOCKET svid               prints whom SPIFFE's Workload API says it is
//
// It has no flags, no files and no chip.
func program(args []string) error {
	ctx := context.Background()
	if args[1] == "svid" {
		svid, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr("unix://"+args[0]))
		if err == nil {
			fmt.Printf("you are %s, serial %s\n", svid.ID, svid.Certificates[0].SerialNumber)
		}
		return err
	}
	node, err := mesh.Connect(ctx, args[0], mesh.Config{})
	if err != nil {
		return err
	}
	defer node.Close()
	if args[1] == "ask" {
		s, err := node.Dial(ctx, "tcp", args[2], args[3])
		if err != nil {
			return err
		}
		defer s.Close()
		fmt.Printf("%s says: ", s.Peer().Name)
		_, err = io.Copy(os.Stdout, s)
		return err
	}
	l, err := node.Listen("tcp", args[2])
	if err != nil {
		return err
	}
	for {
		s, err := l.AcceptSession()
		if err != nil {
			return err
		}
		go func(c net.Conn) {
			fmt.Fprintf(c, "you are %s, serial %s\n", s.Peer().Name, s.Peer().Certificate.Serial)
			if args[1] == "hold" {
				io.Copy(io.Discard, c)
			}
			c.Close()
		}(s)
	}
}

func programMain() {
	if err := program(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
