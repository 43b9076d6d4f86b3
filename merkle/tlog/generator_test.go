package tlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery/merkle"
)

// The draft's own generator lays a log out as we do, and signs what we take
// for the draft's message.
func TestGenerator(t *testing.T) {
	files := os.DirFS(filepath.Join("testdata", "generator"))
	b, err := fs.ReadFile(files, checkpointPath)
	must(t, err)
	n, c, err := parseSigned(b)
	must(t, err)
	if again, err := n.Marshal(); err != nil || !bytes.Equal(again, b) {
		t.Errorf("the checkpoint marshals to %q, %v", again, err)
	}
	if c.Origin != logOrigin(t) || c.Size != 520 || len(n.Signatures) != 6 {
		t.Errorf("%+v with %d signatures", c, len(n.Signatures))
	}

	tree, err := Open(t.Context(), Dir(files), c.Size, c.Root, nil)
	must(t, err)
	var ours merkle.Tree
	for entry, err := range tree.Entries(t.Context(), 0, c.Size) {
		must(t, err)
		if _, err := merkle.ParseEntry(entry); err != nil {
			t.Errorf("entry %d: %v", ours.Size(), err)
		}
		ours.Append(merkle.HashLeaf(entry))
	}
	if ours.Root() != c.Root {
		t.Errorf("root %v, want %v", ours.Root(), c.Root)
	}
	have := map[string]bool{}
	for tile := range TilesSince(0, c.Size) {
		have[tile.Path()] = true
		if tile.Level == Entries {
			continue
		}
		theirs, err := fs.ReadFile(files, tile.Path())
		must(t, err)
		if b, err := Make(tile, &ours); err != nil || !bytes.Equal(b, theirs) {
			t.Errorf("%s differs: %v", tile, err)
		}
	}
	must(t, fs.WalkDir(files, "tile", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !have[path] {
			t.Errorf("%s is not a tile of %d entries", path, c.Size)
		}
		return err
	}))

	// The CA cosigner's signature, which the generator makes without a time.
	key := generatorKey(t)
	signature := n.Signatures[0]
	message := merkle.CosignedMessage{Cosigner: caID(t), Log: merkle.LogID(caID(t), 1), Subtree: merkle.Subtree{End: c.Size}, Hash: c.Root}
	digest := sha256.Sum256(message.Marshal())
	if signature.Name != caID(t).Origin() || !ecdsa.VerifyASN1(key, digest[:], signature.Bytes) {
		t.Errorf("%s did not sign the checkpoint", signature.Name)
	}
	// Its type is not ours, and so it is ignored and not refused.
	ours2, err := NewCosignerKey(caID(t), key)
	must(t, err)
	p, err := NewPolicy(c.Origin, []*Key{ours2}, nil, 0)
	must(t, err)
	if _, err := p.Open(b); err == nil || !strings.Contains(err.Error(), ErrNoSignature.Error()) {
		t.Errorf("the generator's signature: %v", err)
	}
}

// generatorKey is the CA cosigner's key in the generator's configuration.
func generatorKey(t *testing.T) *ecdsa.PublicKey {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "generator", "p256", "mtc.json"))
	must(t, err)
	var config struct {
		Cosigners []struct{ CosignerID, PrivateKey string }
	}
	must(t, json.Unmarshal(b, &config))
	der, err := base64.StdEncoding.DecodeString(config.Cosigners[0].PrivateKey)
	must(t, err)
	key, err := x509.ParsePKCS8PrivateKey(der)
	must(t, err)
	return &key.(*ecdsa.PrivateKey).PublicKey
}
