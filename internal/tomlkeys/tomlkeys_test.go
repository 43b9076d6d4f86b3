package tomlkeys_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery/internal/tomlkeys"
)

type span time.Duration

func (*span) UnmarshalText([]byte) error { return nil }

type file struct {
	Name  string            `toml:"name"`
	Life  span              `toml:"life,omitempty"`
	Table *struct{ A int }  `toml:"table"`
	Rules []rule            `toml:"rule"`
	Env   map[string]string `toml:"env"`
	Inner string            `toml:"-"`
}

type rule struct {
	Decide string `toml:"decide"`
	Life   span   `toml:"life"`
}

func TestCheck(t *testing.T) {
	for text, want := range map[string]string{
		"name = \"x\"\nlife = \"3h\"\n[[rule]]\ndecide = \"a\"\n[env]\nName = \"y\"": "",
		"unknown = 1":                        "", // the decoder's
		"name = ":                            "", // likewise
		"Name = \"x\"":                       "unknown key Name, want name",
		"life = 3":                           "life is 3, want a text",
		"[[rule]]\n[[rule]]\nDecide = \"x\"": "unknown key rule[1].Decide, want decide",
		"rule = [{life = 7}]":                "rule[0].life is 7",
	} {
		err := tomlkeys.Check([]byte(text), &file{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
