package tpm_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chancery-pki/chancery/tpm/tpmtest"
)

// A proxy stands between owner and chip and answers in the chip's place when
// its judge says so.
type proxy struct {
	device string
	chip   string // socket of the swtpm

	mu    sync.Mutex
	judge func(command []byte) (response []byte, swallow bool)
	wire  []byte // all that passed
}

// refusal is a response that holds a response code alone.
func refusal(code uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, code)
}

func commandCode(command []byte) uint32 { return binary.BigEndian.Uint32(command[6:]) }

func newProxy(t *testing.T, chip *tpmtest.TPM) *proxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "proxy-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	p := &proxy{device: "swtpm:" + socket, chip: strings.TrimPrefix(chip.Device(), "swtpm:")}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return p
}

// decide sets who answers from now on; nil is the chip.
func (p *proxy) decide(judge func(command []byte) (response []byte, swallow bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judge = judge
}

// passed returns all that passed the proxy, as a listener on the bus has it.
func (p *proxy) passed() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.wire)
}

func (p *proxy) serve(owner net.Conn) {
	defer owner.Close()
	chip, err := net.Dial("unix", p.chip)
	if err != nil {
		return
	}
	defer chip.Close()
	for {
		command, err := message(owner)
		if err != nil {
			return
		}
		p.mu.Lock()
		var response []byte
		var swallow bool
		if p.judge != nil {
			response, swallow = p.judge(command)
		}
		p.mu.Unlock()
		if swallow {
			continue
		}
		if response == nil {
			if _, err := chip.Write(command); err != nil {
				return
			}
			if response, err = message(chip); err != nil {
				return
			}
		}
		p.mu.Lock()
		p.wire = append(append(p.wire, command...), response...)
		p.mu.Unlock()
		// In pieces, as a socket may deliver it.
		for _, piece := range [][]byte{response[:3], response[3:10], response[10:]} {
			if len(piece) > 0 {
				if _, err := owner.Write(piece); err != nil {
					return
				}
			}
		}
	}
}

// message reads a command or a response; both carry their size.
func message(from io.Reader) ([]byte, error) {
	m := make([]byte, 10)
	if _, err := io.ReadFull(from, m); err != nil {
		return nil, err
	}
	rest := make([]byte, binary.BigEndian.Uint32(m[2:])-10)
	_, err := io.ReadFull(from, rest)
	return append(m, rest...), err
}
