package schemas

import (
	"maps"
	"slices"
)

// ProblemNames are the names of the table of problems.
func ProblemNames() []string { return slices.Sorted(maps.Keys(problems)) }

// ParseDecoding is [ParseEvent] with the decoder of JSON alone.
func ParseDecoding(b []byte) (*Event, error) { return newReader(b).one(false) }

// Within is what [Object.Read] found of the member within; false if there is none.
func (o *Object) Within() (object []byte, members [][2]string, ok bool) {
	if o.within < 0 {
		return nil, nil, false
	}
	for _, m := range o.inner {
		members = append(members, [2]string{string(m.name.of(o.b)), string(m.value.of(o.b))})
	}
	return o.members[o.within].value.of(o.b), members, true
}
