// Package witnesses asks other people's machines to cosign: the checkpoints of
// the coordinator's logs, and the subtrees that certificates are proved against
// (docs/protocol.md section 5.7). Start with [New] and [Set.Gather].
//
// A coordinator does not depend on its witnesses. Each is asked at the same time
// as the others and has a time limit of its own; one that is away costs its
// signature, and is named in the answer. Whether what came is enough is for the
// caller to say, or for the nodes, whose policy counts (chancery.Policy).
//
// Nothing that a witness sends is believed: a signature that does not verify
// under a configured key is one that did not come.
package witnesses

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chancery-pki/chancery/merkle"
	"github.com/chancery-pki/chancery/merkle/tlog"
)

// A Config is a [[witness]] table: a witness that cosigns this coordinator's
// logs.
type Config struct {
	// URL is the witness's submission prefix, as in "https://witness.example".
	URL string `toml:"url"`
	// Keys are the witness's verifier keys, as chancery witness init prints them:
	// with the one of its trust anchor ID it signs for certificates.
	Keys []string `toml:"keys"`
}

// DefaultTimeout is how long one witness may take for all that it is asked at a
// time.
const DefaultTimeout = 10 * time.Second

// maxKeys leaves room for the log's own signatures in a note.
const maxKeys = 16

// A Set is the witnesses of a coordinator. Its methods may be called
// concurrently.
type Set struct {
	all     []*witness
	timeout time.Duration
}

type witness struct {
	url  string
	keys []*tlog.Key
	http *http.Client

	mu   sync.Mutex // guards logs
	logs map[string]*tlog.WitnessClient
}

// New returns the witnesses of a configuration. A timeout of 0 is
// [DefaultTimeout], a nil client one without limits of its own.
func New(configs []Config, timeout time.Duration, client *http.Client) (*Set, error) {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	if client == nil {
		client = &http.Client{}
	}
	s := &Set{timeout: timeout}
	seen := map[string]string{} // URLs by key and by cosigner ID
	claim := func(what, url string) error {
		if other, ok := seen[what]; ok {
			// One that answers for two would count as two, and a certificate has
			// room for one signature of an ID.
			return fmt.Errorf("witness %s has a key or ID of %s", url, other)
		}
		seen[what] = url
		return nil
	}
	for _, c := range configs {
		w := &witness{url: c.URL, http: client, logs: map[string]*tlog.WitnessClient{}}
		for _, vkey := range c.Keys {
			k, err := tlog.ParseKey(vkey)
			if err != nil {
				return nil, fmt.Errorf("witness %s: %w", c.URL, err)
			}
			spki, err := x509.MarshalPKIXPublicKey(k.Public())
			if err != nil {
				return nil, fmt.Errorf("witness %s: %w", c.URL, err)
			}
			if err := claim(string(spki), c.URL); err != nil {
				return nil, err
			}
			if id := k.CosignerID(); !id.IsZero() {
				if err := claim(id.String(), c.URL); err != nil {
					return nil, err
				}
			}
			w.keys = append(w.keys, k)
		}
		if _, err := tlog.NewWitnessClient(w.url, w.keys, client); err != nil {
			return nil, fmt.Errorf("witness %s: %w", c.URL, err)
		}
		s.all = append(s.all, w)
	}
	if n := len(s.Keys()); n > maxKeys {
		return nil, fmt.Errorf("witnesses with %d keys, at most %d", n, maxKeys)
	}
	return s, nil
}

// Len is the number of witnesses.
func (s *Set) Len() int { return len(s.all) }

// Keys are the keys of all the witnesses, for a tlog.Policy.
func (s *Set) Keys() (keys []*tlog.Key) {
	for _, w := range s.all {
		keys = append(keys, w.keys...)
	}
	return keys
}

// A Request is what the witnesses are asked.
type Request struct {
	// Checkpoint is the note that the log signed. Those witnesses whose
	// cosignature is under it already are not asked for another.
	Checkpoint []byte
	// Prove returns the consistency proof from an older size of the log to that
	// of the checkpoint. It is called for each witness, concurrently.
	Prove func(ctx context.Context, old uint64) ([]merkle.Hash, error)
	// Subtrees are to be signed for certificates, once the checkpoint is
	// cosigned. Optional.
	Subtrees []Subtree
}

// A Subtree is one of the checkpoint's tree, with the proof that it is.
type Subtree struct {
	merkle.Subtree
	Hash  merkle.Hash
	Proof []merkle.Hash // merkle.Tree.Consistency of the subtree and the checkpoint's size
}

