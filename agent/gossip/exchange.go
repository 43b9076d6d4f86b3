package gossip

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/chancery-pki/chancery"
)

// An exchange is one end of one, on one connection.
type exchange struct {
	*Gossip
	conn  net.Conn
	trust chancery.Trust // at the beginning; what is said and sent is of it
	mine  hello
	other hello
	moved bool
}

// begin is the side that dialled: it says first what it has, and sends first.
func (e *exchange) begin() error {
	e.trust = e.config.Trust()
	e.mine = helloOf(e.trust)
	if err := e.mine.write(e.conn); err != nil {
		return err
	}
	if err := e.hear(); err != nil {
		return err
	}
	if err := e.send(); err != nil {
		return err
	}
	return e.take()
}

// answer is the other side. It says nothing to who is of another fleet.
func (e *exchange) answer() error {
	e.trust = e.config.Trust()
	e.mine = helloOf(e.trust)
	if err := e.hear(); err != nil {
		return err
	}
	if err := e.mine.write(e.conn); err != nil {
		return err
	}
	err := e.take()
	if err != nil && !errors.Is(err, chancery.ErrCRLFork) && !errors.Is(err, chancery.ErrPointerFork) {
		return err
	}
	return errors.Join(err, e.send())
}

func (e *exchange) hear() (err error) {
	if e.other, err = readHello(e.conn); err != nil {
		return err
	}
	if e.other.fleet != e.mine.fleet {
		return ErrFleet
	}
	return nil
}

// send sends what the other end does not have: the record first, under which
// it judges the list.
func (e *exchange) send() error {
	if e.mine.record.sends(e.other.record) {
		if err := writeFrame(e.conn, e.trust.Pointer.Marshal()); err != nil {
			return err
		}
		e.moved = true
	}
	if !e.mine.list.sends(e.other.list) {
		return nil
	}
	for _, update := range e.updates(e.other.list, e.trust.CRL) {
		if err := writeFrame(e.conn, update); err != nil {
			return err
		}
		e.moved = true
	}
	return nil
}

// take takes what the other end said that it has. A fork does not end it: both
// ends are to have the evidence.
func (e *exchange) take() error {
	var forked error
	if e.other.record.sends(e.mine.record) {
		if err := e.takeRecord(); errors.Is(err, chancery.ErrPointerFork) {
			forked = err
		} else if err != nil {
			return err
		}
	}
	if e.other.list.sends(e.mine.list) {
		return errors.Join(forked, e.takeList())
	}
	return forked
}

func (e *exchange) takeRecord() error {
	p, err := readRecord(e.conn)
	if err != nil {
		return err
	}
	if p.Seq != e.other.record.number || p.Hash() != e.other.record.hash {
		return fmt.Errorf("%w: record %d", ErrPromise, e.other.record.number)
	}
	if err := e.config.TakePointer(p); err != nil {
		return err
	}
	e.moved = true
	return nil
}

// takeList takes a full list, or deltas up to the number that was said. Each
// must lead further.
func (e *exchange) takeList() error {
	least := e.mine.list.number + 1
	if e.other.list.number < least { // the other one of a fork
		least = e.other.list.number
	}
	for range maxSteps {
		list, err := readList(e.conn, e.config.Trust().Pointer, least)
		switch {
		case errors.Is(err, chancery.ErrCRLRollback):
			return fmt.Errorf("%w: %w", ErrPromise, err)
		case errors.Is(err, chancery.ErrSignature) && e.other.record != e.mine.record:
			return fmt.Errorf("%w: %v", errOtherRecord, err)
		case err != nil:
			return err
		}
		number, err := chancery.CRLNumber(list)
		if err != nil {
			return err
		}
		if number > e.other.list.number {
			return fmt.Errorf("%w: list %d, said %d", ErrPromise, number, e.other.list.number)
		}
		if err := e.config.TakeCRL(list); err != nil {
			return err
		}
		e.moved = true
		if number == e.other.list.number {
			return nil
		}
		least = number + 1
	}
	return fmt.Errorf("%w: more than %d deltas", ErrPromise, maxSteps)
}

// errOtherRecord is the reason that a list does not verify whose sender has
// another pointer record, and may have it under another CA key.
var errOtherRecord = errors.New("list is not under the pointer record that is held")

// isWrong reports whether an exchange ended because the other end sent what
// nobody honest sends. A list from the future or below a floor, a fork and a
// gap are not its fault, or need not be.
func isWrong(err error) bool {
	for _, e := range []error{
		ErrPromise, chancery.ErrMalformed, chancery.ErrSignature, chancery.ErrHighS, chancery.ErrSigRange, chancery.ErrSigLength,
		chancery.ErrCRLBody, chancery.ErrPin, chancery.ErrPointerKeys,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// isBroken reports whether the exchange came to nothing, which may happen to
// anybody, but not often.
func isBroken(err error) bool {
	var ne net.Error
	return errors.Is(err, errOtherRecord) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne)
}
