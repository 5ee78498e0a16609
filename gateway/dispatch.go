package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// A Route is one line of the gateway's table of public endpoints (protocol section 2).
type Route struct {
	// Method is the request's; GET answers HEAD as well.
	Method string
	// Pattern is the path: literal segments, "{name}" for any one segment, and last
	// perhaps "{name...}", which takes the rest, none or more segments.
	Pattern string
	// Asks is the right that is asked for, "" on a route that is open to all.
	Asks string
	// Drains says that it is refused while the gateway drains; a page's event
	// stream is told to come back instead.
	Drains bool

	handler  func(*call)
	literals []string
	rest     bool
}

// Routes lists the public endpoints.
func Routes() []Route { return slices.Clone(routes) }

var routes []Route

func init() { // what routes refers to refers to routes
	routes = []Route{
		{Method: "POST", Pattern: "/topics/{topic...}", Asks: "publish", Drains: true, handler: (*call).publish},
		{Method: "GET", Pattern: "/topics/{filter...}", Asks: "subscribe", Drains: true, handler: (*call).subscribe},
		{Method: "OPTIONS", Pattern: "/topics/{topic...}", Asks: "publish", handler: (*call).topicOptions},
		{Method: "GET", Pattern: "/connect", Asks: "any right", Drains: true, handler: (*call).connect},
		{Method: "GET", Pattern: "/subscriptions", Asks: "any right", handler: (*call).listSubscriptions},
		{Method: "PUT", Pattern: "/subscriptions/{name}", Asks: "the name", Drains: true, handler: about((*call).putSubscription)},
		{Method: "GET", Pattern: "/subscriptions/{name}", Asks: "the name", handler: about((*call).getSubscription)},
		{Method: "DELETE", Pattern: "/subscriptions/{name}", Asks: "the name", handler: about((*call).deleteSubscription)},
		{Method: "POST", Pattern: "/subscriptions/{name}/receive", Asks: "the name", Drains: true, handler: about((*call).receive)},
		{Method: "POST", Pattern: "/subscriptions/{name}/ack", Asks: "the name", handler: settle(broker.Ack)},
		{Method: "POST", Pattern: "/subscriptions/{name}/release", Asks: "the name", handler: settle(broker.Release)},
		{Method: "POST", Pattern: "/subscriptions/{name}/reject", Asks: "the name", handler: settle(broker.Reject)},
		{Method: "POST", Pattern: "/subscriptions/{name}/extend", Asks: "the name", handler: settle(broker.Extend)},
		{Method: "POST", Pattern: "/subscriptions/{name}/replay", Asks: "the name", Drains: true, handler: about((*call).replay)},
		{Method: "POST", Pattern: "/subscriptions/{name}/requeue", Asks: "the name", Drains: true, handler: about((*call).requeue)},
		{Method: "GET", Pattern: "/.well-known/outrelay", handler: (*call).wellKnown},
		{Method: "GET", Pattern: "/healthz", handler: (*call).healthz},
	}
	for i := range routes {
		r := &routes[i]
		r.literals = strings.Split(r.Pattern[1:], "/")
		if last := len(r.literals) - 1; strings.HasSuffix(r.literals[last], "...}") {
			r.literals, r.rest = r.literals[:last], true
		}
	}
}

// match says whether the path is one of the route's.
func (r *Route) match(segments []string) bool {
	n := len(r.literals)
	return len(segments) >= n && slices.EqualFunc(segments[:n], r.literals, fits) && (r.rest || len(segments) == n)
}

func fits(segment, literal string) bool { return literal[0] == '{' || segment == literal }

// names are the segments of a path of the route that its pattern doesn't spell out.
func (r *Route) names(segments []string) []string {
	if r.rest {
		return segments[len(r.literals):]
	}
	var names []string
	for i, literal := range r.literals {
		if literal[0] == '{' {
			names = append(names, segments[i])
		}
	}
	return names
}

// findRoute returns the route of method and path, nil if there is none. allow lists
// the methods of the path, none for a path that is not known.
func findRoute(method string, segments []string) (found *Route, allow []string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for i := range routes {
		r := &routes[i]
		if !r.match(segments) {
			continue
		}
		if r.Method == method {
			found = r
		}
		allow = append(allow, r.Method)
		if r.Method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	if len(allow) > 0 && !slices.Contains(allow, http.MethodOptions) {
		allow = append(allow, http.MethodOptions)
	}
	slices.Sort(allow)
	return found, allow
}

// splitPath decodes an escaped path segment by segment, so that an encoded slash is
// no separator. It cleans nothing: "//" has an empty segment between.
func splitPath(escaped string) ([]string, bool) {
	path, ok := strings.CutPrefix(escaped, "/")
	if !ok {
		return nil, false
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		decoded, err := url.PathUnescape(s)
		if err != nil {
			return nil, false
		}
		segments[i] = decoded
	}
	return segments, true
}

// serve answers a request of a public listener.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	c := &call{gateway: g, w: w, r: r, control: http.NewResponseController(w)}
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				panic(v)
			}
			g.logPanic(v)
			c.fault()
		}
	}()
	c.begin()
	if err := c.dispatch(); err != nil {
		c.refuse(err)
	}
}

// logPanic says where it was. What a panic carries may be a client's, so only a
// fault of the run time is shown.
func (g *Gateway) logPanic(v any) {
	text := fmt.Sprintf("%T", v)
	if e, ok := v.(interface {
		error
		RuntimeError()
	}); ok {
		text = e.Error()
	}
	g.config.Logger.Error("panic", "value", text, "stack", string(debug.Stack()))
}

func (c *call) dispatch() error {
	segments, ok := splitPath(c.r.URL.EscapedPath())
	if !ok {
		return errNotFound()
	}
	route, allow := findRoute(c.r.Method, segments)
	if route != nil && route.Pattern == "/healthz" {
		// Whoever looks after the gateway's health may not know its names.
		c.healthz()
		return nil
	}
	if done, err := c.relayed(segments); done {
		return err
	}
	namespace, ok := c.gateway.namespaceOf(c.r.Host)
	if !ok {
		return schemas.Problemf("misdirected", "No namespace is served under this host name; check the address.")
	}
	c.namespace = namespace
	c.allowOrigin()
	switch {
	case len(allow) == 0:
		return errNotFound()
	case route == nil && c.r.Method == http.MethodOptions:
		c.options(allow)
		return nil
	case route == nil:
		c.w.Header().Set("Allow", strings.Join(allow, ", "))
		return schemas.Problemf("method", "This address takes %s.", strings.Join(allow, ", "))
	case route.Drains && c.gateway.draining.Load():
		if strings.HasPrefix(route.Pattern, "/topics/") && c.isEventSource() {
			c.turnAwaySSE()
			return nil
		}
		return errDraining()
	}
	c.rest = route.names(segments)
	route.handler(c)
	return nil
}

func errNotFound() *schemas.Problem {
	return schemas.Problemf("not-found", "There is no such address; events are under /topics/, durable subscriptions under /subscriptions/.")
}

func isDraining(err error) bool {
	p, ok := errors.AsType[*schemas.Problem](err)
	return ok && p.Name == "draining"
}

func errDraining() *schemas.Problem {
	p := schemas.Problemf("draining", "This gateway is about to stop; connect to another, or again in a moment.")
	p.RetryAfter = drainRetry
	return p
}