// An Answer is what came in time.
type Answer struct {
	// Checkpoint is the request's, with the cosignatures added.
	Checkpoint []byte
	// Subtrees are the signatures over each of the request's, in the order of
	// their cosigners: they stand in a certificate beside the CA's.
	Subtrees [][]merkle.SubtreeSignature
	// Away says of witnesses why they did not do all that they were asked.
	Away []*AwayError
}

// An AwayError is a witness that did not answer, or not as it should.
type AwayError struct {
	URL string
	Err error
}

func (e *AwayError) Error() string { return fmt.Sprintf("witness %s: %v", e.URL, e.Err) }
func (e *AwayError) Unwrap() error { return e.Err }

// Gather asks all witnesses. An error is about the request; witnesses that are
// away are in the answer. After the context's end it returns what came until
// then.
func (s *Set) Gather(ctx context.Context, r Request) (*Answer, error) {
	note, err := tlog.ParseNote(r.Checkpoint)
	if err != nil {
		return nil, err
	}
	checkpoint, err := tlog.ParseCheckpoint(note.Text)
	if err != nil {
		return nil, err
	}
	answers := make([]answer, len(s.all))
	var all sync.WaitGroup
	for i, w := range s.all {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, s.timeout)
			defer cancel()
			answers[i] = w.ask(ctx, &r, note, checkpoint)
		})
	}
	all.Wait()

	out := &Answer{Subtrees: make([][]merkle.SubtreeSignature, len(r.Subtrees))}
	signatures := slices.Clone(note.Signatures)
	for i, a := range answers {
		signatures = append(signatures, a.cosignatures...)
		for j, more := range a.subtrees {
			out.Subtrees[j] = append(out.Subtrees[j], more...)
		}
		if a.err != nil {
			out.Away = append(out.Away, &AwayError{s.all[i].url, a.err})
		}
	}
	for _, list := range out.Subtrees {
		slices.SortFunc(list, func(a, b merkle.SubtreeSignature) int { return a.Cosigner.Compare(b.Cosigner) })
	}
	out.Checkpoint, err = (&tlog.Note{Text: note.Text, Signatures: signatures}).Marshal()
	return out, err
}

// An answer is one witness's.
type answer struct {
	cosignatures []tlog.Signature
	subtrees     [][]merkle.SubtreeSignature // of the first of the request's
	err          error
}

func (w *witness) ask(ctx context.Context, r *Request, note *tlog.Note, checkpoint *tlog.Checkpoint) (a answer) {
	for _, k := range w.keys {
		if id := k.CosignerID(); !id.IsZero() && strings.HasPrefix(checkpoint.Origin, id.Origin()+".0.") {
			return answer{err: fmt.Errorf("it is the CA %v itself", id)}
		}
	}
	client, err := w.client(checkpoint.Origin)
	if err != nil {
		return answer{err: err}
	}
	cosigned := w.under(note, checkpoint)
	if len(cosigned) == 0 {
		if a.cosignatures, a.err = client.Cosign(ctx, r.Checkpoint, r.Prove); a.err != nil {
			return a
		}
		cosigned = a.cosignatures
	}
	if len(r.Subtrees) == 0 || !slices.ContainsFunc(w.keys, func(k *tlog.Key) bool { return k.Kind() == tlog.Cosigner }) {
		return a
	}
	own, err := (&tlog.Note{Text: note.Text, Signatures: cosigned}).Marshal()
	if err != nil {
		a.err = err
		return a
	}
	for _, s := range r.Subtrees {
		signatures, err := client.SignSubtree(ctx, &tlog.SubtreeRequest{Subtree: s.Subtree, Hash: s.Hash, Proof: s.Proof, Checkpoint: own})
		if err != nil {
			a.err = err
			return a
		}
		a.subtrees = append(a.subtrees, signatures)
	}
	return a
}

// under returns the witness's good signatures under a checkpoint.
func (w *witness) under(note *tlog.Note, c *tlog.Checkpoint) (own []tlog.Signature) {
	for _, s := range note.Signatures {
		for _, k := range w.keys {
			if _, err := k.Verify(c, s); err == nil {
				own = append(own, s)
			}
		}
	}
	return own
}

// client returns the client of a log: it knows what the witness cosigned last.
func (w *witness) client(origin string) (*tlog.WitnessClient, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.logs[origin]; c != nil {
		return c, nil
	}
	c, err := tlog.NewWitnessClient(w.url, w.keys, w.http)
	if err != nil {
		return nil, err
	}
	w.logs[origin] = c
	return c, nil
}
