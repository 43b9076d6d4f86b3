// Package load enrols many nodes at one coordinator, over HTTPS and as fast as
// it lets them: to measure it, and to find what breaks.
//
// Start with [Run]. The nodes have paper TPMs (package papertpm), whose maker
// the coordinator has to know; everything else is what an agent does, by the
// same code: an enrolment is a [join.Applicant] on a connection of package
// agent/coordinator, and every certificate is judged by a [chancery.Verifier].
//
// # What is measured
//
// An enrolment begins when its node dials, or takes a connection that has
// served others, and ends when N:C is verified. In between are the work of the
// coordinator, the network, and what the node itself does: about ten signatures
// and verifications, all in this process. On one machine both compete for the
// same processors; [Phase] tells how much of them went where. What a node does
// once and early, its chip, its key and the pointer record, is not in it.
//
// # What is checked
//
// That each N:C names its node, is for its key, holds the N:S that was sent,
// verifies under pointer record and CRL and says that the chip is a simulator;
// that no serial number comes twice; that the number of a list never falls; and
// at the end that there are as many serial numbers as successes and that the
// CRL names none of them.
//
// # Failure
//
// What goes wrong with a node is counted by its code, a [Failure], and the
// others go on. With [Options.Retry] a node whose coordinator is away waits for
// it and takes up its enrolment where it was, as an agent does. Run returns an
// error only if there is nothing to count: the options are no good, nobody
// answers, or whoever answers is not the fleet's coordinator.
package load
