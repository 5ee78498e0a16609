package schemas

import (
	"maps"
	"slices"
)

// ProblemNames are the names of the table of problems.
func ProblemNames() []string { return slices.Sorted(maps.Keys(problems)) }
