// Package filter decides by an event's attributes whether a subscriber gets it:
// the dialects of the CloudEvents Subscriptions API and CloudEvents SQL.
package filter

import "github.com/outrelay/outrelay/schemas"

// A Filter is a compiled content filter. Nil lets everything through. It may be
// used from several goroutines.
type Filter struct{}

// Parse compiles the JSON of the parameter "filter" (one filter, or an array of
// which all must hold; "" is none) and a CloudEvents SQL expression ("" is none);
// both must hold. It returns nil if neither is given. The error is a
// [schemas.Problem] of name "filter".
func Parse(dialects, sql string) (*Filter, error) { panic("to come") }

// Match says whether e passes. An expression that fails on e does not pass.
func (f *Filter) Match(e *schemas.Event) bool { panic("to come") }

// Key is a text that is equal for equal filters and differs for different ones.
func (f *Filter) Key() string { panic("to come") }
