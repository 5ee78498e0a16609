package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Fault is one mistake in a config.
type Fault struct {
	// File is the config file as it was named; "" where a flag is at fault.
	File string
	// Line is where in the file, from 1; 0 where it is the file itself.
	Line int
	// Path is the key, such as "topics[0].filter", or the flag.
	Path string
	// Text says what is wrong and what to write instead.
	Text string
}

// Error is "FILE:LINE: PATH: TEXT", without what there is none of.
func (f Fault) Error() string {
	var s strings.Builder
	if f.File != "" {
		s.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&s, ":%d", f.Line)
		}
		s.WriteString(": ")
	}
	if f.Path != "" {
		s.WriteString(f.Path + ": ")
	}
	return s.String() + f.Text
}

// Faults are all mistakes of a config, in the order of its lines. There is at
// least one.
type Faults []Fault

// Error is a line for each.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.Error()
	}
	return strings.Join(lines, "\n")
}

// Flags says whether all mistakes are on the command line.
func (f Faults) Flags() bool {
	return !slices.ContainsFunc(f, func(f Fault) bool { return !strings.HasPrefix(f.Path, "--") })
}

func (f Faults) sort() {
	slices.SortStableFunc(f, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
}
