// Package tlog shows a log to everybody: as tiles that any web server can
// hold, under checkpoints that the log signs and witnesses cosign, and with
// what it takes to audit all that.
//
// A log starts with [TilesSince], which names the tiles and entry bundles that
// a growth adds, and [Make] and [AppendEntry], which fill them; it signs a
// [Checkpoint] with [Sign] and has it cosigned through a [WitnessClient]. An
// auditor starts with a [Policy], the keys that it trusts, and a [Follower],
// which advances from checkpoint to checkpoint over a [Reader] and never
// accepts a rewritten history. [Open] is for proofs about one tree. A
// [Witness] with its [Witness.Handler] cosigns other people's logs, and keeps
// what it cosigned in [FileRecords].
//
// # Standards
//
// The formats are those of C2SP, read in July 2026: tlog-tiles,
// tlog-checkpoint, signed-note v1.0.0 with verifier keys, tlog-cosignature
// v1.1.0-rc.1, tlog-witness (after v1.0.0: a fork at the same size is a 422)
// and mtc-tlog. Section titles are given in quotes, with the name of the
// document where it is not plain.
//
// # How an issuance log signs
//
// What a CA cosigner signs is in draft-ietf-plants-merkle-tree-certs, in the
// revision that package merkle implements: a [merkle.CosignedMessage] with
// the time, over [0, size) ("Signature Format", "Signature Semantics"). How
// that signature stands in a checkpoint the draft left to others after its
// revision -03, and mtc-tlog ("Serving Issuance Logs", "Cosigners") says: as
// a note signature under the cosigner's name, which is the CA's and not the
// log's, in the form of tlog-cosignature for ML-DSA-44. No document has a
// signature type for a CA cosigner with an ECDSA key. signed-note does have a
// type for ECDSA, 0x02, but under it the key would sign the text of the note,
// another message than the draft's. So this package keeps to the form of
// tlog-cosignature, a timestamp and the signature, and takes the type that
// signed-note reserves for such cases: 0xff and a name of its own ([Cosigner]).
//
// A log that public witnesses are to cosign signs with an Ed25519 key as well
// (tlog-tiles, "Checkpoints"); to have two signatures is usual in a note.
//
// # Witnesses in certificates
//
// A witness whose signatures stand in certificates is a cosigner of the draft,
// with an ID of its own (mtc-tlog, "Cosigners"). mtc-tlog wants an ML-DSA-44 key
// of it; here it is ECDSA, as the CA's is, with the same type of signature. It
// cosigns checkpoints with the time, and at sign-subtree, without a time, the
// subtrees of those that it cosigned ([Witness.SignSubtree]). A witness may
// have an Ed25519 key besides, for those who know only that; both sign for one
// record, and so for one history.
//
// # Trust
//
// Nothing that a server sends is believed. Every tile that is used hashes to
// the root that the checkpoint's signature covers, and tiles out of a [Cache]
// are held against it as well. A text is not looked at before its signature,
// except by a witness, which has to know whose keys to take.
//
// Whatever is parsed has exactly one encoding, and marshals to the bytes that
// it was parsed from.
//
// # Failure
//
// [*RecordError] is a witness that has lost its memory, and must not go on.
// [*ForkError] is proof that a log signed two histories, for everybody who
// has its key. [*RollbackError] is a log that went back, which may be an old
// copy. [*TileError] and [*RootError] say that a server's tiles are not the
// log's, [*UnreachableError] that one is missing. All of them have a Hint.
package tlog
