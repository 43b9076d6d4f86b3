package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// A frame is a function as it was called from the one that it stands on.
type frame struct {
	name  string
	value int64 // of all samples in it
	over  map[string]*frame
}

func (f *frame) on(name string) *frame {
	next := f.over[name]
	if next == nil {
		next = &frame{name: name, over: map[string]*frame{}}
		f.over[name] = next
	}
	return next
}

const (
	flameWidth  = 1200.0 // pixels
	flameHeight = 16.0   // of a frame
	flameLeast  = 0.6    // narrower frames are left out
)

// flame draws a profile: the width of a frame is its part of the samples, what
// it calls is above it, in the order of the names.
func flame(path, out string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := profile.Parse(f)
	if err != nil {
		return err
	}
	if len(p.SampleType) == 0 {
		return fmt.Errorf("%s: no samples", path)
	}
	kind := len(p.SampleType) - 1 // CPU time, bytes: what comes last
	root := &frame{name: "all", over: map[string]*frame{}}
	for _, s := range p.Sample {
		at, value := root, s.Value[kind]
		at.value += value
		for _, location := range slices.Backward(s.Location) {
			for _, line := range slices.Backward(location.Line) {
				at = at.on(short(line.Function.Name))
				at.value += value
			}
		}
	}
	if root.value == 0 {
		return fmt.Errorf("%s: no samples", path)
	}
	var b bytes.Buffer
	depth := root.depth(flameWidth)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" font-family="monospace" font-size="11">`+"\n", flameWidth, float64(depth+1)*flameHeight)
	b.WriteString("<style>rect{stroke:#fff;stroke-width:.5}rect:hover{stroke:#000}text{pointer-events:none}</style>\n")
	root.draw(&b, root.value, 0, flameWidth, float64(depth)*flameHeight)
	b.WriteString("</svg>\n")
	return os.WriteFile(out, b.Bytes(), 0o644)
}

// depth is how many frames stand on each other.
func (f *frame) depth(width float64) (most int) {
	for _, next := range f.over {
		if w := width * float64(next.value) / float64(f.value); w >= flameLeast {
			most = max(most, next.depth(w)+1)
		}
	}
	return most
}

func (f *frame) draw(b *bytes.Buffer, all int64, x, width, y float64) {
	h := fnv.New32a()
	h.Write([]byte(f.name))
	n := h.Sum32()
	var name bytes.Buffer
	_ = xml.EscapeText(&name, []byte(f.name)) // a Buffer takes all
	fmt.Fprintf(b, `<g><title>%s: %.2f %%</title><rect x="%.1f" y="%.1f" width="%.1f" height="%.0f" fill="hsl(%d,70%%,%d%%)"/>`,
		name.Bytes(), 100*float64(f.value)/float64(all), x, y, width, flameHeight, 10+n%45, 60+n/64%12)
	if room := int(width / 6.7); room > 3 {
		text := f.name
		if len(text) > room {
			text = text[:room-1] + "…"
		}
		name.Reset()
		_ = xml.EscapeText(&name, []byte(text))
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f">%s</text>`, x+2, y+flameHeight-4, name.Bytes())
	}
	b.WriteString("</g>\n")
	for _, key := range slices.Sorted(maps.Keys(f.over)) {
		next := f.over[key]
		w := width * float64(next.value) / float64(f.value)
		if w >= flameLeast {
			next.draw(b, all, x, w, y-flameHeight)
		}
		x += w
	}
}

// short is a function's name without the path of its package.
func short(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[i+1:]
	}
	return name
}
