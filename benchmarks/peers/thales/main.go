// Thales signs with github.com/ThalesGroup/crypto11, for the benchmarks, which
// start it. It reads a job and then counts, each a line of JSON, and answers
// each with what so many signatures cost.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/ThalesGroup/crypto11"
)

// A job is as in the benchmarks.
type job struct {
	Module, Token, PINFile, Key string
	Sessions, Callers           int
	Message                     []byte
}

// A cost is as in the benchmarks.
type cost struct {
	CPU  float64 // microseconds of one signature
	Wall float64 // likewise, of the clock
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var j job
	if err := in.Decode(&j); err != nil {
		return err
	}
	sign, err := open(j)
	if err != nil {
		return err
	}
	for {
		var n int
		if err := in.Decode(&n); err != nil {
			return nil // nobody asks any more
		}
		c, err := measure(n, j.Callers, sign)
		if err != nil {
			return err
		}
		if err := out.Encode(c); err != nil {
			return err
		}
	}
}

func open(j job) (sign func() error, err error) {
	pin, err := os.ReadFile(j.PINFile)
	if err != nil {
		return nil, err
	}
	// One session is the library's own.
	c, err := crypto11.Configure(&crypto11.Config{Path: j.Module, TokenLabel: j.Token, Pin: string(pin), MaxSessions: j.Sessions + 1})
	if err != nil {
		return nil, err
	}
	key, err := c.FindKeyPair(nil, []byte(j.Key))
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, errors.New("the token does not have the key")
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T", key.Public())
	}
	return func() error {
		digest := sha256.Sum256(j.Message)
		sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return err
		}
		if !ecdsa.VerifyASN1(public, digest[:], sig) {
			return errors.New("signature does not verify")
		}
		return nil
	}, nil
}

func measure(n, callers int, sign func() error) (cost, error) {
	runtime.GC()
	failed := make([]error, callers)
	var group sync.WaitGroup
	start, began := cpu(), time.Now()
	for i := range callers {
		group.Go(func() {
			for range n / callers {
				if failed[i] = sign(); failed[i] != nil {
					return
				}
			}
		})
	}
	group.Wait()
	used, took := cpu()-start, time.Since(began)
	n = n / callers * callers
	return cost{float64(used.Nanoseconds()) / 1000 / float64(n), float64(took.Nanoseconds()) / 1000 / float64(n)}, errors.Join(failed...)
}

// cpu is the CPU time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
