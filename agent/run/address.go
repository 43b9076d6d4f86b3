package run

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/state"
)

// announceEvery is how often the coordinator is told where this node is: it
// may have forgotten, and the node may have moved.
const announceEvery = time.Hour

// keepAddress tells the coordinator where this node listens, for peers that
// know its name only.
func (a *agent) keepAddress(ctx context.Context) {
	select {
	case <-a.ready:
	case <-ctx.Done():
		return
	}
	failed := pause{longest: 10 * time.Minute}
	for ctx.Err() == nil {
		wait := announceEvery
		if err := a.announce(ctx); err != nil {
			a.fail(topicAddress, err)
			wait = failed.next()
		} else {
			a.succeed(topicAddress)
			failed.reset()
		}
		sleep(ctx, wait)
	}
}

func (a *agent) announce(ctx context.Context) error {
	conn, err := coordinator.Dial(ctx, a.pointer(), a.present)
	if err != nil {
		return err
	}
	defer conn.Close()
	address := a.config.Advertise
	if address == "" {
		host, port, err := net.SplitHostPort(a.listener.Addr().String())
		if err != nil {
			return err
		}
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			host = conn.LocalIP()
		}
		address = net.JoinHostPort(host, port)
	}
	return conn.Announce(ctx, address)
}

// resolve returns where a peer can be dialled: what the configuration says;
// what the coordinator heard last, or if it is away, what it said last; or
// what DNS says of the name that the coordinator certifies. A wrong address
// costs a failed dial and nothing else; who answers is judged by name.
func (a *agent) resolve(ctx context.Context, name string) (string, error) {
	if address := a.configured(name); address != "" {
		return address, nil
	}
	address, err := a.askAddress(ctx, name)
	if err == nil {
		return address, a.dir.SaveAddress(name, address)
	}
	if address = a.dir.Address(name); address != "" {
		return address, nil
	}
	if found := lookup(ctx, net.DefaultResolver, a.nc.Load(), name); found != "" {
		return found, nil
	}
	return "", fmt.Errorf("the address of %s: %w", name, err)
}

// configured returns where the configuration says that a peer is, if it does.
func (a *agent) configured(name string) string {
	if all := a.addresses.Load(); all != nil {
		return (*all)[name]
	}
	return ""
}

// lookup asks DNS for a peer under the suffix that this node's own certificate
// has, if it has one.
func lookup(ctx context.Context, dns *net.Resolver, own *chancery.Certificate, name string) string {
	for _, dnsName := range own.DNSNames {
		suffix, ok := strings.CutPrefix(dnsName, own.Name+".")
		if !ok {
			continue
		}
		// The dot at the end: no search list may make another name of it.
		if hosts, err := dns.LookupHost(ctx, name+"."+suffix+"."); err == nil {
			_, port, _ := net.SplitHostPort(state.DefaultListen)
			return net.JoinHostPort(hosts[0], port)
		}
	}
	return ""
}

func (a *agent) askAddress(ctx context.Context, name string) (string, error) {
	conn, err := coordinator.Dial(ctx, a.pointer(), a.present)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	answer, err := conn.Address(ctx, name)
	if err != nil {
		return "", err
	}
	_, _, err = net.SplitHostPort(answer.Address)
	return answer.Address, err
}
