package main

import (
	"fmt"
	"io"

	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/simulator/load"
)

// progress shows how far a run is, a line for each phase.
type progress struct {
	*cli.Progress
	phase string
}

func newProgress(w io.Writer) *progress { return &progress{Progress: cli.NewProgress(w)} }

func (p *progress) report(s load.Progress) {
	if s.Phase != p.phase {
		p.End()
		p.phase = s.Phase
	}
	p.Show(func() string { return line(s) })
}

func line(s load.Progress) string {
	text := fmt.Sprintf("%s: %d of %d, %.0f a second", s.Phase, s.Done, s.All, s.PerSecond())
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d failed (%s)", s.Failed, s.Last)
	}
	return text
}
