package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/chancery-pki/chancery"
)

// PublishCRL makes and signs the next CRL (a heartbeat, where nothing was
// revoked) and returns the full list as it travels.
func (f *Fleet) PublishCRL() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.publishCRL()
}

// Revoke revokes the nodes' certificates and publishes the CRL that names
// them, as [Fleet.PublishCRL] does.
func (f *Fleet) Revoke(nodes ...*Node) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range nodes {
		at := slices.IndexFunc(f.cas, func(c *ca) bool { return c.id == n.NC.CA })
		if at < 0 {
			return nil, fmt.Errorf("fleet: %s is not of this fleet", n.Name)
		}
		f.cas[at].revoked[n.NC.Serial.Index()] = true
	}
	return f.publishCRL()
}

func (f *Fleet) publishCRL() ([]byte, error) {
	var sets []chancery.RevokedSet
	for _, c := range f.cas { // CA ids rise with time
		sets = append(sets, chancery.RevokedSet{CA: c.id, Log: log, Size: c.tree.Size(), Indexes: slices.Sorted(maps.Keys(c.revoked))})
	}
	now := f.now()
	crl, err := chancery.NextCRL(f.crl, sets, now, now.Add(f.options.CRLLife))
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	sig, err := f.current().key.Sign(context.Background(), f.pointer.FleetID(), crl.Head())
	if err != nil {
		return nil, err
	}
	crl.Sign(sig)
	if err := crl.Head().Verify(f.pointer); err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	f.crl = crl
	return crl.Marshal(), nil
}
