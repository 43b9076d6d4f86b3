// Package gossip passes newer lists and pointer records from node to node, for
// when the coordinator is away (docs/protocol.md section 7.6).
//
// Start with [New]. A [Gossip] is both ends: [Gossip.Serve] answers whoever
// comes to the port that this node listens at, and [Gossip.Exchange] goes to a
// peer. Both ends say what they have, and whoever has the newer thing sends it.
//
// # Trust
//
// There is none. Neither end shows who it is, because what travels proves
// itself, and because it must get to nodes whose list is stale, who refuse
// everybody. What comes is judged as if it came from the coordinator, by
// [Config.TakePointer] and [Config.TakeCRL]. Two lists of one number, or two
// records, are told apart by their hashes; then each end sends its own, and
// both have the evidence of a fork.
//
// # Strangers
//
// Anybody can connect. An exchange has 112 bytes to say what each end has,
// and no memory is taken for a list before CA:SK's signature over its head is
// verified. There are few exchanges at a time, each has a minute, and one
// network address has one in two seconds on average. Whoever sends what is
// wrong is not talked to for ten minutes, and whoever breaks off three times
// neither. Standings are forgotten when there are many; who has many addresses
// gets on as with few.
package gossip
