package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chancery-pki/chancery/simulator/load"
)

// progress shows how far a run is: on a terminal as one line that changes,
// elsewhere as a line now and then.
type progress struct {
	w        io.Writer
	terminal bool
	last     time.Time
	open     bool // a line that has no end yet
	phase    string
}

// every is how often there is a line where no terminal is.
const every = 10 * time.Second

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, last: time.Now()}
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.terminal = err == nil
	}
	return p
}

func (p *progress) report(s load.Progress) {
	if !p.terminal {
		if time.Since(p.last) < every {
			return
		}
		p.last = time.Now()
		fmt.Fprintln(p.w, line(s))
		return
	}
	if s.Phase != p.phase {
		p.end()
		p.phase = s.Phase
	}
	fmt.Fprintf(p.w, "\r%s\x1b[K", line(s))
	p.open = true
}

// end ends the line.
func (p *progress) end() {
	if p.open {
		fmt.Fprintln(p.w)
	}
	p.open = false
}

func line(s load.Progress) string {
	text := fmt.Sprintf("%s: %d of %d, %.0f a second", s.Phase, s.Done, s.All, s.PerSecond())
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d failed (%s)", s.Failed, s.Last)
	}
	return text
}
