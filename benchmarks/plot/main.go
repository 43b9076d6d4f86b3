// Plot draws what the benchmarks measured: each chart that is JSON among the
// results, as SVG and PNG, and profiles as flame graphs.
//
//	go run -C benchmarks/plot . ../results             # all charts of a directory
//	go run -C benchmarks/plot . flame PROFILE OUT.svg  # a profile of Go's
//
// It is a module of its own, because what draws is none of Chancery's business.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1:
		return drawAll(args[0])
	case len(args) == 3 && args[0] == "flame":
		return flame(args[1], args[2])
	}
	return errors.New("usage: plot DIRECTORY | plot flame PROFILE OUT.svg")
}

func drawAll(dir string) error {
	charts, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	for _, path := range charts {
		if filepath.Base(path) == "summary.json" {
			continue
		}
		if err := draw(path, strings.TrimSuffix(path, ".json")); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
