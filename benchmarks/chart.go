package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
)

// A chart is lines through points. Its x axis is logarithmic.
type chart struct {
	Title  string      `json:"title"`
	X      string      `json:"x"`
	Y      string      `json:"y"`
	Log    bool        `json:"log"` // the y axis too; otherwise it begins at Floor
	Floor  float64     `json:"floor"`
	Limits []float64   `json:"limits,omitempty"` // lines across
	Lines  []chartLine `json:"lines"`
}

type chartLine struct {
	Name   string       `json:"name"`
	Ours   bool         `json:"ours"` // drawn thicker
	Points [][2]float64 `json:"points"`
}

// add adds a point to the line of that name.
func (c *chart) add(name string, ours bool, x, y float64) {
	i := slices.IndexFunc(c.Lines, func(l chartLine) bool { return l.Name == name })
	if i < 0 {
		i, c.Lines = len(c.Lines), append(c.Lines, chartLine{Name: name, Ours: ours})
	}
	c.Lines[i].Points = append(c.Lines[i].Points, [2]float64{x, y})
}

// write writes the chart among the results, for benchmarks/plot to draw.
func (c *chart) write(name string) error {
	if *short || *check {
		return nil
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("benchmarks", "results", name+".json"), append(b, '\n'), 0o644)
}
