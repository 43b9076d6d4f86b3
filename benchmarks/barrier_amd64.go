package main

const hasBarrier = true

// barrier returns when all instructions before it have ended, also the loads,
// and nothing after it has begun.
func barrier()
