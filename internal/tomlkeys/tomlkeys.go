// Package tomlkeys looks at the keys of a TOML file more closely than a decoder
// does: go-toml takes Decide for decide, so that a file could say one thing
// twice and mean the second, and takes 3 for a duration of three nanoseconds.
package tomlkeys

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Check compares the keys of a file with the struct that it is for: each is
// written as the struct's tag writes it, and what is read from text is given as
// text. Unknown keys and errors of the syntax are the decoder's to find.
func Check(text []byte, v any) error {
	var m map[string]any
	if toml.Unmarshal(text, &m) != nil {
		return nil
	}
	return check("", m, reflect.TypeOf(v).Elem())
}

var textual = reflect.TypeFor[encoding.TextUnmarshaler]()

func check(path string, value any, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(textual) {
		if _, ok := value.(string); !ok {
			return fmt.Errorf("%s is %v, want a text in quotes", path, value)
		}
		return nil
	}
	switch value := value.(type) {
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return nil // keys of its own choice
		}
		return table(path, value, t)
	case []any:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for i, v := range value {
			if err := check(fmt.Sprintf("%s[%d]", path, i), v, t.Elem()); err != nil {
				return err
			}
		}
	}
	return nil
}

func table(path string, m map[string]any, t reflect.Type) error {
	fields := map[string]reflect.Type{}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("toml"), ","); name != "" && name != "-" {
			fields[name] = f.Type
		}
	}
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		at := strings.TrimPrefix(path+"."+key, ".")
		field, ok := fields[key]
		if !ok {
			for name := range fields {
				if strings.EqualFold(name, key) {
					return fmt.Errorf("unknown key %s, want %s", at, name)
				}
			}
			continue
		}
		if err := check(at, m[key], field); err != nil {
			return err
		}
	}
	return nil
}
