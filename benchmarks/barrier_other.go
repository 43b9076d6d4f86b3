//go:build !amd64

package main

const hasBarrier = false

func barrier() {}
