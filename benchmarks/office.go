package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/device"
)

// An office is the part of a coordinator that issues, in this process: ledger,
// store and pool over the directory that chancery init made, and nobody's
// network before them.
type office struct {
	pool     *hsm.Pool
	ca       *hsm.PoolKey
	approval *hsm.PoolKey
	pointer  *chancery.Pointer
	store    *store.Store
	ledger   *ledger.Ledger // nil until open
}

// officeConfig is what an office reads of chancery.toml.
type officeConfig struct {
	HSM []struct {
		URI         string            `toml:"uri"`
		Environment map[string]string `toml:"environment"`
	} `toml:"hsm"`
	Keys struct {
		CA       string `toml:"ca"`
		Approval string `toml:"approval"`
	} `toml:"keys"`
}

// newOffice opens store and token of a directory that no coordinator works on.
// With a model the token is as slow as that says.
func newOffice(dir string, model *device.Model) (o *office, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "chancery.toml"))
	if err != nil {
		return nil, err
	}
	var config officeConfig
	if err := toml.Unmarshal(b, &config); err != nil {
		return nil, err
	}
	o = &office{}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	if o.store, err = store.Open(context.Background(), filepath.Join(dir, "chancery.db")); err != nil {
		return o, err
	}
	err = o.store.View(context.Background(), func(tx *store.Tx) (err error) {
		o.pointer, err = tx.Pointer()
		return err
	})
	if err != nil {
		return o, err
	}
	token := hsm.TokenConfig{Environment: config.HSM[0].Environment}
	if token.URI, err = hsm.ParseURI(config.HSM[0].URI); err != nil {
		return o, err
	}
	if model != nil {
		d, err := device.New(filepath.Join(dir, "device"), token.URI.ModulePath, *model)
		if err != nil {
			return o, err
		}
		defer d.Close() // the signer process goes on with it
		token.URI.ModulePath = d.Module()
		maps.Copy(token.Environment, d.Env())
	}
	return o, o.openPool(dir, token, &config)
}

func (o *office) openPool(dir string, token hsm.TokenConfig, config *officeConfig) (err error) {
	c := hsm.PoolConfig{Tokens: []hsm.TokenConfig{token}, Fleet: o.pointer.FleetID(), Latch: hsm.Latch(filepath.Join(dir, "latch")), Logger: slog.New(slog.DiscardHandler)}
	for _, k := range []struct {
		name, uri string
		public    chancery.PublicKey
	}{{"ca", config.Keys.CA, o.pointer.Current().Key}, {"approval", config.Keys.Approval, o.pointer.Approval}} {
		uri, err := hsm.ParseURI(k.uri)
		if err != nil {
			return err
		}
		c.Keys = append(c.Keys, hsm.PinnedKey{Name: k.name, Key: uri, Public: k.public})
	}
	if o.pool, err = hsm.OpenPool(context.Background(), c); err != nil {
		return err
	}
	if o.ca, err = o.pool.Key("ca"); err != nil {
		return err
	}
	o.approval, err = o.pool.Key("approval")
	return err
}

// open opens the ledger, or opens it anew. Its signer is CA:SK, or stands
// before it; with a suffix nodes have DNS names.
func (o *office) open(ca chancery.Signer, dnsSuffix string) (err error) {
	if o.ledger != nil {
		o.ledger.Close()
	}
	o.ledger, err = ledger.Open(context.Background(), ledger.Config{
		Store: o.store, Signer: ca, Pointer: o.pointer, CRLLife: time.Hour, DNSSuffix: dnsSuffix, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	return err
}

func (o *office) close() (err error) {
	if o.ledger != nil {
		o.ledger.Close()
	}
	if o.pool != nil {
		err = o.pool.Close()
	}
	if o.store != nil {
		err = errors.Join(err, o.store.Close())
	}
	return err
}
