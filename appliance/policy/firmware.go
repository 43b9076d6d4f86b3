package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// A bound is one comparison of a range of firmware versions.
type bound struct {
	op    string
	value uint64
}

// parseRange reads ">= 7.85, < 8": comparisons that must all hold. A version is
// up to four numbers of 16 bits; those left out are 0.
func parseRange(s string) ([]bound, error) {
	var list []bound
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		op := part[:len(part)-len(strings.TrimLeft(part, "<>="))]
		switch op {
		case "<", "<=", ">", ">=", "=":
		default:
			return nil, fmt.Errorf("%q begins with none of < <= > >= =", part)
		}
		v, err := parseVersion(strings.TrimSpace(part[len(op):]))
		if err != nil {
			return nil, err
		}
		list = append(list, bound{op, v})
	}
	return list, nil
}

func parseVersion(s string) (v uint64, err error) {
	numbers := strings.Split(s, ".")
	if len(numbers) > 4 {
		return 0, fmt.Errorf("version %q has more than four numbers", s)
	}
	for i := range 4 {
		n := uint64(0)
		if i < len(numbers) {
			if n, err = strconv.ParseUint(numbers[i], 10, 16); err != nil {
				return 0, fmt.Errorf("version %q: %q is not from 0 to 65535", s, numbers[i])
			}
		}
		v = v<<16 | n
	}
	return v, nil
}

func (b bound) holds(v uint64) bool {
	switch b.op {
	case "<":
		return v < b.value
	case "<=":
		return v <= b.value
	case ">":
		return v > b.value
	case ">=":
		return v >= b.value
	}
	return v == b.value
}

// version writes a firmware version as vendors do.
func version(v uint64) string {
	return fmt.Sprintf("%d.%d.%d.%d", v>>48, v>>32&0xffff, v>>16&0xffff, v&0xffff)
}
