// Package filter decides by an event's attributes whether a subscriber gets it:
// the dialects of the CloudEvents Subscriptions API and CloudEvents SQL.
//
// A filter sees the event's own context attributes, each in its canonical text,
// and nothing else: not its data, its topic or its cursor.
//
// # CloudEvents SQL
//
// The values, casts, operators and most functions are those of the module
// github.com/cloudevents/sdk-go/sql/v2. Its parser is not used: it panics on
// malformed input, prints to standard error what it can't read, and takes a
// second and a gigabyte for 4 KiB of open parentheses. The parser here takes time
// in proportion to the text and says where it is wrong. Where the module and the
// specification differ, the specification holds:
//
//   - Operators of one precedence, AND, OR and XOR among them, group from left to right.
//   - A character is a Unicode code point, in LIKE and in LENGTH, LEFT, RIGHT and SUBSTRING.
//   - In a LIKE pattern "\%" and "\_" stand for themselves alone.
//   - A sign belongs to a number only where a value may begin: hop-1 is a difference.
//   - A function that does not exist is refused, as every fault that the text shows.
//
// Names of attributes may be written in upper case and mean the lower-case ones,
// as the specification's own test cases have it. The name data, which no attribute
// can have, is refused.
package filter

import (
	"slices"

	"github.com/outrelay/outrelay/schemas"
)

// The limits that hold where [Limits] says nothing else.
const (
	MaxText  = 8 << 10 // bytes of JSON
	MaxDepth = 16      // filters within filters, and the same in SQL
	MaxNodes = 256     // filters in all
	MaxSQL   = 4 << 10 // bytes of one SQL expression
	MaxSteps = 4 << 20 // work of one SQL expression on one event, some milliseconds
)

// Limits bound what a filter may cost. A field that is zero has its default.
type Limits struct {
	// Text is the greatest length of the JSON in bytes. Default [MaxText].
	Text int
	// Depth bounds how deep filters stand within filters, a lone one having depth
	// 1, and in an SQL expression how deep parentheses, calls, lists and the
	// operators NOT and - stand within one another. Default [MaxDepth].
	Depth int
	// Nodes bounds the number of filters, those within others included. Default [MaxNodes].
	Nodes int
	// SQL is the greatest length of an SQL expression in bytes. Default [MaxSQL].
	SQL int
	// Steps bounds the attributes and bytes that an SQL expression looks at on one
	// event. Past it the expression has failed. Default [MaxSteps].
	Steps int
}

// A Filter is a compiled content filter. Nil lets everything through. It may be
// used from several goroutines.
type Filter struct{ root node }

// A node is a filter that may stand within another.
type node interface {
	match(e *schemas.Event) bool
	// key is the filter in canonical JSON.
	key() string
}

// Parse is [Limits.Parse] with the default limits.
func Parse(dialects, sql string) (*Filter, error) { return Limits{}.Parse(dialects, sql) }

// Parse compiles the JSON of the parameter "filter" (one filter, or an array of
// which all must hold; "" is none) and a CloudEvents SQL expression ("" is none);
// both must hold. It returns nil if neither is given, or an empty array, which
// lets everything through. The error is a [schemas.Problem] of name "filter".
//
// It blocks for a time in proportion to the texts: less than a millisecond with
// the default limits.
func (l Limits) Parse(dialects, sql string) (*Filter, error) {
	l = l.defaults()
	var nodes []node
	if dialects != "" {
		var err error
		if nodes, err = parseDialects(dialects, l); err != nil {
			return nil, err
		}
	}
	if sql != "" {
		x, err := parseSQL(sql, l)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, x)
	}
	if len(nodes) == 0 {
		return nil, nil
	}
	return &Filter{root: newAll(nodes)}, nil
}

// Match says whether e passes. An expression that fails on e does not pass.
func (f *Filter) Match(e *schemas.Event) bool { return f == nil || f.root.match(e) }

// Key is a text that is equal for equal filters and differs for different ones:
// the filter in canonical JSON, which [Parse] takes, and "" for nil. Blanks,
// escapes, the order of members, of the filters in an array and of the two
// parameters, repetitions, and in SQL the case of keywords and names make no
// difference to it.
func (f *Filter) Key() string {
	if f == nil {
		return ""
	}
	return f.root.key()
}

func (l Limits) defaults() Limits {
	for _, d := range []struct {
		field  *int
		normal int
	}{{&l.Text, MaxText}, {&l.Depth, MaxDepth}, {&l.Nodes, MaxNodes}, {&l.SQL, MaxSQL}, {&l.Steps, MaxSteps}} {
		if *d.field == 0 {
			*d.field = d.normal
		}
	}
	return l
}

// all holds when every one of its filters does.
type all struct {
	nodes []node
	json  string
}

// newAll returns the one node that holds when all of nodes do.
func newAll(nodes []node) node {
	nodes = canonical(nodes, func(n node) []node {
		if a, ok := n.(*all); ok {
			return a.nodes
		}
		return nil
	})
	if len(nodes) == 1 {
		return nodes[0]
	}
	return &all{nodes, arrayKey("all", nodes)}
}

func (a *all) key() string { return a.json }

func (a *all) match(e *schemas.Event) bool {
	for _, n := range a.nodes {
		if !n.match(e) {
			return false
		}
	}
	return true
}

// either holds when at least one of its filters does: the dialect any.
type either struct {
	nodes []node
	json  string
}

func newEither(nodes []node) node {
	nodes = canonical(nodes, func(n node) []node {
		if a, ok := n.(*either); ok {
			return a.nodes
		}
		return nil
	})
	if len(nodes) == 1 {
		return nodes[0]
	}
	return &either{nodes, arrayKey("any", nodes)}
}

func (a *either) key() string { return a.json }

func (a *either) match(e *schemas.Event) bool {
	for _, n := range a.nodes {
		if n.match(e) {
			return true
		}
	}
	return false
}

// not holds when its filter does not.
type not struct{ node }

func (n not) key() string                 { return `{"not":` + n.node.key() + `}` }
func (n not) match(e *schemas.Event) bool { return !n.node.match(e) }

// canonical puts in the place of a node the nodes that it is made of, if it is of
// the same kind, sorts and drops repetitions.
func canonical(nodes []node, parts func(node) []node) []node {
	var flat []node
	for _, n := range nodes {
		if p := parts(n); p != nil {
			flat = append(flat, p...)
		} else {
			flat = append(flat, n)
		}
	}
	slices.SortFunc(flat, func(a, b node) int {
		if a.key() < b.key() {
			return -1
		}
		if a.key() > b.key() {
			return 1
		}
		return 0
	})
	return slices.CompactFunc(flat, func(a, b node) bool { return a.key() == b.key() })
}

func arrayKey(dialect string, nodes []node) string {
	b := append([]byte(`{"`), dialect...)
	b = append(b, `":[`...)
	for i, n := range nodes {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, n.key()...)
	}
	return string(append(b, "]}"...))
}
