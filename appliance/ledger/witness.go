package ledger

import (
	"context"

	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/appliance/witnesses"
	"github.com/chancery-pki/chancery/merkle"
)

// Witnesses are asked beside the loop and never by it: CA:SK, and the next list
// of revocations, wait for nobody else's machine.

// cosigned tells whether certificates wait for witnesses.
func (l *Ledger) cosigned() bool { return l.Witnesses != nil && l.WitnessWait > 0 }

// witness asks the witnesses about the newest checkpoint, and shows it anew
// with what they sign.
func (c checkpoints) witness() {
	if c.Witnesses == nil || c.Witnesses.Len() == 0 {
		return
	}
	shown := c.public.newest.Load()
	if shown == nil || !c.public.asking.CompareAndSwap(false, true) {
		return // the next heartbeat asks
	}
	c.beside.Go(func() {
		defer c.public.asking.Store(false)
		c.ask(c.life, shown, nil)
	})
}

// ask asks about a checkpoint that is shown, and about a batch under it.
func (c checkpoints) ask(ctx context.Context, shown *published, batch *store.Subtree) []merkle.SubtreeSignature {
	r := witnesses.Request{Checkpoint: shown.note, Prove: func(_ context.Context, old uint64) ([]merkle.Hash, error) {
		return c.tree.consistency(merkle.Subtree{End: old}, shown.size)
	}}
	if batch != nil {
		proof, err := c.tree.consistency(batch.Tree, shown.size)
		if err != nil {
			c.Logger.Error("witnesses cannot be asked", "error", err)
			return nil
		}
		r.Subtrees = []witnesses.Subtree{{Subtree: batch.Tree, Hash: batch.Root, Proof: proof}}
	}
	answer, err := c.Witnesses.Gather(ctx, r)
	if err != nil {
		c.Logger.Error("witnesses cannot be asked", "log", c.public.Origin, "error", err)
		return nil
	}
	for _, away := range answer.Away {
		if ctx.Err() == nil || batch != nil {
			c.Logger.Warn("witness did not cosign", "log", c.public.Origin, "size", shown.size, "error", away)
		}
	}
	c.public.newest.CompareAndSwap(shown, &published{shown.size, answer.Checkpoint}) // unless a newer one came
	if batch == nil {
		return nil
	}
	return answer.Subtrees[0]
}

// cosign gets a batch cosigned and releases its certificates, with as many
// cosignatures as came in time: relying parties say how many they want.
func (l *Ledger) cosign(batch []*issue, s *store.Subtree) {
	l.beside.Go(func() {
		defer release(batch, issued{subtree: s})
		c := l.ofIssuance()
		if c.public.asking.CompareAndSwap(false, true) { // it asks about this checkpoint anyway
			defer c.public.asking.Store(false)
		}
		if err := l.call(l.life, issuanceHeads); err != nil { // a witness wants a checkpoint that has the batch in it
			l.Logger.Error("no checkpoint for the witnesses", "error", err)
			return
		}
		ctx, cancel := context.WithTimeout(l.life, l.WitnessWait)
		defer cancel()
		list := c.ask(ctx, c.public.newest.Load(), s)
		if len(list) == 0 {
			return
		}
		err := l.commit(l.life, func(tx *store.Tx) error { return tx.InsertCosignatures(l.log, s, list) })
		if err != nil { // a certificate must be the same whenever it is put together
			l.Logger.Error("cosignatures are lost", "error", err)
			return
		}
		s.Cosignatures = list
	})
}

func (t *lockedTree) consistency(s merkle.Subtree, size uint64) ([]merkle.Hash, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.Consistency(s, size)
}
