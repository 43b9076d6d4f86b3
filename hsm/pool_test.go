package hsm_test

import (
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/hsm/hsmtest"
)

func TestMain(m *testing.M) {
	hsm.SignerProcess()
	os.Exit(m.Run())
}

func TestPool(t *testing.T) {
	uri := hsmtest.New(t)
	hsmtest.Generate(t, uri, "ca")
	pool, err := hsm.OpenPool(t.Context(), hsm.PoolConfig{Tokens: []hsm.TokenConfig{{URI: uri}}, Keys: []hsm.PinnedKey{{Name: "ca", Key: hsm.URI{Object: "ca"}}},
		Fleet: fleet, Latch: hsm.Latch(t.TempDir()), Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	check(t, err)
	defer pool.Close()
	key, err := pool.Key("ca")
	check(t, err)
	start := time.Now()
	var g sync.WaitGroup
	for range 64 {
		g.Go(func() {
			for n := range 50 {
				sig, err := key.Sign(t.Context(), fleet, approval(byte(n)))
				if err != nil {
					t.Error(err)
					return
				}
				check(t, key.PublicKey().Verify(fleet, approval(byte(n)), sig))
			}
		})
	}
	g.Wait()
	t.Log(time.Since(start))
	t.Logf("%+v", pool.Status())
}
