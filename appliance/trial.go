package main

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
	"github.com/chancery-pki/chancery/simulator/device"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

// simulatorToken is the label of trial tokens.
const simulatorToken = "chancery-trial"

func deviceModels() string { return strings.Join(device.Names(), ", ") }

// trialToken makes a SoftHSM token in a directory, with the speed and the
// limits of the device if a model is named.
func trialToken(dir, model string) (h HSMConfig, err error) {
	var m device.Model
	if model != "" {
		if m, err = device.Named(model); err != nil {
			return h, cli.WithCode(cli.ExitUsage, err)
		}
	}
	i, err := softhsm.New(dir, simulatorToken)
	if err != nil {
		return h, cli.WithCode(cli.ExitNoToken, err)
	}
	h.Environment = map[string]string{"SOFTHSM2_CONF": i.Conf}
	if model != "" {
		d, err := device.New(filepath.Join(dir, "device"), i.URI.ModulePath, m)
		if err != nil {
			return h, cli.WithCode(cli.ExitNoToken, err)
		}
		defer d.Close()
		i.URI.ModulePath = d.Module()
		maps.Copy(h.Environment, d.Env())
	}
	h.URI = i.URI.String()
	return h, nil
}

// trialDevice makes a token of a model with one key, in a directory that
// remove removes.
func trialDevice(model, key string) (c Config, data dataDir, remove func() error, err error) {
	dir, err := os.MkdirTemp("", "chancery-bench-")
	if err != nil {
		return c, "", nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	c = defaultConfig()
	h, err := trialToken(dir, model)
	if err != nil {
		return c, "", nil, err
	}
	c.HSM = []HSMConfig{h}
	name, err := c.Keys.uri(key)
	if err != nil {
		return c, "", nil, err
	}
	uri, err := parseToken(h.URI)
	if err != nil {
		return c, "", nil, err
	}
	return c, dataDir(dir), func() error { return os.RemoveAll(dir) }, h.within(func() error {
		ceremony, err := hsm.OpenCeremony(uri, hsm.Options{})
		if err != nil {
			return err
		}
		_, err = ceremony.Generate(name, false)
		return errors.Join(err, ceremony.Close())
	})
}
