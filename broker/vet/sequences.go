package vet

import "slices"

// A Span is the sequences from the first to the second, both included.
type Span [2]uint64

// Sequences is a set of them: spans in order that neither touch nor overlap, as Union
// makes them. Nil is the empty set.
type Sequences []Span

// Union is the set of all sequences of some spans, in any order.
func Union(spans ...Span) Sequences {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b Span) int {
		if a[0] < b[0] {
			return -1
		}
		return 1
	})
	var s Sequences
	for _, span := range spans {
		if span[0] > span[1] {
			continue
		}
		if n := len(s); n > 0 && span[0] <= s[n-1][1]+1 {
			s[n-1][1] = max(s[n-1][1], span[1])
		} else {
			s = append(s, span)
		}
	}
	return s
}

// Count is how many sequences are in the set.
func (s Sequences) Count() uint64 {
	n := uint64(0)
	for _, span := range s {
		n += span[1] - span[0] + 1
	}
	return n
}

// Without is the set of those that are not in other.
func (s Sequences) Without(other Sequences) Sequences {
	var left Sequences
	for _, span := range s {
		at := span[0]
		for len(other) > 0 && other[0][1] < at {
			other = other[1:]
		}
		for _, o := range other {
			if o[0] > span[1] {
				break
			}
			if o[0] > at {
				left = append(left, Span{at, o[0] - 1})
			}
			at = o[1] + 1
		}
		if at <= span[1] {
			left = append(left, Span{at, span[1]})
		}
	}
	return left
}

// And is the set of those that are in both.
func (s Sequences) And(other Sequences) Sequences { return s.Without(s.Without(other)) }
