package api

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/ledger"
)

const (
	// maxPoll is how long a node may wait for a newer list.
	maxPoll = 60 * time.Second
	// cacheList is how long a cache may hand a list out: as much later than by a
	// poll may a revocation come to those who ask the cache.
	cacheList = 10 * time.Second
)

// serveList answers GET /v1/crl (docs/protocol.md section 6.4). The list is for
// everybody; a node that shows who it is hears more. All nodes of a fleet wait
// here, and come at once when there is a new list.
func (n *Node) serveList(w http.ResponseWriter, r *http.Request) {
	after, wait, err := pollParameters(r)
	if err != nil {
		refuse(w, n.Logger, &problem{chancery.Problem{Status: 422, Detail: err.Error(), Code: "invalid"}})
		return
	}
	update, attest, err := n.poll(r, after, wait)
	if err != nil {
		refuse(w, n.Logger, err)
		return
	}
	h := w.Header()
	// What was waited for is of that moment, and what is told to one node is
	// not for another.
	h.Set("Cache-Control", "no-store")
	if attest {
		h.Set(chancery.HeaderAttest, chancery.AttestNow)
	}
	if update == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if wait == 0 && !attest {
		h.Set("Cache-Control", caching(update, n.Now()))
	}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+hex.EncodeToString(update.Sum[:16])+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(update.List))
}

// caching is a Cache-Control (RFC 9111 section 5.2.2) by which no cache has an
// old list for long, and none one that is past its nextUpdate.
func caching(u *ledger.Update, now time.Time) string {
	age := max(0, min(cacheList, u.NextUpdate.Sub(now)))
	return fmt.Sprintf("public, max-age=%d, must-revalidate", age/time.Second)
}

// pollParameters reads the query: the number of the list that is held, and how
// long to wait for a newer one.
func pollParameters(r *http.Request) (after uint64, wait time.Duration, err error) {
	q := r.URL.Query()
	if s := q.Get("after"); s != "" {
		if after, err = strconv.ParseUint(s, 10, 64); err != nil {
			return 0, 0, fmt.Errorf("after: want the number of a list")
		}
	}
	if s := q.Get("wait"); s != "" {
		seconds, err := strconv.ParseUint(s, 10, 8)
		if wait = time.Duration(seconds) * time.Second; err != nil || wait > maxPoll {
			return 0, 0, fmt.Errorf("wait: want 0 to %d seconds", maxPoll/time.Second)
		}
	}
	return after, wait, nil
}

// poll waits for what the node does not have yet: a newer list, or the wish
// that it attest.
func (n *Node) poll(r *http.Request, after uint64, wait time.Duration) (update *ledger.Update, attest bool, err error) {
	self, claims := n.claims(r)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		update, changed, err := n.Ledger.CRLAfter(after)
		if err != nil {
			return nil, false, err
		}
		var asked <-chan struct{}
		if claims {
			// Whether it is that node is looked at if there is something to say to
			// it, so that a poll costs no signature.
			if attest, asked = n.Authority.AttestWanted(self); attest {
				_, err := n.channel(r.Context(), true)
				attest = err == nil
			}
		}
		if update != nil || attest || wait == 0 {
			return update, attest, nil
		}
		select {
		case <-changed:
		case <-asked:
		case <-timer.C:
			return nil, false, nil
		case <-r.Context().Done():
			return nil, false, nil
		}
	}
}

// claims returns the node that the other end's certificate is for. Nothing is
// verified but that the other end has the certificate's key.
func (n *Node) claims(r *http.Request) (id chancery.NodeID, ok bool) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return id, false
	}
	nc := r.TLS.PeerCertificates[len(r.TLS.PeerCertificates)-1]
	key, err := chancery.ParsePublicKey(nc.RawSubjectPublicKeyInfo)
	if err != nil {
		return id, false
	}
	return chancery.NewNodeID(n.Pointer.FleetID(), key), true
}
