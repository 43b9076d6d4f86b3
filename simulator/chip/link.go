package chip

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// A link is the connection of an owner, with the one to the swtpm that was
// opened for it.
type link struct {
	chip  *Chip
	owner net.Conn
	swtpm net.Conn
	ctx   context.Context // ends with the owner's connection and with the chip
}

// serve carries commands and answers until the owner goes, or is cut off.
func (c *Chip) serve(owner net.Conn) {
	defer owner.Close()
	ctx, end := context.WithCancel(c.ctx)
	defer end()

	// Commands are read aside, because a command that waits has to learn that
	// its owner has gone.
	commands := make(chan []byte)
	c.life.Go(func() {
		defer end()
		for {
			m, err := message(owner)
			if err != nil {
				return
			}
			select {
			case commands <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	context.AfterFunc(ctx, func() { owner.Close() })

	swtpm, err := c.dial(ctx)
	if err != nil {
		return
	}
	defer swtpm.Close()
	context.AfterFunc(ctx, func() { swtpm.Close() })

	l := &link{chip: c, owner: owner, swtpm: swtpm, ctx: ctx}
	for {
		select {
		case m := <-commands:
			if !l.exchange(m) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// dial connects to the swtpm. One whose queue of connections is full does not
// let a further one wait, so that is done here.
func (c *Chip) dial(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", c.swtpm)
		if !errors.Is(err, syscall.EAGAIN) || !sleep(ctx, 5*time.Millisecond) {
			return conn, err
		}
	}
}

// exchange does with one command what the verdict says, and reports whether the
// link is still there.
func (l *link) exchange(command []byte) bool {
	c := l.chip
	v := c.judge(tpm2.TPMCC(code(command)))
	c.heard(command)
	if !sleep(l.ctx, v.delay) {
		return false
	}
	if v.hang != nil {
		select {
		case <-v.hang:
		case <-l.ctx.Done():
			return false
		}
	}
	if v.cutBefore {
		return false
	}
	answer := refusal(v.refuse)
	if v.refuse == 0 {
		var err error
		if answer, err = l.ask(command, v.pace); err != nil {
			return false
		}
	}
	if v.cutAfter {
		return false
	}
	for _, bit := range v.flip {
		flip(answer, bit)
	}
	c.heard(answer)
	return l.deliver(answer)
}

// ask has the swtpm run the command, and takes as long as the model.
func (l *link) ask(command []byte, pace float64) ([]byte, error) {
	onCommand, onAnswer := l.chip.hooks()
	sent := onCommand(command)
	begin := time.Now()
	if _, err := l.swtpm.Write(sent); err != nil {
		return nil, err
	}
	answer, err := message(l.swtpm)
	if err != nil {
		return nil, err
	}
	latency := l.chip.model.Latency.of(sent)
	if code(answer) != uint32(tpm2.TPMRCSuccess) {
		latency = l.chip.model.Latency.Other
	}
	rest := time.Duration(float64(latency)*pace) - time.Since(begin)
	if !sleep(l.ctx, rest) {
		return nil, l.ctx.Err()
	}
	return onAnswer(command, answer), nil
}

// deliver hands the answer over in pieces, as a socket may.
func (l *link) deliver(answer []byte) bool {
	for _, end := range []int{3, headerSize, len(answer)} {
		end = min(end, len(answer))
		if _, err := l.owner.Write(answer[:end]); err != nil {
			return false
		}
		answer = answer[end:]
	}
	return true
}

// sleep reports whether the context is still alive afterwards.
func sleep(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}
