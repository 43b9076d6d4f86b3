package main

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/chancery-pki/chancery/merkle"
)

// blockSize is what SHA-256 compresses at a time (FIPS 180-4 section 5.3.3).
const blockSize = 64

// blocks is how many of them a message takes, with its padding.
func blocks(bytes int) int { return (bytes + 1 + 8 + blockSize - 1) / blockSize }

// hashing holds the hashes of the log against what the processor compresses at
// most in a single stream, and builds a tree on one and on two processors.
func hashing() (results []Result, err error) {
	const command = command + " hashing"
	entry := make([]byte, 300) // as the entry of a node with a role
	rand.Read(entry)
	long := make([]byte, 64<<10)
	var leaf, other merkle.Hash
	rand.Read(other[:])
	// The loops are as long as each other, a few ms, so that the clock rate is
	// the same.
	const n = 10_000
	nsPerBlock, kinds := []float64{}, []struct {
		id, what string
		bytes    int
		run      func()
		ns       []float64
	}{
		{"leaf", "nanoseconds to hash an entry of 300 bytes to a leaf", 1 + len(entry), func() { leaf = merkle.HashLeaf(entry) }, nil},
		{"node", "nanoseconds to hash two nodes to one", 1 + 2*sha256.Size, func() { leaf = merkle.HashChildren(leaf, other) }, nil},
	}
	for range sized(61, 11) {
		us, err := onThread(func() error {
			for range n / 100 {
				leaf = sha256.Sum256(long)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		nsPerBlock = append(nsPerBlock, us*1000/float64(n/100*blocks(len(long))))
		for i := range kinds {
			if us, err = onThread(func() error {
				for range n {
					kinds[i].run()
				}
				return nil
			}); err != nil {
				return nil, err
			}
			kinds[i].ns = append(kinds[i].ns, us*1000/n)
		}
	}
	for _, k := range kinds {
		limit := make([]float64, len(nsPerBlock))
		for i, ns := range nsPerBlock {
			limit[i] = ns * float64(blocks(k.bytes))
		}
		a, b := median(k.ns), median(limit)
		allocs, err := allocations(n, func() error { k.run(); return nil })
		if err != nil {
			return nil, err
		}
		results = append(results, Result{ID: "hashing-" + k.id, What: k.what, Ours: a, Beside: b, Peer: fmt.Sprintf("%d blocks of a single stream of 64 KiB", blocks(k.bytes)), Ratio: b / a,
			Met: true, Command: command}.of(k.ns, limit),
			within("hashing-"+k.id+"-allocations", "allocations for it", allocs, 0))
		results[len(results)-1].Command = command
	}
	mb := blockSize / median(nsPerBlock) * 1000
	stream := Result{ID: "hashing-stream", What: "megabytes a second that the standard library hashes in a single stream", Ours: mb, Target: ">= 0.9", Command: command}
	if theirs, name, err := opensslHashing(len(long)); err == nil {
		stream.Beside, stream.Peer, stream.Ratio, stream.Met = theirs, name, mb/theirs, mb >= 0.9*theirs
		results = append(results, stream)
	} else {
		results = append(results, absent(stream.ID, err))
	}
	tree, err := treeBuilding(command)
	return append(results, tree...), err
}

var opensslSpeed = regexp.MustCompile(`(?m)^\+F:\d+:[^:]*:([0-9.]+)`)

// opensslHashing is what OpenSSL hashes of messages of that size, in megabytes
// a second.
func opensslHashing(size int) (float64, string, error) {
	version, err := exec.Command("openssl", "version").Output()
	if err != nil {
		return 0, "", err
	}
	out, err := exec.Command("openssl", "speed", "-mr", "-seconds", strconv.Itoa(sized(3, 1)), "-bytes", strconv.Itoa(size), "-evp", "sha256").Output()
	if err != nil {
		return 0, "", err
	}
	m := opensslSpeed.FindSubmatch(out)
	if m == nil {
		return 0, "", errors.New("openssl speed says something else")
	}
	rate, err := strconv.ParseFloat(string(m[1]), 64)
	name := strings.Join(strings.Fields(string(version))[:2], " ")
	return rate / 1e6, name, err
}

// treeBuilding builds a tree of a million entries: leaves and nodes by one
// processor, and leaves by two.
func treeBuilding(command string) ([]Result, error) {
	entries := make([][]byte, sized(1<<20, 1<<17))
	all := make([]byte, 300*len(entries))
	rand.Read(all)
	for i := range entries {
		entries[i] = all[300*i : 300*(i+1)]
	}
	var root merkle.Hash
	build := func(processors int) (float64, error) {
		runtime.GC()
		began := time.Now()
		leaves := make([]merkle.Hash, len(entries))
		var group sync.WaitGroup
		for p := range processors {
			group.Go(func() {
				for i := len(entries) * p / processors; i < len(entries)*(p+1)/processors; i++ {
					leaves[i] = merkle.HashLeaf(entries[i])
				}
			})
		}
		group.Wait()
		var t merkle.Tree
		t.Append(leaves...)
		took := milliseconds(time.Since(began))
		if root == (merkle.Hash{}) {
			root = t.Root()
		}
		if t.Root() != root {
			return 0, errors.New("another root")
		}
		return took, nil
	}
	var one, two []float64
	for range rounds {
		for _, side := range []struct {
			n    int
			into *[]float64
		}{{1, &one}, {2, &two}} {
			ms, err := build(side.n)
			if err != nil {
				return nil, err
			}
			*side.into = append(*side.into, ms)
		}
	}
	a, b := median(two), median(one)
	return []Result{Result{ID: "hashing-tree", What: fmt.Sprintf("milliseconds to build a tree of %d entries, leaves by two processors", len(entries)), Ours: a, Beside: b, Peer: "all by one",
		Ratio: b / a, Met: true, Command: command}.of(two, one)}, nil
}
