package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/chancery-pki/chancery/agent/state"
	"github.com/chancery-pki/chancery/internal/child"
)

// A tunnel is two processes: what connects to one of them is carried over
// mutual TLS to the other one and from there to a program.
type tunnel struct {
	name      string
	absent    error // why it is not there
	address   string
	near, far *child.Child
	others    []*child.Child // that belong to it
}

// cpu returns what the two processes have used.
func (t *tunnel) cpu() (time.Duration, error) {
	near, err := cpuOf(t.near.PID())
	if err != nil {
		return 0, err
	}
	far, err := cpuOf(t.far.PID())
	return near + far, err
}

func (t *tunnel) stop() {
	for _, c := range append(t.others, t.near, t.far) {
		if c != nil {
			c.Kill()
		}
	}
}

// agentTunnel is chancery-agent forward and expose. Each node knows where the
// other one is from its configuration, and lets in all of the fleet.
func agentTunnel(dir, target string, connections int) (t *tunnel, stop func() error, err error) {
	appliance, err := build(dir, "./appliance")
	if err != nil {
		return nil, nil, err
	}
	program, err := build(dir, "./agent")
	if err != nil {
		return nil, nil, err
	}
	c, chips, off, err := newSite(dir, appliance, 2)
	if err != nil {
		return nil, nil, err
	}
	t = &tunnel{name: "chancery-agent"}
	stop = func() error {
		t.stop()
		return off()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	near, err := c.startAgent(program, dir, "near", chips[0].Device())
	if err != nil {
		return nil, nil, err
	}
	t.near = near.process
	far, err := c.startAgent(program, dir, "far", chips[1].Device())
	if err != nil {
		return nil, nil, err
	}
	t.far = far.process
	if err := near.knows(far); err != nil {
		return nil, nil, err
	}
	limit := fmt.Sprint(connections)
	exposed, err := far.relay(t, "expose", "--to", target, "--allow", "any", "--max-connections", limit)
	if err != nil {
		return nil, nil, err
	}
	_, port, err := net.SplitHostPort(exposed)
	if err != nil {
		return nil, nil, err
	}
	t.address, err = near.relay(t, "forward", "--to", "far:"+port, "--max-connections", limit)
	return t, stop, err
}

// knows writes the other one's address into the configuration, as soon as both
// answer.
func (r *running) knows(other *running) error {
	session, err := r.ping(other)
	if err != nil {
		return err
	}
	session.Kill()
	f, err := os.OpenFile(filepath.Join(r.state, "agent.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "\n[addresses]\n%s = '%s'\n", other.name, other.address)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	out, err := exec.Command(r.program, "reload", "--state", r.state).CombinedOutput()
	if err != nil {
		return fmt.Errorf("chancery-agent reload: %w: %s", err, out)
	}
	d, err := state.Look(r.state)
	if err != nil {
		return err
	}
	defer d.Close()
	config, err := d.Config()
	if err == nil && config.Addresses[other.name] != other.address {
		err = errors.New("the configuration does not have the address")
	}
	return err
}

// relay runs one of the agent's two commands, and returns where it listens.
func (r *running) relay(t *tunnel, command string, args ...string) (address string, err error) {
	cmd := exec.Command(r.program, append([]string{command, "--state", r.state, "-o", "json", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	c, err := child.Start(cmd)
	if err != nil {
		return "", err
	}
	t.others = append(t.others, c)
	var event struct{ Event, Address, Error string }
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&event); err != nil {
		return "", fmt.Errorf("chancery-agent %s: %w", command, err)
	}
	if event.Address == "" {
		return "", fmt.Errorf("chancery-agent %s: %s %s", command, event.Event, event.Error)
	}
	return event.Address, nil
}

// bareName is the role of a worker that is one end of a tunnel with nothing in
// it that is not needed: crypto/tls and io.Copy.
const bareName = "copy"

// A bareJob says which end it is: the near one dials TLS.
type bareJob struct {
	Near             bool
	Listen, To       string
	Root, Chain, Key string
}

func bareTunnel(files *plainFiles, target string) (*tunnel, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return twoEnds("crypto/tls and io.Copy", target, func(near bool, listen, to string) (*exec.Cmd, error) {
		end := files.Far
		if near {
			end = files.Near
		}
		b, err := json.Marshal(bareJob{near, listen, to, files.Root, end.Chain, end.Key})
		cmd := exec.Command(self, workerName, bareName)
		cmd.Stdin = strings.NewReader(string(b))
		return cmd, err
	})
}

// twoEnds starts both ends of a tunnel and waits until they are there.
func twoEnds(name, target string, end func(near bool, listen, to string) (*exec.Cmd, error)) (t *tunnel, err error) {
	t = &tunnel{name: name}
	defer func() {
		if err != nil {
			t.stop()
		}
	}()
	middle, err := freeAddress()
	if err != nil {
		return nil, err
	}
	if t.address, err = freeAddress(); err != nil {
		return nil, err
	}
	for _, e := range []struct {
		near       bool
		listen, to string
		into       **child.Child
	}{{false, middle, target, &t.far}, {true, t.address, middle, &t.near}} {
		cmd, err := end(e.near, e.listen, e.to)
		if err != nil {
			return nil, err
		}
		cmd.Stderr = os.Stderr
		if *e.into, err = child.Start(cmd); err != nil {
			return nil, err
		}
	}
	return t, eventually(func() error { return oneByte(t.address) })
}

// bareWork is the main of such a worker. It ends when it is killed.
func bareWork() error {
	var j bareJob
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(j.Chain, j.Key)
	if err != nil {
		return err
	}
	root, err := os.ReadFile(j.Root)
	if err != nil {
		return err
	}
	ca := &plainCA{roots: x509.NewCertPool()}
	if !ca.roots.AppendCertsFromPEM(root) {
		return fmt.Errorf("%s: no certificate", j.Root)
	}
	l, err := net.Listen("tcp", j.Listen)
	if err != nil {
		return err
	}
	client, server := ca.client(&pair, farName), ca.server(&pair)
	for {
		in, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer in.Close()
			out, err := net.Dial("tcp", j.To)
			if err != nil {
				return
			}
			defer out.Close()
			if j.Near {
				bareCopy(in, tls.Client(out, client))
			} else {
				bareCopy(out, tls.Server(in, server))
			}
		}()
	}
}

func bareCopy(plain net.Conn, conn *tls.Conn) {
	if conn.HandshakeContext(context.Background()) != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { io.Copy(conn, plain); conn.CloseWrite() })
	both.Go(func() { io.Copy(plain, conn); plain.(*net.TCPConn).CloseWrite() })
	both.Wait()
}

// Debian's programs have TLS 1.3, the same cipher suite, their default key
// exchange, and no resumption.
const stunnelConfig = `foreground = yes
pid =
debug = err
[tunnel]
client = %s
accept = %s
connect = %s
CAfile = %s
cert = %s
key = %s
verifyChain = yes
sslVersion = TLSv1.3
ciphersuites = TLS_AES_128_GCM_SHA256
sessionResume = no
options = NO_TICKET
`

func stunnelTunnel(name, dir string, files *plainFiles, target string) (*tunnel, error) {
	program, err := exec.LookPath("stunnel4")
	if err != nil {
		return nil, err
	}
	return twoEnds(name, target, func(near bool, listen, to string) (*exec.Cmd, error) {
		client, end := "no", files.Far
		if near {
			client, end = "yes", files.Near
		}
		path := filepath.Join(dir, "stunnel-client-"+client)
		cmd := exec.Command(program, path)
		return cmd, os.WriteFile(path, fmt.Appendf(nil, stunnelConfig, client, listen, to, files.Root, end.Chain, end.Key), 0o600)
	})
}

// nginxModule is where Debian has what makes it proxy streams.
const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

const nginxConfig = `load_module %s;
daemon off;
master_process off;
pid %s.pid;
error_log %s.log error;
events { worker_connections 16384; }
stream {
  server {
    listen %s%s;
    proxy_pass %s;
%s
  }
}
`

const nginxNear = `    proxy_ssl on;
    proxy_ssl_certificate %s;
    proxy_ssl_certificate_key %s;
    proxy_ssl_trusted_certificate %s;
    proxy_ssl_verify on;
    proxy_ssl_verify_depth 2;
    proxy_ssl_name ` + farName + `;
    proxy_ssl_protocols TLSv1.3;
    proxy_ssl_session_reuse off;
    proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;`

const nginxFar = `    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_client_certificate %s;
    ssl_verify_client on;
    ssl_verify_depth 2;
    ssl_protocols TLSv1.3;
    ssl_session_tickets off;
    ssl_session_cache off;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;`

func nginxTunnel(name, dir string, files *plainFiles, target string) (*tunnel, error) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(nginxModule); err != nil {
		return nil, err
	}
	return twoEnds(name, target, func(near bool, listen, to string) (*exec.Cmd, error) {
		path, how, end, ssl := filepath.Join(dir, "nginx-far"), nginxFar, files.Far, " ssl"
		if near {
			path, how, end, ssl = filepath.Join(dir, "nginx-near"), nginxNear, files.Near, ""
		}
		how = fmt.Sprintf(how, end.Chain, end.Key, files.Root)
		cmd := exec.Command(program, "-e", path+".log", "-p", dir, "-c", path)
		return cmd, os.WriteFile(path, fmt.Appendf(nil, nginxConfig, nginxModule, path, path, listen, ssl, to, how), 0o600)
	})
}
