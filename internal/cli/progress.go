package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Progress shows how far something is: on a terminal as one line that
// changes, elsewhere as a line now and then. What takes less than a second
// shows nothing.
type Progress struct {
	w        io.Writer
	terminal bool
	shown    time.Time // the last line, or the start
	quiet    time.Duration
	open     bool // a line that has no end yet
}

const (
	progressAfter = time.Second            // before the first line on a terminal
	progressEvery = 100 * time.Millisecond // between lines on a terminal
	progressLine  = 10 * time.Second       // between lines elsewhere
)

// NewProgress returns a progress that is shown on w.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, shown: time.Now(), quiet: progressLine}
	if f, ok := w.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			p.terminal, p.quiet = true, progressAfter
		}
	}
	return p
}

// Show shows what text returns, if it is time to.
func (p *Progress) Show(text func() string) {
	if time.Since(p.shown) < p.quiet {
		return
	}
	p.shown = time.Now()
	if !p.terminal {
		fmt.Fprintln(p.w, text())
		return
	}
	p.quiet, p.open = progressEvery, true
	fmt.Fprintf(p.w, "\r%s\x1b[K", text())
}

// End ends the line; another one may follow.
func (p *Progress) End() {
	if p.open {
		fmt.Fprintln(p.w)
	}
	p.open = false
}

// Bar draws how much is done of what is to do.
func Bar(done, of uint64) string {
	const width = 24
	done = min(done, of)
	if of == 0 {
		done, of = 1, 1
	}
	full := int(float64(done) / float64(of) * width)
	return fmt.Sprintf("[%s%s] %3d %%", strings.Repeat("#", full), strings.Repeat("-", width-full), int(float64(done)/float64(of)*100))
}
