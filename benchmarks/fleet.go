package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/chancery-pki/chancery"
	loadgen "github.com/chancery-pki/chancery/simulator/load"
	"github.com/chancery-pki/chancery/simulator/papertpm"
)

// newPaperCoordinator makes a coordinator that takes the chips of a maker whom
// it makes too. It returns the directory of that.
func newPaperCoordinator(program, dir string) (c *coordinator, maker string, err error) {
	m, err := papertpm.NewMaker()
	if err != nil {
		return nil, "", err
	}
	maker = filepath.Join(dir, "maker")
	if err := m.Save(maker); err != nil {
		return nil, "", err
	}
	c, err = newCoordinator(program, filepath.Join(dir, "coordinator"), []string{papertpm.RootsFile(maker)})
	return c, maker, err
}

// enrolFleet has chancery-simulator enrol a fleet, in a process of its own. No
// enrolment may fail.
func (c *coordinator) enrolFleet(simulator, maker string, token chancery.Token, args ...string) (*loadgen.Result, error) {
	file := filepath.Join(c.dir, "token")
	if err := os.WriteFile(file, []byte(token.Reveal()+"\n"), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(simulator, append([]string{"fleet", "-o", "json", "--maker", maker, "--url", c.url, "--token-file", file}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("chancery-simulator fleet: %w: %s", err, stderr.String())
	}
	r := &loadgen.Result{}
	return r, json.Unmarshal(b, r)
}
