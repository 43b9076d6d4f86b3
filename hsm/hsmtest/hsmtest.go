// Package hsmtest gives tests a PKCS#11 token, as net/http/httptest gives
// them a server. The tokens are SoftHSM's.
//
// Each [New] is a fresh token in a directory of its own. SoftHSM finds it by
// an environment variable, and a process opens a module once at a time; so
// tests with a token cannot run in parallel, and have one token open at a
// time. A test that wants several keys asks for several labels.
package hsmtest

import (
	"errors"
	"testing"

	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/simulator/softhsm"
)

// Label is the label of the tokens that [New] makes.
const Label = "test"

// New makes an empty token, and sets the test's environment so that this
// process and its children see it. The URI names module, token and PIN file.
// Without SoftHSM on the machine the test fails.
func New(t testing.TB) hsm.URI {
	t.Helper()
	return Instance(t).URI
}

// Instance is [New] for tests that need the environment variable, or further
// tokens in the same directory.
func Instance(t testing.TB) softhsm.Instance {
	t.Helper()
	i, err := softhsm.New(t.TempDir(), Label)
	var missing *softhsm.NotInstalledError
	if errors.As(err, &missing) {
		t.Fatalf("%v: install softhsm2 (make deps)", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", i.Conf)
	return i
}

// Generate makes a key on the token for each label. No token may be open.
func Generate(t testing.TB, uri hsm.URI, labels ...string) {
	t.Helper()
	c, err := hsm.OpenCeremony(uri, hsm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, label := range labels {
		_, failed := c.Generate(hsm.URI{Object: label}, false)
		err = errors.Join(err, failed)
	}
	if err = errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
}

// Open makes a token with a fresh key for each label, and opens it until the
// test ends.
func Open(t testing.TB, labels ...string) *hsm.Token {
	t.Helper()
	uri := New(t)
	Generate(t, uri, labels...)
	return OpenURI(t, uri)
}

// OpenURI opens a token that is there until the test ends.
func OpenURI(t testing.TB, uri hsm.URI) *hsm.Token {
	t.Helper()
	token, err := hsm.Open(uri, hsm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

// Key makes a token with one fresh key, and opens both until the test ends.
func Key(t testing.TB, label string) *hsm.Key {
	t.Helper()
	key, err := Open(t, label).Key(label)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
