// Package access decides who may do what (protocol section 7).
//
// A [Policy] holds the keys, rules and origins of all namespaces. Every way in asks
// it one question: [Policy.Authorize] takes a request and all that it wants to do,
// and returns a [Grant] or the [schemas.Problem] to answer with. What stays open
// longer than a request keeps its grant, asks it again for each new thing it does
// ([Grant.Allows]), ends with it ([Grant.Expires]), and looks at it anew when the
// rules change ([Policy.Changed], [Policy.Refresh]).
//
// # Promises
//
//   - Nothing is allowed that the config does not allow: the zero config allows nothing.
//   - A token that is given is checked, also where anonymous rights would do, and
//     then stands for itself: it does not add to what anonymous visitors may do.
//   - A right covers an ask only if it contains all of it.
//   - Answers do not tell what exists: an unknown key and a bad signature look
//     alike, and so do a name that is not there and one that is forbidden.
//   - No token or key is part of an error or of a printed value of this package.
//   - Only addresses from the config are ever fetched, never one from a token.
//
// # Concurrency
//
// All methods may be called from any goroutine. A [Grant] is immutable.
package access

import (
	"context"
	"net/http"

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

// String is the action as a part of a sentence.
func (a Action) String() string {
	switch a {
	case Publish:
		return "publish to"
	case Subscribe:
		return "subscribe to"
	case Subscription:
		return "use the subscription"
	case Listen:
		return "listen on"
	case Send:
		return "send to"
	case Manage:
		return "manage"
	}
	return "do this to"
}

// An Ask is one thing that a request wants to do. Topics and Name are what their
// parsers accepted, or come from a place that did; what is outside its grammar is
// covered by nothing. A hybrid connection's name is compared without case.
type Ask struct {
	Action Action
	Topics schemas.TopicFilter
	Name   string
}

// object is what is asked about, as it may be shown to who asked.
func (a Ask) object() string {
	switch a.Action {
	case Publish, Subscribe:
		return string(a.Topics)
	case Manage:
		return "the namespace"
	}
	return a.Name
}

// Challenge is the value of WWW-Authenticate with a problem of name "unauthorized".
const Challenge = `Bearer realm="outrelay", SharedAccessSignature realm="outrelay"`

// Authorize finds the request's credentials, checks them, and returns their grant
// if it covers all asks. Without asks it has to allow something at least.
//
// The error is a [schemas.Problem]: "parameter" for two different credentials,
// "unauthorized" for a token that is bad or needed ([Challenge] goes with it),
// "forbidden" for one that does not cover an ask.
//
// It waits for an issuer's keys at most [KeyWait], and only with a token that names
// a configured issuer and a key that is not known yet. Protocol: section 7.
func (p *Policy) Authorize(namespace string, r *http.Request, asks ...Ask) (*Grant, error) {
	c, problem := findCredential(r)
	if problem != nil {
		return nil, problem
	}
	g, problem := p.grantTo(namespace, r, c)
	if problem != nil {
		return nil, problem
	}
	if err := g.allowsAll(asks); err != nil {
		return nil, err
	}
	return g, nil
}

// grantTo checks the request's credential, or where it carries none the certificate
// that its client showed: a token stands for itself, whoever brings it.
func (p *Policy) grantTo(namespace string, r *http.Request, c credential) (*Grant, *schemas.Problem) {
	if c.source == Nowhere {
		n := p.namespace(namespace)
		if chain := n.certificates(r); chain != nil {
			return n.checkCertificate(chain)
		}
	}
	return p.grant(r.Context(), namespace, c)
}

// AuthorizeRelayed is [Policy.Authorize] for a relayed address, where access_token,
// and an Authorization that was not used to get in, belong to the application.
//
// sb-hc-token and ServiceBusAuthorization are always taken for us, in Azure's order:
// the header first for a WebSocket, else the parameter first. Only if there is
// neither, and the namespace's visitors may not do all that is asked, the
// client's certificate, the subprotocol and then Authorization are looked at; [Grant.Source] tells the caller
// what to keep from the application. Two different credentials are no problem here.
func (p *Policy) AuthorizeRelayed(namespace string, r *http.Request, asks ...Ask) (*Grant, error) {
	c := findRelayed(r)
	if c.source == Nowhere {
		visitor := p.namespace(namespace).visitor
		if visitor.allowsAll(asks) == nil {
			return visitor, nil
		}
		if p.namespace(namespace).certificates(r) == nil {
			c = findApplication(r)
		}
	}
	g, problem := p.grantTo(namespace, r, c)
	if problem != nil {
		return nil, problem
	}
	if err := g.allowsAll(asks); err != nil {
		return nil, err
	}
	return g, nil
}

// Check checks a token that came with no request: a JWT or the text of a shared
// access signature. Errors and waiting are as in [Policy.Authorize]; ctx ends the wait.
func (p *Policy) Check(ctx context.Context, namespace, token string) (*Grant, error) {
	g, problem := p.grant(ctx, namespace, credential{source: Text, token: token})
	if problem != nil {
		return nil, problem
	}
	return g, nil
}
