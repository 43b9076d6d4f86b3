package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/policy"
	"github.com/chancery-pki/chancery/internal/cli"
)

func (a *app) policyCommand() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "Who may enrol"}
	c.AddCommand(a.policyShowCommand(), a.policyCheckCommand(), a.policyApplyCommand())
	return c
}

func (a *app) policyShowCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{Use: "show", Short: "Show the policy in force", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		var list []api.PolicyInfo
		if err := a.call(c.Context(), "GET", "/v1/policy", nil, &list); err != nil {
			return err
		}
		if !all {
			list = list[:min(len(list), 1)]
			return a.out.Print(list, func(w io.Writer) {
				for _, p := range list {
					fmt.Fprint(w, p.Text)
				}
			})
		}
		return a.out.Print(list, func(w io.Writer) {
			table(w, "VERSION\tSINCE\tOPERATOR\tSHA-256", func(row func(...any)) {
				for _, p := range list {
					row(p.Version, p.At, p.Operator, p.Hash)
				}
			})
		})
	}}
	c.Flags().BoolVar(&all, "all", false, "list all that ever were in force")
	return c
}

// A policyCheck is what policy check prints with -o json.
type policyCheck struct {
	Version  int               `json:"version"`
	Hash     string            `json:"sha256"`
	Rules    []string          `json:"rules"`
	Decision *api.DecisionInfo `json:"decision,omitempty" doc:"with --against"`
}

func (a *app) policyCheckCommand() *cobra.Command {
	var node string
	c := &cobra.Command{Use: "check FILE", Short: "Check a policy, and explain what it says of a node", Long: `check finds what is wrong with a policy. With --against it tells, step by step,
what the policy would say of an enrolled node that renews, by the evidence of its
last certificate. The exit code is 5 if it would be refused. Nothing is changed.`,
		Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			text, p, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			r := policyCheck{Version: p.Version, Hash: p.Hash}
			for _, rule := range p.Rules {
				r.Rules = append(r.Rules, rule.Name)
			}
			if node != "" {
				r.Decision = &api.DecisionInfo{}
				if err := a.call(c.Context(), "POST", "/v1/policy/check", api.PolicyInput{Text: string(text), Node: node}, r.Decision); err != nil {
					return err
				}
			}
			if err := a.out.Print(r, func(w io.Writer) { printCheck(w, args[0], node, &r) }); err != nil {
				return err
			}
			if r.Decision != nil && r.Decision.Action == policy.Refuse {
				return cli.WithCode(cli.ExitRefused, fmt.Errorf("%s would be refused: %s", node, r.Decision.Reason))
			}
			return nil
		}}
	c.Flags().StringVar(&node, "against", "", "name of an enrolled node")
	return c
}

func readPolicy(file string) ([]byte, *policy.Policy, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, cli.Usage("", "%v", err)
	}
	p, err := policy.Parse(text)
	if err != nil {
		return nil, nil, cli.WithCode(cli.ExitUsage, fmt.Errorf("%s: %w", file, err))
	}
	return text, p, nil
}

func printCheck(w io.Writer, file, node string, r *policyCheck) {
	fmt.Fprintf(w, "%s: good: version %d, rules %s\n", file, r.Version, strings.Join(r.Rules, ", "))
	d := r.Decision
	if d == nil {
		return
	}
	rule := ""
	for _, s := range d.Steps {
		if s.Rule != rule {
			rule = s.Rule
			fmt.Fprintf(w, "  rule %q\n", rule)
		}
		fmt.Fprintf(w, "    %-4s %s\n", s.Result, s.What)
	}
	fmt.Fprintf(w, "%s: %s", node, d.Action)
	switch {
	case d.Reason != "":
		fmt.Fprintf(w, ": %s", d.Reason)
	case d.Open:
		fmt.Fprintf(w, " if its boot state is as it must be")
	}
	if d.Approvals > 0 {
		fmt.Fprintf(w, " by %d operators", d.Approvals)
	}
	if d.Action != policy.Refuse {
		fmt.Fprintf(w, ", assurance %s", d.Assurance)
	}
	fmt.Fprintln(w)
}

func (a *app) policyApplyCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "apply FILE", Short: "Put a policy into force", Long: `apply puts a policy into force at once, and keeps it in DATA/policy.toml. Nodes
that are enrolled are asked again when they renew, or attest. Its version must be
above that of the one in force.`, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		text, p, err := readPolicy(args[0])
		if err != nil {
			return err
		}
		if !yes {
			if err := confirm(c.Context(), fmt.Sprintf("put the policy %s, version %d, into force", args[0], p.Version)); err != nil {
				return err
			}
		}
		var r api.PolicyInfo
		if err := a.call(c.Context(), "POST", "/v1/policy", api.PolicyInput{Text: string(text)}, &r); err != nil {
			return err
		}
		return a.out.Print(r, func(w io.Writer) { fmt.Fprintf(w, "in force: version %d, sha256:%s\n", r.Version, r.Hash) })
	}}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
