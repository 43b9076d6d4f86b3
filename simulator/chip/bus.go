package chip

import (
	"bytes"
	"fmt"
)

// A tap is somebody's recording of what passes on the bus.
type tap struct {
	limit  int
	wire   []byte
	missed int // bytes, since the recording was full
}

// Listen records all that passes from now on, until there are limit bytes. It
// forgets the recording before. A limit of 0 ends it.
func (c *Chip) Listen(limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tap = tap{limit: limit}
}

// Wire returns what was recorded: commands and answers, in their order, as the
// owner sent and received them. It is an error if more passed than Listen had
// room for, since something that was missed is not there to be found.
func (c *Chip) Wire() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tap.missed > 0 {
		return nil, fmt.Errorf("chip: %d bytes passed, %d are recorded", len(c.tap.wire)+c.tap.missed, c.tap.limit)
	}
	return bytes.Clone(c.tap.wire), nil
}

// heard records a message.
func (c *Chip) heard(m []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tap.limit <= 0 {
		return
	}
	n := min(len(m), c.tap.limit-len(c.tap.wire))
	c.tap.wire = append(c.tap.wire, m[:n]...)
	c.tap.missed += len(m) - n
}

// RewriteCommands has every command pass through f, which returns what the chip
// gets in its place, whole with its header. nil ends it. f is not called for
// commands that a fault or a busy chip refuses.
func (c *Chip) RewriteCommands(f func(command []byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.command = f
}

// RewriteAnswers has every answer of the chip pass through f, with the command
// as the owner sent it. f returns what the owner gets. nil ends it.
func (c *Chip) RewriteAnswers(f func(command, answer []byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = f
}

// hooks returns both functions. They get copies: what they are given is theirs.
func (c *Chip) hooks() (command func([]byte) []byte, answer func(command, answer []byte) []byte) {
	c.mu.Lock()
	onCommand, onAnswer := c.command, c.answer
	c.mu.Unlock()
	command = func(m []byte) []byte {
		if onCommand == nil {
			return m
		}
		return onCommand(bytes.Clone(m))
	}
	answer = func(m, a []byte) []byte {
		if onAnswer == nil {
			return a
		}
		return onAnswer(bytes.Clone(m), a)
	}
	return command, answer
}
