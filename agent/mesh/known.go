package mesh

import (
	"sync"

	"github.com/chancery-pki/chancery"
)

// maxKnown bounds the peers that are remembered. When it is full, some other is
// forgotten, and refused once the list is stale.
const maxKnown = 4096

// known are the peers that this node has had a session with. The zero value
// knows nobody.
type known struct {
	mu  sync.Mutex // guards ids
	ids map[chancery.NodeID]struct{}
}

func (k *known) note(id chancery.NodeID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ids == nil {
		k.ids = map[chancery.NodeID]struct{}{}
	}
	if _, ok := k.ids[id]; !ok && len(k.ids) >= maxKnown {
		for other := range k.ids {
			delete(k.ids, other)
			break
		}
	}
	k.ids[id] = struct{}{}
}

func (k *known) has(id chancery.NodeID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.ids[id]
	return ok
}
