package authority

import (
	"bytes"
	"sync"

	"github.com/chancery-pki/chancery"
)

// trees remembers which trees of CA:N:S were signed lately, and how, so that
// an answer that comes back with a submission needs no verification.
type trees struct {
	mu   sync.Mutex
	list map[chancery.CANSTree]chancery.Signature
}

// maxTrees bounds the memory: one tree is one batch, and an answer lives for
// ten minutes.
const maxTrees = 1 << 14

func (t *trees) add(tree chancery.CANSTree, sig chancery.Signature) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.list == nil || len(t.list) >= maxTrees { // those that are forgotten are verified
		t.list = map[chancery.CANSTree]chancery.Signature{}
	}
	t.list[tree] = sig
}

func (t *trees) has(tree chancery.CANSTree, sig chancery.Signature) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.list[tree]
	return ok && bytes.Equal(known, sig)
}
