package hsm

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/chancery-pki/chancery"
)

// A State is how a token of a pool is.
type State string

const (
	Connecting State = "connecting" // never connected yet
	Up         State = "up"         // in service
	Late       State = "late"       // in service, but not answering as it usually does
	Down       State = "down"       // its device, module or signer process failed; tried again all the time
	Refused    State = "refused"    // it has not the right keys; tried again now and then
	Latched    State = "latched"    // it refused the PIN; not tried before somebody says so
)

// A Status describes a token of a pool.
type Status struct {
	URI   string
	Info  Info // as last seen; its Sessions as of now
	State State
	Since time.Time
	Err   error // why it is not up; nil if it is

	Keys     []KeyStatus
	Signer   int // process id of the signer process; 0 without one
	InFlight int // requests that it has

	// Counters since the pool was opened.
	Signatures uint64
	Retries    uint64 // signatures repeated on the same login: dropped sessions, throttling
	Faults     uint64 // signatures that did not verify
	Starts     uint64 // signer processes that got into service

	// Of the last signatures, in the token. Zero before the first.
	Median, P99 time.Duration
}

// A KeyStatus describes a key that a token is used for.
type KeyStatus struct {
	Name       string
	Label      string
	Public     chancery.PublicKey // the pinned one
	Attributes KeyAttributes      // zero before the token was ever in service
}

// Status describes the tokens in the order of the configuration.
func (p *Pool) Status() []Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []Status
	for _, m := range p.members {
		s := Status{
			URI: m.config.URI.String(), Info: m.info, State: m.state, Since: m.since, Err: m.err,
			Signatures: m.stats.signatures, Retries: m.stats.retries, Faults: m.stats.faults, Starts: m.stats.starts,
			Median: m.latency.percentile(50), P99: m.latency.percentile(99),
		}
		if m.process != nil {
			s.Signer, s.InFlight = m.process.child.PID(), len(m.process.flight)
			if m.process.late {
				s.State, s.Since = Late, m.process.lateSince
			}
		} else {
			s.Info.Sessions = 0
		}
		for _, i := range m.keys {
			k := p.config.Keys[i]
			s.Keys = append(s.Keys, KeyStatus{Name: k.Name, Label: nameOf(k.Key), Public: p.public[i], Attributes: m.attributes[i]})
		}
		list = append(list, s)
	}
	return list
}

// latency is how long signatures took lately.
type latency struct {
	average time.Duration // weighted: the last ones count most
	last    [256]time.Duration
	count   int
}

func (l *latency) add(d time.Duration) {
	if l.average == 0 {
		l.average = d
	}
	l.average += (d - l.average) / 8
	l.last[l.count%len(l.last)] = d
	l.count++
}

func (l *latency) percentile(n int) time.Duration {
	if l.count == 0 {
		return 0
	}
	s := slices.Clone(l.last[:min(l.count, len(l.last))])
	slices.Sort(s)
	return s[(len(s)-1)*n/100]
}

// lastWords logs what a vendor's module writes to standard error, which is
// where they tell why they crash, line by line and not without end.
type lastWords struct {
	member *member
	name   string

	mu    sync.Mutex
	line  []byte
	lines int
}

const (
	maxWords = 50  // lines of one process
	maxLine  = 400 // bytes
)

func (w *lastWords) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, part := range bytes.SplitAfter(b, []byte("\n")) {
		w.line = append(w.line, part[:min(len(part), maxLine-len(w.line))]...)
		if bytes.HasSuffix(part, []byte("\n")) {
			w.say()
		}
	}
	return len(b), nil
}

// end says what was begun: the process is gone, and that was its last word.
func (w *lastWords) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.say()
}

func (w *lastWords) say() {
	text := string(bytes.TrimSpace(w.line))
	w.line = w.line[:0]
	if text == "" {
		return
	}
	if w.lines++; w.lines > maxWords {
		return
	}
	if w.lines == maxWords {
		text = fmt.Sprintf("more than %d lines; the rest is left out", maxWords)
	}
	w.member.pool.config.Logger.Warn("the PKCS#11 module wrote", "token", w.name, "text", text)
}
