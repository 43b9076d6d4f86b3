package p11kit

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/child"
)

// addressVariable is how the client finds the server, and how the server tells
// where it is.
const addressVariable = "P11_KIT_SERVER_ADDRESS"

// A Server is a running p11-kit server. Its methods may be called from any
// goroutine.
type Server struct {
	URI hsm.URI // names the client, and token and PIN file as they are behind it

	home    string // short temporary directory of the socket
	address string // of the socket, in the words of p11-kit
	log     string // file with what the server says
	args    []string
	env     []string

	mu    sync.Mutex // held while the server starts, ends, stops or goes on
	life  *child.Child
	group int    // process group of life
	guard *guard // of group
}

const (
	startTime = 10 * time.Second // for the server to listen
	settle    = 5 * time.Second  // for its processes to feel a signal
)

// New starts a server for the token that the URI behind names, with the
// variables in env, in which the token's module finds it, added to this
// process's environment. The URI has a ModulePath and no InitReserved, which
// p11-kit cannot pass on. What the server says is added to server.log in dir,
// which New creates if need be. The caller stops the server.
func New(dir string, behind hsm.URI, env map[string]string) (*Server, error) {
	client, program, err := Locate()
	if err != nil {
		return nil, err
	}
	if behind.ModulePath == "" || behind.InitReserved != "" {
		return nil, errors.New("p11kit: a token behind the server has a module-path, and no x-init-reserved")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("p11kit: %w", err)
	}
	home, err := shortDir()
	if err != nil {
		return nil, fmt.Errorf("p11kit: %w", err)
	}
	token := hsm.URI{Token: behind.Token, Manufacturer: behind.Manufacturer, Serial: behind.Serial, Model: behind.Model}
	s := &Server{
		URI:  token,
		home: home,
		log:  filepath.Join(dir, "server.log"),
		args: []string{program, "server", "--foreground", "--name", filepath.Join(home, "s"), "--provider", behind.ModulePath, token.String()},
		env:  os.Environ(),
	}
	s.URI.ModulePath, s.URI.PINSource = client, behind.PINSource
	for name, value := range env {
		s.env = append(s.env, name+"="+value)
	}
	if err := s.Restart(); err != nil {
		os.RemoveAll(home)
		return nil, err
	}
	return s, nil
}

// shortDir makes a directory whose socket's path fits into sockaddr_un (108
// bytes on Linux), whatever TMPDIR is.
func shortDir() (string, error) {
	base := os.TempDir()
	if len(base) > 60 {
		base = "/tmp"
	}
	return os.MkdirTemp(base, "p11kit-")
}

// Env returns the environment that a process needs to reach the server. It
// stays the same over restarts.
func (s *Server) Env() map[string]string { return map[string]string{addressVariable: s.address} }

// Restart starts the server, after a Kill if it runs, at the same address.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
	if err := s.start(); err != nil {
		return fmt.Errorf("p11kit: start the server: %w", err)
	}
	return nil
}

// Kill ends the server and the processes of its connections (SIGKILL).
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
}

// Stop ends the server as Kill does, for it has nothing to save, and removes
// its socket. A stopped Server stays stopped.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
	return os.RemoveAll(s.home)
}

// Suspend stops the server and the processes of its connections (SIGSTOP), and
// returns when all of them stand still.
func (s *Server) Suspend() error { return s.signal(syscall.SIGSTOP, stopped) }

// Resume lets them go on (SIGCONT).
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT, running) }

func (s *Server) signal(sig syscall.Signal, felt func(state byte) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == nil {
		return errors.New("p11kit: the server does not run")
	}
	if err := syscall.Kill(-s.group, sig); err != nil {
		return fmt.Errorf("p11kit: %v: %w", sig, err)
	}
	if err := await(s.group, felt); err != nil {
		return fmt.Errorf("p11kit: %v: %w", sig, err)
	}
	return nil
}

// start starts the program and returns when it listens. The caller holds mu.
func (s *Server) start() error {
	log, err := os.OpenFile(s.log, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	from, err := log.Seek(0, 2)
	if err != nil {
		return err
	}
	stdout, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdout.Close()
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Env = s.env
	// A file and not a buffer: the processes of the connections have it too,
	// and a pipe would last as long as the last of them.
	cmd.Stderr = log
	cmd.Stdout = in
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	life, err := child.Start(cmd)
	in.Close()
	if err != nil {
		return err
	}
	s.life, s.group = life, cmd.Process.Pid
	if s.guard, err = watch(s.group); err != nil {
		s.kill()
		return err
	}
	stdout.SetReadDeadline(time.Now().Add(startTime))
	address, err := readAddress(bufio.NewReader(stdout))
	if err == nil && s.address != "" && address != s.address {
		err = fmt.Errorf("it listens at %s and not at %s", address, s.address)
	}
	if err != nil {
		s.kill()
		said := make([]byte, 4096)
		n, _ := log.ReadAt(said, from)
		return fmt.Errorf("%w: %s", err, said[:n])
	}
	if s.address == "" { // once, in New, so that Env needs no lock
		s.address = address
	}
	return nil
}

// readAddress reads what a server says once it listens: a line of shell,
// P11_KIT_SERVER_ADDRESS=unix:path=/path; export P11_KIT_SERVER_ADDRESS;
func readAddress(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("it does not tell its address: %w", err)
	}
	value, ok := strings.CutPrefix(line, addressVariable+"=")
	address, _, more := strings.Cut(value, ";")
	if !ok || !more || address == "" {
		return "", fmt.Errorf("it does not tell its address: %q", line)
	}
	return address, nil
}

// kill ends the server if it runs, and returns when none of its processes does
// anything any more. The caller holds mu.
func (s *Server) kill() {
	if s.life == nil {
		return
	}
	syscall.Kill(-s.group, syscall.SIGKILL) // a group that is gone is no concern
	<-s.life.Done()
	await(s.group, func(byte) bool { return false })
	if s.guard != nil {
		s.guard.dismiss()
	}
	s.life, s.guard = nil, nil
}
