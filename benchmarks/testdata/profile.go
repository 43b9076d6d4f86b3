package main

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

// This file is added to the coordinator's program when the benchmarks look
// where its time goes (go build -overlay). The first SIGUSR1 starts a CPU
// profile, the second one ends it; the file has its name when it is whole.
func init() {
	name := os.Getenv("BENCHMARKS_PROFILE")
	if name == "" {
		return
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		<-asked
		f, err := os.Create(name + "-part")
		if err != nil {
			panic(err)
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			panic(err)
		}
		<-asked
		pprof.StopCPUProfile()
		f.Close()
		os.Rename(name+"-part", name)
	}()
}
