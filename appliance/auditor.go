package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/logs"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/internal/durable"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

// An auditor reads the logs of a coordinator and believes nothing but the
// pointer record that its pin leads to.
type auditor struct {
	pin       string
	witnesses []string // verifier keys
	quorum    int
	audit     bool // the audit log, not the issuance log

	pointer *chancery.Pointer
	client  *http.Client
	base    string // URL
}

// flags are those of commands that read a log; whether it is the audit log the
// command says.
func (d *auditor) flags(c *cobra.Command) {
	c.Flags().StringVar(&d.pin, "pin", "", "pin of the fleet, for a coordinator on another machine")
	c.Flags().StringArrayVar(&d.witnesses, "witness", nil, "verifier key of a witness, as chancery witness show prints it; again for each")
	c.Flags().IntVar(&d.quorum, "quorum", 0, "how many of the witnesses must have cosigned a checkpoint (default: all)")
}

// open finds the coordinator: the one that runs in the data directory, or one
// at a URL, for which the pin is needed. stored is the pointer record of the
// last time, nil for none.
func (d *auditor) open(ctx context.Context, a *app, args []string, stored *chancery.Pointer) (err error) {
	if len(args) == 0 {
		if d.pin != "" {
			return cli.Usage("name the coordinator's URL too", "--pin is for a coordinator on another machine")
		}
		d.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", a.data.socket())
			if err != nil {
				return nil, a.data.unreachable(err)
			}
			return conn, nil
		}}}
		d.base = "http://chancery"
		if d.pointer, err = a.loadPointer(); err != nil {
			return err
		}
		return chancery.AcceptPointer(d.pointer.FleetID(), stored, d.pointer, time.Now())
	}
	base, err := url.Parse(args[0])
	if err != nil || base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.User != nil {
		return cli.Usage("it has the form https://HOST:PORT", "%q is not the address of a coordinator", args[0])
	}
	var pin chancery.FleetID
	switch {
	case d.pin != "":
		if pin, err = chancery.ParsePin(d.pin); err != nil {
			return cli.Usage("chancery pointer show prints the pin", "%w", err)
		}
	case stored != nil:
		pin = stored.FleetID()
	default:
		return cli.Usage("give --pin, which chancery pointer show prints", "nothing says whose logs to believe")
	}
	d.base = base.String()
	received, err := fetchPointer(ctx, base)
	if err != nil {
		return err
	}
	if err := chancery.AcceptPointer(pin, stored, received, time.Now()); err != nil {
		return cli.WithCode(cli.ExitRefused, fmt.Errorf("the pointer record of %s: %w", d.base, err))
	}
	d.pointer = received
	for _, ep := range received.Endpoints {
		if ep.URL == d.base || len(received.Endpoints) == 1 {
			d.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: chancery.PinnedConfig(ep, nil)}}
			return nil
		}
	}
	return cli.Usage("use an address that chancery pointer show prints", "the pointer record has no endpoint %s", d.base)
}

// fetchPointer fetches a pointer record, which proves itself: TLS is only
// transport here.
func fetchPointer(ctx context.Context, base *url.URL) (*chancery.Pointer, error) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}, DisableKeepAlives: true}
	client := &http.Client{Timeout: time.Minute, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("/.well-known/chancery/pointer").String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("pointer record of %s: %w", base, err)
	}
	return chancery.ParsePointer(b)
}

// log is the log that the command is about.
func (d *auditor) log() (logs.Log, error) {
	k := d.pointer.Current()
	if d.audit {
		return logs.Audit(d.pointer.FleetID(), k)
	}
	return logs.Issuance(k, k.Log())
}

// source returns the log, who of its signers counts, and where it is read.
func (d *auditor) source() (l logs.Log, p *tlog.Policy, r *tlog.HTTP, err error) {
	if l, err = d.log(); err != nil {
		return l, nil, nil, err
	}
	keys := make([]*tlog.Key, len(d.witnesses))
	for i, vkey := range d.witnesses {
		if keys[i], err = tlog.ParseKey(vkey); err != nil {
			return l, nil, nil, cli.Usage("chancery witness show prints it", "--witness: %w", err)
		}
	}
	quorum := d.quorum
	if quorum == 0 {
		quorum = len(keys)
	}
	if p, err = tlog.NewPolicy(l.Origin, []*tlog.Key{l.Key}, keys, quorum); err != nil {
		return l, nil, nil, cli.Usage("", "%w", err)
	}
	r, err = tlog.NewHTTP(d.base+l.Path, d.client)
	return l, p, r, err
}

// An auditDir is what an auditor keeps between two looks: the pointer record,
// the newest checkpoint of each log, and how far it has told of them.
type auditDir string

func (d auditDir) file(name string) string { return filepath.Join(string(d), name) }

// read returns a file, nil if there is none.
func (d auditDir) read(name string) ([]byte, error) {
	b, err := os.ReadFile(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (d auditDir) pointer() (*chancery.Pointer, error) {
	b, err := d.read("pointer")
	if err != nil || b == nil {
		return nil, err
	}
	p, err := chancery.ParsePointer(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.file("pointer"), err)
	}
	return p, nil
}

func (d auditDir) write(name string, b []byte) error { return durable.WriteFile(d.file(name), b) }
