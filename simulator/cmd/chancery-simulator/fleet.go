package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/simulator/load"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm"
)

// fleetFlags are the flags of fleet that are not options of the run as they
// are.
type fleetFlags struct {
	load.Options
	maker, pin, tokenFile, ek string
	allowErrors               bool
}

func fleetCommand(out *cli.Output) *cobra.Command {
	var f fleetFlags
	c := &cobra.Command{
		Use:   "fleet",
		Short: "enrol a fleet of nodes on paper TPMs, measure, and check every certificate",
		Long: `Fleet enrols nodes at a coordinator, many at a time, and says how fast that was.
Each node goes through the whole exchange over TLS, as an agent does, and every
certificate is verified. The coordinator has to believe in the chips' maker, and
the token has to be good for all of the nodes.`,
		Example: `  chancery token create --name 'load-*' --uses 1000 > token
  chancery-simulator fleet --maker maker --url https://localhost:8443 --token-file token --nodes 1000 --connections 16`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.complete(c); err != nil {
				return err
			}
			return f.run(c, *out)
		},
	}
	v := c.Flags()
	v.StringVar(&f.URL, "url", "", "the coordinator's address (required)")
	v.StringVar(&f.tokenFile, "token-file", os.Getenv("CHANCERY_TOKEN_FILE"), `file with the join token, "-" for standard input (CHANCERY_TOKEN_FILE)`)
	v.StringVar(&f.pin, "pin", "", "pin of the fleet, to hold the token against, which has it too")
	v.StringVar(&f.maker, "maker", "", "directory of the chips' maker (required)")
	v.IntVar(&f.Nodes, "nodes", 100, "how many nodes enrol")
	v.IntVar(&f.Connections, "connections", 16, "how many of them at a time, each on a connection")
	v.IntVar(&f.PerConnection, "per-connection", 1, "how many enrolments a connection serves, one after the other")
	v.StringVar(&f.ek, "ek", "p256", "kind of the chips' endorsement keys: p256, p384 or rsa")
	v.BoolVar(&f.Sealed, "sealed", false, "seal the nodes' keys to their boot state")
	v.StringVar(&f.Name, "name", load.DefaultName, "pattern of the nodes' names; they count from 1")
	v.IntSliceVar(&f.Quote, "quote", tpm.DefaultPCRs, "PCRs that nodes quote, beside those that the coordinator asks for")
	v.IntVar(&f.Renewals, "renewals", 0, "how often each node renews when all have enrolled")
	v.BoolVar(&f.Lazy, "lazy", false, "make each chip when its node enrols: less memory, and time that counts")
	v.BoolVar(&f.NoCRL, "no-crl", false, "nodes do not fetch the CRL after their certificate")
	v.DurationVar(&f.Retry, "retry", 0, "how long a node tries again while the coordinator is away or asks it to come again")
	v.IntVar(&f.Coordinator, "coordinator-pid", 0, "process id of the coordinator on this machine, to tell its CPU time too")
	v.BoolVar(&f.allowErrors, "allow-errors", false, "exit with 0 even if nodes failed to enrol")
	c.MarkFlagRequired("url")
	c.MarkFlagRequired("maker")
	return c
}

// kinds are the values of --ek.
var kinds = map[string]papertpm.Kind{"p256": papertpm.P256, "p384": papertpm.P384, "rsa": papertpm.RSA2048}

// complete holds the flags against each other and reads what they name.
func (f *fleetFlags) complete(c *cobra.Command) (err error) {
	if !coordinator.ValidURL(f.URL) {
		err := &coordinator.URLError{URL: f.URL}
		return cli.Usage(err.Hint(), "%w", err)
	}
	var ok bool
	if f.EK, ok = kinds[f.ek]; !ok {
		return cli.Usage("p256, p384 or rsa", "there is no kind %q of endorsement key", f.ek)
	}
	if f.tokenFile == "" {
		return cli.Usage("make a token with: chancery token create --name 'load-*' --uses N, and name its file with --token-file", "no join token")
	}
	if f.Token, err = readToken(c.InOrStdin(), f.tokenFile); err != nil {
		return cli.Usage("a token is one line that chancery token create printed", "%w", err)
	}
	if f.pin != "" {
		fleet, err := chancery.ParsePin(f.pin)
		if err != nil {
			return cli.Usage("chancery pointer show prints the pin", "%w", err)
		}
		if f.Token.Fleet != fleet {
			return cli.Usage("one of the two is of another fleet; do not guess, ask who gave them to you", "--pin is %s, but the token is for %s", fleet.Pin(), f.Token.Fleet.Pin())
		}
	}
	f.Maker, err = papertpm.LoadMaker(f.maker)
	if errors.Is(err, papertpm.ErrNoMaker) {
		return cli.Usage("make one with chancery-simulator maker --dir "+f.maker+", and a coordinator with chancery init --simulator-roots "+papertpm.RootsFile(f.maker), "%w", err)
	}
	return err
}

// maxToken is far above a token's length.
const maxToken = 4 << 10

// readToken reads a token. Errors do not repeat it.
func readToken(stdin io.Reader, name string) (chancery.Token, error) {
	in := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return chancery.Token{}, err
		}
		defer file.Close()
		in = file
	}
	b, err := io.ReadAll(io.LimitReader(in, maxToken))
	if err != nil {
		return chancery.Token{}, err
	}
	return chancery.ParseToken(strings.TrimSpace(string(b)))
}

func (f *fleetFlags) run(c *cobra.Command, out cli.Output) error {
	show := newProgress(c.ErrOrStderr())
	f.Progress = show.report
	r, err := load.Run(c.Context(), f.Options)
	show.End()
	switch {
	case errors.Is(err, load.ErrOptions):
		return cli.Usage("see "+c.CommandPath()+" --help", "%w", err)
	case errors.Is(err, chancery.ErrNotOurCoordinator):
		return cli.Failure("whoever answered cannot prove to be the coordinator of the pinned fleet; check the address and who is on the way there", "%w", err)
	case r == nil:
		return err
	}
	if err := out.Print(r, r.Text); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("interrupted after %s: %w", time.Since(r.Started).Round(time.Second), err)
	}
	if failed := r.Failed(); failed > 0 && !f.allowErrors {
		first := r.Failures[0]
		return cli.Failure(first.Hint, "%d failures, %d of them %s: %s", failed, first.Count, first.Code, first.First)
	}
	return nil
}
