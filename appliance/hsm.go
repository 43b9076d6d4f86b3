package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
)

func (a *app) hsmCommand() *cobra.Command {
	c := &cobra.Command{Use: "hsm", Short: "PKCS#11 tokens: how they are, how fast they are, PINs and backups"}
	c.AddCommand(a.hsmStatusCommand(), a.hsmKeysCommand(), a.unlatchCommand(), a.hsmBenchCommand(), a.splitCommand(), a.combineCommand(), a.backupCommand(), a.restoreCommand())
	return c
}

// An hsmStatus is what hsm status prints with -o json.
type hsmStatus struct {
	Running bool              `json:"running" doc:"whether a coordinator runs; without one nobody is logged in and the tokens are only looked at"`
	Tokens  []api.TokenStatus `json:"tokens"`
	Latched []hsm.LatchEntry  `json:"latched" doc:"tokens that refused a PIN and wait for hsm unlatch"`
}

func (a *app) hsmStatusCommand() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show each token", Long: `status shows each token of the running coordinator. If none runs it looks at the
tokens of the configuration, without logging in.`, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		config, err := a.data.loadConfig()
		if err != nil {
			return err
		}
		s := hsmStatus{Running: true, Latched: []hsm.LatchEntry{}}
		entries, err := a.data.latch().Entries()
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Latched() {
				s.Latched = append(s.Latched, e)
			}
		}
		if err := a.call(c.Context(), "GET", "/v1/hsm", nil, &s.Tokens); is[*notRunningError](err) {
			s.Running = false
			s.Tokens = lookAt(&config)
		} else if err != nil {
			return err
		}
		err = a.out.Print(s, func(w io.Writer) { printHSM(w, &s) })
		bad := 0
		for _, t := range s.Tokens {
			if t.State != string(hsm.Up) && t.State != tokenSeen {
				bad++
			}
		}
		if bad += len(s.Latched); err == nil && bad > 0 {
			return cli.WithCode(cli.ExitDegraded, fmt.Errorf("%d of %d tokens need attention", min(bad, len(s.Tokens)), len(s.Tokens)))
		}
		return err
	}}
}

// tokenSeen is the state of a token that is there, when nobody uses it.
const tokenSeen = "present"

// lookAt looks at the tokens without logging in.
func lookAt(config *Config) []api.TokenStatus {
	list := []api.TokenStatus{}
	for i := range config.HSM {
		h := &config.HSM[i]
		t := api.TokenStatus{URI: h.URI, State: tokenSeen, Since: time.Now(), Keys: []api.TokenKey{}}
		uri, err := parseToken(h.URI)
		if err == nil {
			err = h.within(func() error {
				info, err := hsm.Look(uri)
				t.Label, t.Serial, t.Manufacturer, t.Model = info.Label, info.Serial, info.Manufacturer, info.Model
				t.Hardware, t.Firmware, t.Library, t.Simulator = info.Hardware, info.Firmware, info.Library, info.Simulator
				return err
			})
		}
		if err != nil {
			t.State, t.Error, t.Hint = string(hsm.Down), err.Error(), cli.HintOf(err)
			if is[*hsm.PINError](err) {
				t.State = string(hsm.Latched)
			}
		}
		list = append(list, t)
	}
	return list
}

func printHSM(w io.Writer, s *hsmStatus) {
	if !s.Running {
		fmt.Fprintln(w, "no coordinator is running: the tokens are looked at, nobody logs in")
	}
	for _, t := range s.Tokens {
		fmt.Fprintf(w, "%s%s\n", cmp.Or(t.Label, t.URI), simulated(t.Simulator))
		fmt.Fprintf(w, "  state      %s since %s\n", t.State, stamp(t.Since))
		if t.Error != "" {
			fmt.Fprintf(w, "  error      %s\n", t.Error)
		}
		if t.Hint != "" {
			fmt.Fprintf(w, "  hint       %s\n", t.Hint)
		}
		if t.Label != "" {
			fmt.Fprintf(w, "  device     %s of %s, serial %s, hardware %s, firmware %s\n", t.Model, t.Manufacturer, t.Serial, t.Hardware, t.Firmware)
			fmt.Fprintf(w, "  library    %s\n", t.Library)
		}
		if !s.Running {
			continue
		}
		for _, k := range t.Keys {
			born := map[string]string{"yes": ", generated there", "no": ", brought there"}[k.Local]
			if k.Extractable == "yes" {
				born += ", WRAPPABLE"
			}
			fmt.Fprintf(w, "  key        %s: %s, %.23s%s\n", k.Name, k.Label, k.Key, born)
		}
		fmt.Fprintf(w, "  signer     process %d, %d sessions, %d requests in flight\n", t.Signer, t.Sessions, t.InFlight)
		fmt.Fprintf(w, "  signatures %d, each %.1f ms (median), %.1f ms (99 %%)\n", t.Signatures, t.MedianMS, t.P99MS)
		fmt.Fprintf(w, "  trouble    %d retries, %d wrong signatures, %d starts\n", t.Retries, t.Faults, t.Starts)
	}
	for _, e := range s.Latched {
		fmt.Fprintf(w, "latched: %v\n", &hsm.LatchedError{LatchEntry: e})
	}
}

// A tokenKeys is a token in what hsm keys prints with -o json.
type tokenKeys struct {
	Token  string        `json:"token"`
	Serial string        `json:"serial"`
	Keys   []hsm.KeyInfo `json:"keys"`
}

func (a *app) hsmKeysCommand() *cobra.Command {
	var uri string
	c := &cobra.Command{Use: "keys", Short: "List the keys on the tokens, with what they say of them", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		config, err := (&tokenChoice{uri: uri}).config(a.data)
		if err != nil {
			return err
		}
		list := []tokenKeys{}
		for i := range config.HSM {
			err := config.HSM[i].within(func() error {
				t, err := a.keysOn(config.HSM[i].URI)
				list = append(list, t)
				return err
			})
			if err != nil {
				return err
			}
		}
		return a.out.Print(list, func(w io.Writer) {
			table(w, "TOKEN\tLABEL\tID\tTYPE\tSENSITIVE\tALWAYS\tEXTRACTABLE\tNEVER\tLOCAL\tPROBLEM", func(row func(...any)) {
				for _, t := range list {
					for _, k := range t.Keys {
						row(t.Token, k.Label, fmt.Sprintf("%x", k.ID), k.Type, k.Sensitive, k.AlwaysSensitive, k.Extractable, k.NeverExtractable, k.Local, cmp.Or(k.Problem, "-"))
					}
				}
			})
		})
	}}
	c.Flags().StringVar(&uri, "hsm", "", "PKCS#11 URI of a token (default: all of the configuration)")
	return c
}

func (a *app) keysOn(text string) (t tokenKeys, err error) {
	uri, err := parseToken(text)
	if err != nil {
		return t, err
	}
	c, err := hsm.OpenCeremony(uri, hsm.Options{Latch: a.data.latch()})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	t = tokenKeys{Token: c.Info().Label, Serial: c.Info().Serial, Keys: []hsm.KeyInfo{}}
	keys, err := c.Inventory()
	t.Keys = append(t.Keys, keys...)
	return t, err
}

func (a *app) unlatchCommand() *cobra.Command {
	var finalTry, yes bool
	c := &cobra.Command{Use: "unlatch [TOKEN]", Short: "Allow one more login to a token that refused the PIN", Long: `A token that refused a PIN, or says that its next wrong one may be the last, is
