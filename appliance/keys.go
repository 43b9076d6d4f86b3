package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/hsm"
	"github.com/chancery-pki/chancery/internal/cli"
)

// A stock is what the tokens have of the keys before a ceremony, in the order
// of the configuration.
type stock []holding

type holding struct {
	device string // which token it is, however the table calls it
	label  string
	keys   map[string]chancery.PublicKey
	taken  map[string]error // why a key that it has not cannot be made there
}

// survey looks for the keys in every token that is used for them. A token that
// cannot be looked at is an error: the CA:SK that it may hold would get a
// second one beside it.
func (a *app) survey(config *Config) (stock, error) {
	s := make(stock, len(config.HSM))
	for i := range config.HSM {
		h := &config.HSM[i]
		err := h.within(func() (err error) { s[i], err = a.look(h, config); return err })
		if err != nil {
			return nil, err
		}
		if twin := slices.IndexFunc(s[:i], func(o holding) bool { return o.device == s[i].device }); twin >= 0 {
			return nil, cli.Usage("name all of its keys in one table", "[[hsm]] %s and %s are one token", config.HSM[twin].URI, h.URI)
		}
	}
	return s, nil
}

// look looks for those keys that one token is used for.
func (a *app) look(h *HSMConfig, config *Config) (found holding, err error) {
	uri, err := parseToken(h.URI)
	if err != nil {
		return found, err
	}
	t, err := hsm.Open(uri, hsm.Options{Sessions: 1, Latch: a.data.latch(), Wrappable: h.Wrappable})
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	device := []string{uri.ModulePath, uri.ModuleName, t.Info().Label, t.Info().Serial, fmt.Sprint(h.Environment)}
	found = holding{fmt.Sprintf("%q", device), t.Info().Label, map[string]chancery.PublicKey{}, map[string]error{}}
	for _, name := range keyNames {
		if !h.serves(name) {
			continue
		}
		uri, err := config.Keys.uri(name)
		if err != nil {
			return found, err
		}
		switch k, err := t.FindKey(uri); {
		case err == nil:
			found.keys[name] = k.PublicKey()
		case is[*hsm.KeyNotFoundError](err):
			found.taken[name] = t.Free(uri)
		default:
			return found, err
		}
	}
	return found, nil
}

// first returns the first token that has the key. So it is the plan that
// decides what CA:SK is, not which token answers first.
func (s stock) first(name string) (i int, found bool) {
	for i := range s {
		if _, ok := s[i].keys[name]; ok {
			return i, true
		}
	}
	return 0, false
}

// homes decides, of each key, which token has it, or is to make it: then the
// first one that is used for it. It finds out what would keep the coordinator
// from starting afterwards.
func (s stock) homes(plan *Plan, config *Config) (homes map[string]int, missing []string, err error) {
	homes = map[string]int{}
	for _, name := range keyNames {
		i, found := s.first(name)
		switch {
		case found && !plan.ExistingKeys:
			return nil, nil, cli.Failure("if an earlier init made it: "+plan.existing(), "the token %q has the key %s (%s) already", s[i].label, name, config.Keys.named(name))
		case !found:
			if uri, err := config.Keys.uri(name); err != nil || uri.Object == "" {
				return nil, nil, errors.Join(err, cli.Usage("name it by object, or generate it with the vendor's tools first", "no token has the key %s, and %s has no label to generate it under", name, config.Keys.named(name)))
			}
			i = slices.IndexFunc(config.HSM, func(h HSMConfig) bool { return h.serves(name) })
			if err := s[i].taken[name]; err != nil {
				return nil, nil, err
			}
			missing = append(missing, name)
		}
		homes[name] = i
	}
	for _, name := range keyNames {
		i := homes[name]
		for _, other := range keyNames {
			if homes[other] == i || !config.HSM[i].serves(other) {
				continue
			}
			// A token without all of its keys is not put into service.
			if have, ok := s[i].keys[other]; !ok || !have.Equal(s[homes[other]].keys[other]) {
				return nil, nil, cli.Usage(fmt.Sprintf("bring it there first, or leave %s out of the keys of that [[hsm]] table", other),
					"the token %q is to serve the key %s, and is used for the key %s too, which it does not share with the token %q", s[i].label, name, other, s[homes[other]].label)
			}
		}
	}
	return homes, missing, nil
}

// checkKeys refuses keys that do not do.
func checkKeys(config *Config, public map[string]chancery.PublicKey) error {
	seen := map[string]string{}
	for _, name := range keyNames {
		fingerprint := public[name].String()
		if other, twice := seen[fingerprint]; twice {
			return cli.Usage("each key is for one purpose", "the keys %s and %s are the same key, %s", other, name, fingerprint)
		}
		seen[fingerprint] = name
	}
	if suite := public[keyApproval].Suite(); suite != chancery.P256 {
		return cli.Usage("TPMs verify approvals, and are asked for P-256 only", "the approval key %s has suite %s, want %s", config.Keys.Approval, suite, chancery.P256)
	}
	return nil
}

// generate makes those of the keys that no token has, and returns the public
// halves of all and the names of those that it made.
func (a *app) generate(plan *Plan, config *Config) (public map[string]chancery.PublicKey, made []string, err error) {
	s, err := a.survey(config)
	if err != nil {
		return nil, nil, err
	}
	homes, missing, err := s.homes(plan, config)
	if err != nil {
		return nil, nil, err
	}
	public = map[string]chancery.PublicKey{}
	for i := range config.HSM {
		var mine []string
		for _, name := range keyNames {
			switch {
			case homes[name] != i:
			case slices.Contains(missing, name):
				mine = append(mine, name)
			default:
				public[name] = s[i].keys[name]
			}
		}
		if mine == nil {
			continue
		}
		h := &config.HSM[i]
		if err := h.within(func() error { return a.generateIn(h, mine, plan, config, public) }); err != nil {
			return nil, nil, err
		}
	}
	return public, missing, nil
}

// generateIn makes keys in one token and adds their public halves.
func (a *app) generateIn(h *HSMConfig, names []string, plan *Plan, config *Config, public map[string]chancery.PublicKey) (err error) {
	uri, err := parseToken(h.URI)
	if err != nil {
		return err
	}
	c, err := hsm.OpenCeremony(uri, hsm.Options{Latch: a.data.latch()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, name := range names {
		key, err := config.Keys.uri(name)
		if err != nil {
			return err
		}
		if public[name], err = c.Generate(key, plan.Wrappable); err != nil {
			return err
		}
	}
	return nil
}
