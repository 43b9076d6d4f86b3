package tlog

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/chancery-pki/chancery/merkle"
)

// A Tile names up to 256 consecutive hashes of one level of a log, or the
// entries under those of level 0 (tlog-tiles, "Merkle Tree"). On level l,
// hash i is that of the entries [i*256^l, (i+1)*256^l).
//
// What a name stands for never changes: a full tile is final, and a partial
// one has its width in the name. A wider tile begins with the narrower one.
type Tile struct {
	Level int    // 0 to 63, or Entries
	Index uint64 // of the tile in its level
	Width int    // hashes or entries, 1 to FullWidth
}

const (
	// Entries is the level of entry bundles.
	Entries = -1

	// FullWidth is the number of hashes or entries in a tile that is not
	// partial.
	FullWidth = 1 << tileHeight

	// MaxSize is the greatest size of a tree here. No document has a limit;
	// this one is above the 2^48-1 entries of an issuance log.
	MaxSize = math.MaxInt64

	tileHeight = 8
	maxLevel   = 63 // in a path
	treeLevels = 8  // that a tree of MaxSize has
)

const (
	hashSize = len(merkle.Hash{})

	pathPrefix    = "tile/"
	entriesLevel  = "entries"
	partialSuffix = ".p/"

	// maxPathSize is above the longest path, that of a partial tile on level
	// 63 with the greatest index.
	maxPathSize = 64
)

// Full tells whether the tile is not partial.
func (t Tile) Full() bool { return t.Width == FullWidth }

// Bundle returns the entry bundle under a tile of level 0.
func (t Tile) Bundle() Tile { return Tile{Entries, t.Index, t.Width} }

// String returns the path.
func (t Tile) String() string { return t.Path() }

// Path returns where the tile is under a log's prefix, as in
// "tile/0/x001/x234/067.p/8".
func (t Tile) Path() string {
	level := entriesLevel
	if t.Level != Entries {
		level = strconv.Itoa(t.Level)
	}
	// Three digits an element, and an x before all but the last: a file
	// system then has no directory with the name of a file.
	index := fmt.Sprintf("%03d", t.Index%1000)
	for n := t.Index / 1000; n > 0; n /= 1000 {
		index = fmt.Sprintf("x%03d/", n%1000) + index
	}
	path := pathPrefix + level + "/" + index
	if !t.Full() {
		path += partialSuffix + strconv.Itoa(t.Width)
	}
	return path
}

// ParsePath parses what [Tile.Path] returns, and nothing else.
func ParsePath(path string) (Tile, error) {
	t := Tile{Width: FullWidth}
	rest, ok := strings.CutPrefix(path, pathPrefix)
	level, rest, slash := strings.Cut(rest, "/")
	if !ok || !slash || len(path) > maxPathSize {
		return Tile{}, malformed("%.*q is not the path of a tile", maxPathSize, path)
	}
	var err error
	if level == entriesLevel {
		t.Level = Entries
	} else if t.Level, err = strconv.Atoi(level); err != nil || t.Level < 0 || t.Level > maxLevel {
		return Tile{}, malformed("%q has no level from 0 to %d", path, maxLevel)
	}
	index, width, partial := strings.Cut(rest, partialSuffix)
	if partial {
		if t.Width, err = strconv.Atoi(width); err != nil || t.Width < 1 || t.Width >= FullWidth {
			return Tile{}, malformed("%q has no width from 1 to %d", path, FullWidth-1)
		}
	}
	if t.Index, err = strconv.ParseUint(strings.NewReplacer("x", "", "/", "").Replace(index), 10, 64); err != nil {
		return Tile{}, malformed("%q has no index", path)
	}
	// Digits are now known, but not their form.
	if t.Path() != path {
		return Tile{}, malformed("%q is not the one path of its tile", path)
	}
	return t, nil
}

// maxBytes is the size of the largest contents that the tile may have.
func (t Tile) maxBytes() int {
	if t.Level == Entries {
		return t.Width * (entryPrefix + MaxEntrySize)
	}
	return t.Width * hashSize
}