not asked again until this command allows one more try. Correct the PIN file
first. A running coordinator takes it up within seconds.`, Args: cobra.MaximumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
		entries, err := a.data.latch().Entries()
		if err != nil {
			return err
		}
		var match []hsm.LatchEntry
		for _, e := range entries {
			if e.Latched() && (len(args) == 0 || args[0] == e.Token || args[0] == e.Serial) {
				match = append(match, e)
			}
		}
		if len(match) == 0 {
			return cli.Failure("see: chancery hsm status", "no such token is latched")
		}
		if len(match) > 1 {
			var names []string
			for _, e := range match {
				names = append(names, fmt.Sprintf("%s (serial %s)", e.Token, e.Serial))
			}
			return cli.Usage("name it by its serial number", "%d tokens are latched: %s", len(match), strings.Join(names, ", "))
		}
		e := match[0]
		if !yes {
			last := ""
			if finalTry {
				last = ", even if a wrong one now LOCKS it"
			}
			if err := confirm(c.Context(), fmt.Sprintf("allow one login with the user PIN to token %q, serial %s%s", e.Token, e.Serial, last)); err != nil {
				return err
			}
		}
		if err := a.data.latch().Release(e.Token, e.Serial, finalTry); err != nil {
			return err
		}
		return a.out.Print(map[string]string{"token": e.Token, "serial": e.Serial, "reason": e.Reason}, func(w io.Writer) {
			fmt.Fprintf(w, "token %s is asked once more\n", e.Token)
		})
	}}
	c.Flags().BoolVar(&finalTry, "final-try", false, "also if the token says that a wrong PIN now locks it")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
