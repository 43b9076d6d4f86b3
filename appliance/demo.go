package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/appliance/demo"
	"github.com/chancery-pki/chancery/internal/cli"
)

// A demoResult is what demo prints with --json.
type demoResult struct {
	Steps   []demo.Step `json:"steps"`
	Seconds float64     `json:"seconds"`
}

func (a *app) demoCommand() *cobra.Command {
	var asJSON bool
	var agent, model string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Play the whole story on SoftHSM and swtpm",
		Long: `demo makes a coordinator and three machines on simulators in a temporary
directory, and plays: ceremony, pointer record, enrolment, sessions, a stranger,
a revocation under a live session, a changed boot state, and an audit of the log.
It holds every outcome against what it must be, and leaves nothing behind.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON {
				a.out = cli.JSON
			}
			chancery, agent, err := programs(agent)
			if err != nil {
				return err
			}
			start := time.Now()
			var r demoResult
			err = demo.Run(c.Context(), demo.Options{Chancery: chancery, Agent: agent, Model: model, Report: func(s demo.Step) {
				if a.out == cli.Text {
					printStep(os.Stdout, r.Steps, s)
				}
				r.Steps = append(r.Steps, s)
			}})
			if err != nil {
				return err
			}
			r.Seconds = time.Since(start).Seconds()
			return a.out.Print(r, func(w io.Writer) {
				fmt.Fprintf(w, "\nall of it as it must be, in %.1f s; nothing is left running\n", r.Seconds)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the steps as JSON (the same as -o json)")
	c.Flags().StringVar(&model, "device-model", "", "give the token the speed and the limits of a device: "+deviceModels())
	c.Flags().StringVar(&agent, "agent", "", "the chancery-agent to play with (default: beside this program, then PATH)")
	return c
}

// programs finds this program and the agent's.
func programs(agent string) (chancery, found string, err error) {
	if chancery, err = os.Executable(); err != nil {
		return "", "", err
	}
	if agent != "" {
		if agent, err = exec.LookPath(agent); err != nil {
			return "", "", cli.Usage("build it with make", "--agent: %v", err)
		}
		return chancery, agent, nil
	}
	beside := filepath.Join(filepath.Dir(chancery), "chancery-agent")
	if _, err := os.Stat(beside); err == nil {
		return chancery, beside, nil
	}
	if found, err = exec.LookPath("chancery-agent"); err != nil {
		return "", "", cli.Failure("build it with make, or name it with --agent", "chancery-agent is neither beside %s nor in PATH", chancery)
	}
	return chancery, found, nil
}

func printStep(w io.Writer, before []demo.Step, s demo.Step) {
	if len(before) == 0 || before[len(before)-1].Chapter != s.Chapter {
		fmt.Fprintf(w, "\n%s\n", s.Chapter)
	}
	fmt.Fprintf(w, "  %-11s %-14s %8.1f ms  %s\n", s.Who, s.Symbol, s.MS, s.What)
}
