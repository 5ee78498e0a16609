package filter

import (
	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/outrelay/outrelay/schemas"
)

// Evaluate is the value of an SQL expression on e, without the guard against panics.
func Evaluate(expression string, e *schemas.Event) (any, error) {
	x, err := parseSQL(expression, Limits{}.defaults())
	if err != nil {
		return nil, err
	}
	return x.evaluate(e)
}

// EvaluateAll evaluates every SQL expression in f, without the guard.
func EvaluateAll(f *Filter, e *schemas.Event) {
	if f != nil {
		evaluateAll(f.root, e)
	}
}

func evaluateAll(n node, e *schemas.Event) {
	switch n := n.(type) {
	case *all:
		for _, n := range n.nodes {
			evaluateAll(n, e)
		}
	case *either:
		for _, n := range n.nodes {
			evaluateAll(n, e)
		}
	case not:
		evaluateAll(n.node, e)
	case *sql:
		_, _ = n.evaluate(e)
	}
}

// Panicking is a filter whose SQL expression panics on every event, as parts of
// the module have.
func Panicking() *Filter { return &Filter{&sql{root: panicking{}}} }

type panicking struct{}

func (panicking) Evaluate(event.Event) (any, error) { panic("odd value") }
