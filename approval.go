package chancery

// A PolicyApproval is what the fleet's approval key signs so that a chip
// whose PCRs changed may use its N:SK again: the policy digest that the
// coordinator computed, and the reference that is the node's own
// (docs/protocol.md section 4, Sealing).
//
// The TPM dictates these bytes (TPM 2.0 Library, Part 3, TPM2_PolicyAuthorize:
// aHash = H(approvedPolicy || policyRef)); they carry no label. That is why
// the approval key is a key of its own that signs nothing else but
// challenges, which have another length and cannot begin with a policy digest.
type PolicyApproval struct {
	Policy [32]byte // the approved policy, or for an epoch increment its policy
	Ref    [32]byte // policyRef: per node, see package tpm
}

func (a PolicyApproval) message(FleetID, Suite) []byte {
	return append(a.Policy[:len(a.Policy):len(a.Policy)], a.Ref[:]...)
}
