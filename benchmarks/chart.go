package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// A chart is lines through points. Its x axis is logarithmic.
type chart struct {
	title, x, y string
	log         bool // the y axis too; otherwise it begins at floor
	floor       float64
	limits      []float64 // lines across
	lines       []line
}

type line struct {
	name   string
	ours   bool // drawn thicker
	points []point
}

type point struct{ x, y float64 }

// add adds a point to the line of that name.
func (c *chart) add(name string, ours bool, x, y float64) {
	i := slices.IndexFunc(c.lines, func(l line) bool { return l.name == name })
	if i < 0 {
		i, c.lines = len(c.lines), append(c.lines, line{name: name, ours: ours})
	}
	c.lines[i].points = append(c.lines[i].points, point{x, y})
}

// An axis maps values onto a stretch of the drawing.
type axis struct {
	log          bool
	least, most  float64
	start, width float64 // of the drawing; a width below 0 goes up
}

func (a axis) place(v float64) float64 {
	if a.log {
		return a.start + a.width*math.Log(v/a.least)/math.Log(a.most/a.least)
	}
	return a.start + a.width*(v-a.least)/(a.most-a.least)
}

// ticks are the powers of ten of a logarithmic axis and hundredths of another.
func (a axis) ticks() (list []float64) {
	if !a.log {
		for v := a.least; v < a.most+0.001; v += 0.01 {
			list = append(list, v)
		}
		return list
	}
	for v := math.Pow(10, math.Ceil(math.Log10(a.least)-1e-9)); v <= a.most*1.001; v *= 10 {
		list = append(list, v)
	}
	return list
}

// svg draws the chart. Its colours do on a dark ground too.
func (c *chart) svg() []byte {
	const left, top, width, height, right, bottom = 80.0, 56.0, 420.0, 300.0, 300.0, 50.0
	x := axis{log: true, least: math.Inf(1), start: left, width: width}
	y := axis{log: c.log, least: math.Inf(1), start: top + height, width: -height}
	for _, l := range c.lines {
		for _, p := range l.points {
			x.least, x.most = min(x.least, p.x), max(x.most, p.x)
			y.least, y.most = min(y.least, p.y), max(y.most, p.y)
		}
	}
	for _, v := range c.limits {
		y.most = max(y.most, v)
	}
	if c.log {
		y.least, y.most = math.Pow(10, math.Floor(math.Log10(y.least))), math.Pow(10, math.Ceil(math.Log10(y.most)))
	} else {
		y.least, y.most = c.floor, y.most+0.01
	}
	var b bytes.Buffer
	text := func(x, y float64, attributes, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" %s>`, x, y, attributes)
		_ = xml.EscapeText(&b, []byte(s)) // a Buffer takes all
		b.WriteString("</text>\n")
	}
	across := func(v float64, style string) {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" %s/>`+"\n", left, left+width, y.place(v), y.place(v), style)
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" font-family="sans-serif" font-size="12" fill="#888">`+"\n", left+width+right, top+height+bottom)
	text(10, 22, `font-size="15"`, c.title)
	text(10, 42, "", c.y)
	text(left+width/2, top+height+40, `text-anchor="middle"`, c.x)
	for _, v := range y.ticks() {
		across(v, `stroke="#888" stroke-width="0.3"`)
		text(left-6, y.place(v)+4, `text-anchor="end"`, fmt.Sprintf("%.6g", v))
	}
	for _, v := range c.limits {
		across(v, `stroke="#c03030" stroke-dasharray="5 3"`)
	}
	for _, p := range c.lines[0].points { // a tick for each of what was measured
		text(x.place(p.x), top+height+18, `text-anchor="middle"`, fmt.Sprintf("%g", p.x))
	}
	colours := []string{"#2a78d6", "#c07a30", "#3a9a50", "#a050b0", "#b0485a", "#5a8f9f"}
	for i, l := range c.lines {
		colour, thick := colours[i%len(colours)], map[bool]float64{true: 2.5, false: 1.2}[l.ours]
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="%.1f" points="`, colour, thick)
		for _, p := range l.points {
			fmt.Fprintf(&b, "%.1f,%.1f ", x.place(p.x), y.place(p.y))
		}
		b.WriteString(`"/>` + "\n")
		for _, p := range l.points {
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x.place(p.x), y.place(p.y), colour)
		}
		text(left+width+20, top+12+20*float64(i), fmt.Sprintf(`style="fill:%s"`, colour), l.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// write draws the chart into a file among the results.
func (c *chart) write(name string) error {
	if *short {
		return nil
	}
	return os.WriteFile(filepath.Join("benchmarks", "results", name), c.svg(), 0o644)
}
