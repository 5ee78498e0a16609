package access

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// A Source says where a request carried its credentials.
type Source uint8

// The places a token can be in.
const (
	Nowhere          Source = iota // anonymous
	Authorization                  // the header of that name
	ServiceBusHeader               // the header ServiceBusAuthorization
	ServiceBusQuery                // the query parameter sb-hc-token
	AccessToken                    // the query parameter access_token
	Subprotocol                    // a WebSocket subprotocol outrelay.bearer.TOKEN
	Text                           // no request: [Policy.Renew], [Policy.Check]
	Certificate                    // a TLS client's certificate
)

// InURL says whether the token was in the address, so that the answer needs
// Cache-Control: private.
func (s Source) InURL() bool { return s == ServiceBusQuery || s == AccessToken }

// A Grant is what a request's credentials allow. It is immutable and holds no token.
type Grant struct {
	// Subject names the principal for logs, in printable characters, at most 400
	// bytes; "" is anonymous. It never is a token.
	Subject string
	// Expires is when the grant ends, zero for never.
	Expires time.Time
	// Source is where the credentials were.
	Source Source

	namespace string
	rights    rights
	proof     proof // nil for anonymous
}

// A proof is what stays of a token once it has been checked: enough to say later
// whether it still holds, too little to use it.
type proof interface {
	// rights returns what the token allows under n's present rules, or why it no
	// longer holds.
	rights(n *namespace) (rights, *schemas.Problem)
	// same says whether the other proof is of the same principal.
	same(proof) bool
}

// Allows returns nil if the grant covers the ask, else a [schemas.Problem] of name
// "forbidden", or "unauthorized" if no token was given or it has expired.
func (g *Grant) Allows(a Ask) error {
	if g.expired(time.Now()) {
		return errExpired()
	}
	if g.rights.cover(a) {
		return nil
	}
	if g.proof == nil {
		return schemas.Problemf("unauthorized", "To %s %s a token is needed: send it as Authorization: Bearer or SharedAccessSignature.", a.Action, a.object())
	}
	return schemas.Problemf("forbidden", "The token does not give the right to %s %s.", a.Action, a.object())
}

// Namespace is the one the grant is for. It is worth nothing in another.
func (g *Grant) Namespace() string { return g.namespace }

// Rights is what the grant allows, for people to read: [Grant.Allows] decides.
func (g *Grant) Rights() Rights { return g.rights.export() }

func (g *Grant) expired(now time.Time) bool {
	return !g.Expires.IsZero() && !now.Before(g.Expires)
}

func (g *Grant) allowsAll(asks []Ask) error {
	for _, a := range asks {
		if err := g.Allows(a); err != nil {
			return err
		}
	}
	switch {
	case len(asks) > 0 || !g.rights.empty():
		return nil
	case g.proof == nil:
		return schemas.Problemf("unauthorized", "A token is needed: send it as Authorization: Bearer or SharedAccessSignature.")
	}
	return schemas.Problemf("forbidden", "The token gives no right here.")
}

// Format prints the subject, whatever the verb: a grant in a log line shows nothing else.
func (g *Grant) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, g.text()) }

// LogValue is the subject.
func (g *Grant) LogValue() slog.Value { return slog.StringValue(g.text()) }

func (g *Grant) text() string {
	switch {
	case g == nil:
		return "no grant"
	case g.Subject == "":
		return "anonymous"
	}
	return g.Subject
}

func errExpired() *schemas.Problem {
	return schemas.Problemf("unauthorized", "The token has expired (ExpiredToken: The token is expired); get a new one.")
}
