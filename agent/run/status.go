package run

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/agent/mesh"
	"github.com/chancery-pki/chancery/agent/state"
)

// A Status is what an agent says of itself. Its JSON form is what
// chancery-agent status -o json prints.
type Status struct {
	Running     bool            `json:"running"`
	Node        string          `json:"node"`
	NodeID      string          `json:"node_id"`
	Fleet       string          `json:"fleet"` // pin
	TrustDomain string          `json:"trust_domain"`
	Certificate CertificateInfo `json:"certificate"`
	Session     *SessionInfo    `json:"session_certificate,omitempty"`
	Pointer     PointerInfo     `json:"pointer"`
	CRL         *CRLInfo        `json:"crl,omitempty"`
	Anchor      *AnchorInfo     `json:"anchor,omitempty"`
	TPM         TPMInfo         `json:"tpm"`
	Listen      string          `json:"listen,omitempty"`
	Sessions    []LiveInfo      `json:"sessions,omitempty"`
	// Problems are what needs attention, by topic. Empty: all is well.
	Problems map[string]string `json:"problems,omitempty"`
}

// A CertificateInfo describes N:C.
type CertificateInfo struct {
	Serial    string    `json:"serial"`
	Assurance string    `json:"assurance"`
	Simulator bool      `json:"simulator"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// A SessionInfo describes the session certificate that handshakes show.
type SessionInfo struct {
	NotAfter time.Time `json:"not_after"`
}

// A PointerInfo describes the pointer record held.
type PointerInfo struct {
	Seq     uint64    `json:"seq"`
	Expires time.Time `json:"expires"`
}

// A CRLInfo describes the CRL held.
type CRLInfo struct {
	Number     uint64    `json:"number"`
	Revoked    uint64    `json:"revoked"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
	AgeSeconds int64     `json:"age_s"`
}

// An AnchorInfo describes the note of how far the node has come, which the
// chip's counter stands for.
type AnchorInfo struct {
	Counter uint64    `json:"counter"`
	Pointer uint64    `json:"pointer"`
	CRL     uint64    `json:"crl"`
	At      time.Time `json:"at"`
}

func anchorInfo(n *chancery.Anchor) *AnchorInfo {
	return &AnchorInfo{Counter: n.Counter, Pointer: n.Pointer, CRL: n.CRL, At: n.At}
}

// A TPMInfo describes the chip.
type TPMInfo struct {
	Device string `json:"device"`
	Chip   string `json:"chip,omitempty"`  // what it says of itself
	State  string `json:"state,omitempty"` // "ready", or why it does not sign; empty: not running
}

// A LiveInfo describes a live session with a peer.
type LiveInfo struct {
	Peer    string    `json:"peer"`
	Serial  string    `json:"serial"`
	Inbound bool      `json:"inbound"`
	Remote  string    `json:"remote"`
	Opened  time.Time `json:"opened"`
	Ends    time.Time `json:"ends"`
}

// status describes a running agent.
func (a *agent) status() *Status {
	s := describe(a.dir, a.config, a.nc.Load(), a.verifier, a.clock())
	s.Running = true
	s.Listen = a.listener.Addr().String()
	if c := a.identity.Load(); c != nil {
		s.Session = &SessionInfo{NotAfter: c.notAfter}
	}
	s.Anchor = anchorInfo(a.anchored.Load())
	maps.Copy(s.Problems, a.health.all())
	s.TPM.Chip, s.TPM.State = *a.chipInfo.Load(), "ready"
	for _, topic := range []string{topicKey, topicChip} {
		if p := s.Problems[topic]; p != "" {
			s.TPM.State = p
		}
	}
	for _, l := range a.mesh.Sessions() {
		s.Sessions = append(s.Sessions, live(l))
	}
	return s
}

func live(l mesh.SessionInfo) LiveInfo {
	return LiveInfo{Peer: l.Peer, Serial: l.Serial, Inbound: l.Inbound, Remote: l.Remote, Opened: l.Opened, Ends: l.Ends}
}

// Offline describes the node of a directory whose agent does not run, from
// what is on disk.
func Offline(dir *state.Dir, now time.Time) (*Status, error) {
	nc, err := dir.Certificate()
	if err != nil {
		return nil, err
	}
	config, err := dir.Config()
	if err != nil {
		return nil, err
	}
	fleet, err := config.Pin()
	if err != nil {
		return nil, err
	}
	p, err := dir.Pointer()
	if err != nil {
		return nil, err
	}
	if err := p.Verify(fleet); err != nil {
		return nil, err
	}
	v := chancery.NewVerifier(chancery.Trust{Pointer: p})
	list, err := dir.CRL()
	if err == nil {
		_, err = v.UpdateCRL(list, now)
	}
	s := describe(dir, config, nc, v, now)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Problems[topicCRL] = err.Error()
	}
	// Whether it is the last one, only the chip can tell.
	if note, err := dir.Anchor(); err == nil {
		s.Anchor = anchorInfo(note)
	} else {
		s.Problems[topicAnchor] = err.Error()
	}
	return s, nil
}

// describe says what follows from what a node holds. Problems is never nil.
func describe(dir *state.Dir, config *state.Config, nc *chancery.Certificate, v *chancery.Verifier, now time.Time) *Status {
	t := v.Trust()
	s := &Status{
		Node: nc.Name, NodeID: nc.NodeID(v.Fleet()).String(), Fleet: v.Fleet().Pin(), TrustDomain: t.Pointer.TrustDomain,
		Certificate: CertificateInfo{nc.Serial.String(), nc.Assurance.Level.String(), nc.Assurance.Simulator, nc.NotBefore, nc.NotAfter},
		Pointer:     PointerInfo{t.Pointer.Seq, t.Pointer.Expires},
		TPM:         TPMInfo{Device: config.TPM},
		Problems:    map[string]string{},
	}
	if t.CRL == nil {
		s.Problems["crl-missing"] = chancery.ErrCRLMissing.Error()
	} else {
		h := t.CRL.Head()
		s.CRL = &CRLInfo{h.Number, t.CRL.Revoked(), h.ThisUpdate, h.NextUpdate, int64(now.Sub(h.ThisUpdate) / time.Second)}
		if err := t.CRL.Fresh(now); err != nil {
			s.Problems["crl-stale"] = err.Error()
		}
	}
	if now.After(t.Pointer.Expires) {
		s.Problems["pointer-expired"] = fmt.Sprintf("%v: at %s", chancery.ErrPointerExpired, t.Pointer.Expires)
	}
	if err := ownStanding(v, nc, now); err != nil {
		s.Problems["certificate"] = err.Error()
	}
	for _, alarm := range dir.Alarms() {
		s.Problems[string(alarm)] = fmt.Sprintf("%s; no peer is accepted until an operator has looked (chancery-agent fork show) and cleared it (chancery-agent fork clear)", alarm)
	}
	return s
}

// ownStanding judges this node's own N:C as a peer would. A list that is stale
// or missing says nothing about it.
func ownStanding(v *chancery.Verifier, nc *chancery.Certificate, now time.Time) error {
	err := v.Recheck(&chancery.Peer{Name: nc.Name, NodeID: nc.NodeID(v.Fleet()), Certificate: nc}, chancery.Policy{}, now)
	for _, e := range []error{chancery.ErrCRLMissing, chancery.ErrCRLStale, chancery.ErrNewerThanCRL} {
		if errors.Is(err, e) {
			return nil
		}
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("this node's own certificate: %w", errors.Unwrap(err))
}

// Topics returns the topics of the problems in order.
func (s *Status) Topics() []string { return slices.Sorted(maps.Keys(s.Problems)) }
