package p11kit

import (
	"maps"
	"slices"
)

// Processes lists the server's processes that have not ended.
func (s *Server) Processes() ([]int, error) {
	states, err := members(s.group)
	return slices.Sorted(maps.Keys(states)), err
}
