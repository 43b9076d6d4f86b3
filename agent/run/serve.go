package run

import (
	"context"
	"sync"

	"github.com/chancery-pki/chancery/agent/ping"
)

// servePeers answers the pings of peers until ctx ends.
func (a *agent) servePeers(ctx context.Context) {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer context.AfterFunc(ctx, func() { a.mesh.Close() })()
	for {
		s, err := a.listener.AcceptSession()
		if err != nil {
			return // closed
		}
		sessions.Go(func() {
			if err := ping.Serve(s, a.config.Name); err != nil {
				a.Logger.Debug("session ended", "peer", s.Peer().Name, "error", err)
			}
		})
	}
}
