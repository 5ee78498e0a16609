// Package access decides who may do what (protocol section 7).
package access

import (
	"net/http"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// An Action is what a right is asked for.
type Action uint8

// The actions.
const (
	Publish      Action = iota // on Ask.Topics
	Subscribe                  // on Ask.Topics
	Subscription               // a durable subscription's name, Ask.Name
	Listen                     // a hybrid connection, Ask.Name
	Send                       // a hybrid connection, Ask.Name
	Manage                     // the namespace
)

// An Ask is one thing that a request wants to do.
type Ask struct {
	Action Action
	Topics schemas.TopicFilter
	Name   string
}

// A Grant is what a request's credentials allow. It is immutable.
type Grant struct {
	// Subject names the principal for logs; "" is anonymous. It never is a token.
	Subject string
	// Expires is when the grant ends, zero for never.
	Expires time.Time
}

// Allows returns nil if the grant covers the ask, else a [schemas.Problem] of name
// "forbidden", or "unauthorized" if no token was given.
func (g *Grant) Allows(a Ask) error { panic("to come") }

// A Policy holds a gateway's keys and rules.
type Policy struct{}

// Authorize finds the request's credentials, checks them, and returns their grant
// if it covers all asks. The error is a [schemas.Problem].
func (p *Policy) Authorize(namespace string, r *http.Request, asks ...Ask) (*Grant, error) {
	panic("to come")
}
