package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/coordinator"
	"github.com/chancery-pki/chancery/agent/join"
	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/tpm"
)

// joinFlags are the flags of join as they were given.
type joinFlags struct {
	pin, token, tokenFile, name, device, eventLog string
	pinFile                                       string // of N:SK
	unsealed, wait                                bool
	pcrs                                          []int
}

func joinCommand(f *flags) *cobra.Command {
	var j joinFlags
	c := &cobra.Command{
		Use:   "join URL",
		Short: "enrol this machine with the coordinator at a URL",
		Long: `Join makes a key in this machine's TPM and has the fleet's coordinator certify it.

Who the coordinator is decides the pin, which the join token carries. Without a
token give the pin itself. A join that was interrupted goes on with the next one.`,
		Example: `  chancery-agent join https://coordinator:8443 --token-file token
  chancery-agent join https://coordinator:8443 --token-file - --name edge-1 < token`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := j.options(c)
			if err != nil {
				return err
			}
			if o.URL = args[0]; !coordinator.ValidURL(o.URL) {
				err := &coordinator.URLError{URL: o.URL}
				return cli.Usage(err.Hint(), "%w", err)
			}
			return runJoin(c, f, o)
		},
	}
	v := c.Flags()
	v.StringVar(&j.pin, "pin", "", "pin of the fleet; the token has it too")
	v.StringVar(&j.token, "token", "", "join token; others on this machine can read it, prefer --token-file")
	v.StringVar(&j.tokenFile, "token-file", os.Getenv("CHANCERY_TOKEN_FILE"), `file with the join token, "-" for standard input (CHANCERY_TOKEN_FILE)`)
	v.StringVar(&j.name, "name", "", "name of the node (default: the host's name)")
	v.StringVar(&j.device, "tpm", orDefault(os.Getenv("CHANCERY_TPM"), "/dev/tpmrm0"), "TPM device, or swtpm:/path/to/socket (CHANCERY_TPM)")
	v.BoolVar(&j.unsealed, "unsealed", false, "do not seal the key to the machine's boot state")
	v.StringVar(&j.pinFile, "key-pin-file", "", "file with a PIN that the key will ask for, instead of being sealed")
	v.StringVar(&j.eventLog, "event-log", "", "file with the boot's event log, for coordinators that ask for it (default: "+join.DefaultEventLog+")")
	v.IntSliceVar(&j.pcrs, "pcrs", tpm.DefaultPCRs, "PCRs to seal the key to")
	v.BoolVar(&j.wait, "wait", true, "wait if an operator has to approve the node")
	return c
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// options holds the flags against each other.
func (j *joinFlags) options(c *cobra.Command) (join.Options, error) {
	o := join.Options{Name: j.name, Device: j.device, Unsealed: j.unsealed, PCRs: slices.Sorted(slices.Values(j.pcrs)), EventLog: j.eventLog, Wait: j.wait, Now: time.Now}
	if err := j.keyPIN(&o); err != nil {
		return join.Options{}, err
	}
	fail := func(hint, format string, args ...any) (join.Options, error) {
		return join.Options{}, cli.Usage(hint, format, args...)
	}
	if v := c.Flags(); v.Changed("token") && v.Changed("token-file") {
		return fail("give the file only", "--token and --token-file are both given")
	}
	token, err := j.readToken(c)
	if err != nil {
		return fail("a token is one line that chancery token create printed", "%w", err)
	}
	if token != nil {
		o.Token, o.Fleet = token, token.Fleet
	}
	if j.pin != "" {
		fleet, err := chancery.ParsePin(j.pin)
		if err != nil {
			return fail("chancery pointer show prints the pin", "%w", err)
		}
		if token != nil && token.Fleet != fleet {
			return fail("one of the two is of another fleet; do not guess, ask who gave them to you", "--pin is %s, but the token is for %s", fleet.Pin(), token.Fleet.Pin())
		}
		o.Fleet = fleet
	}
	if o.Fleet == (chancery.FleetID{}) {
		return fail("give --token-file, which has the pin in it, or --pin", "neither a join token nor a pin: nothing says which fleet to join")
	}
	if o.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return join.Options{}, err
		}
		o.Name = strings.ToLower(host)
	}
	if err := chancery.ValidateName(o.Name); err != nil {
		return fail("choose a name with --name: 1 to 63 of a-z, 0-9, - and .", "%w", err)
	}
	for i, pcr := range o.PCRs {
		if pcr < 0 || pcr > 23 || pcr == 16 || pcr == 23 || i > 0 && pcr == o.PCRs[i-1] {
			return fail("name each of 0 to 22 but 16 once; 7 holds the Secure Boot policy", "--pcrs %v cannot seal a key", j.pcrs)
		}
	}
	if len(o.PCRs) == 0 {
		return fail("to leave the key unsealed, say --unsealed", "--pcrs is empty")
	}
	return o, nil
}

