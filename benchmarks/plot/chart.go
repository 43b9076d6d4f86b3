package main

import (
	"encoding/json"
	"image/color"
	"math"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// A chart is what the benchmarks write: lines through points over a logarithmic
// x axis.
type chart struct {
	Title  string    `json:"title"`
	X      string    `json:"x"`
	Y      string    `json:"y"`
	Log    bool      `json:"log"` // the y axis too; otherwise it begins at Floor
	Floor  float64   `json:"floor"`
	Limits []float64 `json:"limits"` // lines across
	Lines  []struct {
		Name   string       `json:"name"`
		Ours   bool         `json:"ours"`
		Points [][2]float64 `json:"points"`
	} `json:"lines"`
}

// colour is another one for each of fourteen lines.
func colour(i int) color.Color {
	all := slices.Concat(plotutil.SoftColors, plotutil.DarkColors)
	return all[i%len(all)]
}

// draw draws the chart of a file into OUT.svg and OUT.png.
func draw(path, out string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c chart
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = c.Title, c.X, c.Y
	p.Title.Padding = vg.Points(8)
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Points(2)
	p.Add(plotter.NewGrid())
	least, most, right := math.Inf(1), math.Inf(-1), math.Inf(-1)
	for i, l := range c.Lines {
		points := make(plotter.XYs, len(l.Points))
		for j, at := range l.Points {
			points[j] = plotter.XY{X: at[0], Y: at[1]}
			least, most, right = min(least, at[1]), max(most, at[1]), max(right, at[0])
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		line.Color, dots.Color, dots.Shape = colour(i), colour(i), plotutil.Shape(i)
		if line.Width = vg.Points(1); l.Ours {
			line.Width = vg.Points(2.5)
		} else {
			line.Dashes = plotutil.Dashes(1)
		}
		p.Add(line, dots)
		p.Legend.Add(l.Name, line, dots)
	}
	for _, v := range c.Limits {
		limit := plotter.NewFunction(func(float64) float64 { return v })
		limit.Color, limit.Dashes = color.RGBA{R: 0xc0, G: 0x30, B: 0x30, A: 0xff}, plotutil.Dashes(2)
		p.Add(limit)
		most = max(most, v)
	}
	if c.Log {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		// Room for the legend above what is drawn.
		p.Y.Min, p.Y.Max = least/2, most*math.Pow(most/least, 0.07*float64(len(c.Lines)+1))*2
	} else {
		p.Y.Min, p.Y.Max = c.Floor, most+(most-c.Floor)*0.07*float64(len(c.Lines)+1)
	}
	for _, kind := range []string{".svg", ".png"} {
		if err := p.Save(8*vg.Inch, 5*vg.Inch, out+kind); err != nil {
			return err
		}
	}
	return nil
}
