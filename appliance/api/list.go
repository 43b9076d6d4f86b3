package api

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
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

// A poll is a node that asks for what is newer than the list that it has.
type poll struct {
	after uint64
	wait  time.Duration
	// self is the node that the last certificate is for. Nothing is verified but
	// that the other end has the key of the first one.
	self  chancery.NodeID
	shown []*x509.Certificate // empty if there is no such node
}

// A news is what is said to a poll.
type news struct {
	update *ledger.Update // nil for none
	header http.Header
}

// serveList answers GET /v1/crl (docs/protocol.md section 6.4). The list is for
// everybody; a node that shows who it is hears more. All nodes of a fleet wait
// here, and come at once when there is a new list.
func (n *Node) serveList(w http.ResponseWriter, r *http.Request) {
	p, err := n.newPoll(r)
	if err != nil {
		refuse(w, n.Logger, &problem{chancery.Problem{Status: 422, Detail: err.Error(), Code: "invalid"}})
		return
	}
	s, _, err := n.news(p)
	if s == nil && err == nil {
		if conn, taken := n.park.take(w, r); taken {
			if conn != nil {
				go n.serveParked(conn, p)
			}
			return
		}
		s, err = n.wait(p, r.Context().Done())
	}
	if err != nil {
		refuse(w, n.Logger, err)
		return
	}
	maps.Copy(w.Header(), s.header)
	if s.update == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.update.List))
}

// serveParked answers a poll whose connection the server does not have.
func (n *Node) serveParked(conn *tls.Conn, p *poll) {
	s, err := n.wait(p, n.park.closed)
	if err != nil {
		told(n.Logger, err)
		n.park.drop(conn) // the node comes again
		return
	}
	n.park.giveBack(conn, s)
}

// newPoll reads the query: the number of the list that is held, and how long
// to wait for a newer one.
func (n *Node) newPoll(r *http.Request) (p *poll, err error) {
	p = &poll{}
	q := r.URL.Query()
	if s := q.Get("after"); s != "" {
		if p.after, err = strconv.ParseUint(s, 10, 64); err != nil {
			return nil, errors.New("after: want the number of a list")
		}
	}
	if s := q.Get("wait"); s != "" {
		seconds, err := strconv.ParseUint(s, 10, 8)
		if p.wait = time.Duration(seconds) * time.Second; err != nil || p.wait > maxPoll {
			return nil, fmt.Errorf("wait: want 0 to %d seconds", maxPoll/time.Second)
		}
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return p, nil
	}
	nc := r.TLS.PeerCertificates[len(r.TLS.PeerCertificates)-1]
	if key, err := chancery.ParsePublicKey(nc.RawSubjectPublicKeyInfo); err == nil {
		p.self, p.shown = chancery.NewNodeID(n.Pointer.FleetID(), key), r.TLS.PeerCertificates
	}
	return p, nil
}

// A change is what is closed when there may be news.
type change struct{ list, wish <-chan struct{} }

// news returns what there is to say to a poll at present. For one that waits it
// is nil if there is neither a newer list nor the wish that the node attests.
func (n *Node) news(p *poll) (s *news, c change, err error) {
	s = &news{}
	if s.update, c.list, err = n.Ledger.CRLAfter(p.after); err != nil {
		return nil, c, err
	}
	attest := false
	if len(p.shown) > 0 {
		// Whether it is that node is looked at if there is something to say to it,
		// so that a poll costs no signature.
		if attest, c.wish = n.Authority.AttestWanted(p.self); attest {
			_, err := n.peer(p.shown)
			attest = err == nil
		}
	}
	if s.update == nil && !attest && p.wait > 0 {
		return nil, c, nil
	}
	s.header = n.describe(s.update, attest, p.wait > 0)
	return s, c, nil
}

// wait waits for news as long as the poll wants, and until done is closed.
func (n *Node) wait(p *poll, done <-chan struct{}) (*news, error) {
	timer := time.NewTimer(p.wait)
	defer timer.Stop()
	for {
		s, c, err := n.news(p)
		if s != nil || err != nil {
			return s, err
		}
		select {
		case <-c.list:
			continue
		case <-c.wish:
			continue
		case <-timer.C:
		case <-done:
		}
		return &news{header: n.describe(nil, false, true)}, nil
	}
}

// describe makes the header of an answer.
func (n *Node) describe(u *ledger.Update, attest, waited bool) http.Header {
	h := http.Header{}
	// What was waited for is of that moment, and what is told to one node is
	// not for another.
	h.Set("Cache-Control", "no-store")
	if attest {
		h.Set(chancery.HeaderAttest, chancery.AttestNow)
	}
	if u != nil {
		if !waited && !attest {
			h.Set("Cache-Control", caching(u, n.Now()))
		}
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Etag", `"`+hex.EncodeToString(u.Sum[:16])+`"`)
	}
	return h
}

// caching is a Cache-Control (RFC 9111 section 5.2.2) by which no cache has an
// old list for long, and none one that is past its nextUpdate.
func caching(u *ledger.Update, now time.Time) string {
	age := max(0, min(cacheList, u.NextUpdate.Sub(now)))
	return fmt.Sprintf("public, max-age=%d, must-revalidate", age/time.Second)
}