// keyPIN sets the PIN file and looks into it before anything is asked of chip
// and coordinator. The agent reads the file at each start.
func (j *joinFlags) keyPIN(o *join.Options) (err error) {
	if j.pinFile == "" {
		return nil
	}
	if o.PINFile, err = filepath.Abs(j.pinFile); err == nil {
		_, err = state.ReadPIN(o.PINFile)
	}
	if err != nil {
		return cli.Usage(fmt.Sprintf("a PIN is one line of %d to %d bytes", tpm.MinPIN, tpm.MaxPIN), "--key-pin-file: %w", err)
	}
	return nil
}

// maxToken is far above a token's length.
const maxToken = 4 << 10

// readToken returns the token, or nil if there is none. Errors do not repeat
// it.
func (j *joinFlags) readToken(c *cobra.Command) (*chancery.Token, error) {
	text := j.token
	switch {
	case text != "":
		fmt.Fprintln(c.ErrOrStderr(), "warning: a token on the command line can be read by every user of this machine; use --token-file")
	case j.tokenFile == "":
		return nil, nil
	default:
		in := c.InOrStdin()
		if j.tokenFile != "-" {
			file, err := os.Open(j.tokenFile)
			if err != nil {
				return nil, err
			}
			defer file.Close()
			in = file
		}
		b, err := io.ReadAll(io.LimitReader(in, maxToken))
		if err != nil {
			return nil, err
		}
		text = string(b)
	}
	token, err := chancery.ParseToken(strings.TrimSpace(text))
	if err != nil {
		return nil, err
	}
	return &token, nil
}

// progress prints the steps of an enrolment, for people, and what is waited for.
func (f *flags) progress(c *cobra.Command) (step func(join.Step), notice func(string)) {
	step = func(join.Step) {}
	if f.output == cli.Text {
		step = func(s join.Step) { fmt.Printf("%-8s %8.1f ms  %s\n", s.Symbol, s.MS, s.What) }
	}
	return step, func(text string) { fmt.Fprintln(c.ErrOrStderr(), text) }
}

func runJoin(c *cobra.Command, f *flags, o join.Options) error {
	// A node that is enrolled may have a running agent, which has the lock.
	if dir, err := f.look(); err == nil {
		defer dir.Close()
		if r, err := join.Present(dir, o.Fleet); r != nil || err != nil {
			if err != nil {
				return err
			}
			return f.output.Print(r, r.Text)
		}
	} else if !errors.Is(err, state.ErrNotEnrolled) {
		return err
	}
	dir, err := state.Open(f.state)
	if err != nil {
		return err
	}
	defer dir.Close()
	o.Step, o.Notice = f.progress(c)
	r, err := join.Join(c.Context(), dir, o)
	if err != nil {
		return err
	}
	if err := f.output.Print(r, r.Text); err != nil {
		return err
	}
	if r.Status == join.Pending {
		return &cli.Error{Code: cli.ExitDegraded, Err: errors.New("not enrolled yet"), Tip: "an operator runs chancery node approve " + r.Node + "; then join again"}
	}
	return nil
}
