package relay

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// Limits of a hybrid connection's name (protocol section 1).
const (
	maxSegments = 14
	maxName     = 230
)

// A Rule is about a hybrid connection, or all that match a pattern. One that no rule
// is about does not exist.
type Rule struct {
	// Name is its name, or a pattern in the form of a topic filter. Compared without case.
	Name string
	// AnonymousSenders lets senders in that have no token.
	AnonymousSenders bool
	// Listeners is how many it may have at once on a gateway; default 25.
	Listeners int
	// Sticky gives a sender's requests to one listener.
	Sticky bool
	// Deadline is how long a listener may take to answer a request; default 1 minute.
	Deadline time.Duration
	// NoWebSocket and NoHTTP say what is not relayed.
	NoWebSocket, NoHTTP bool
	// Host is a host name of its own, without port; "" for none.
	Host string
}

// An entity is a hybrid connection by its folded name.
type entity struct{ namespace, name string }

// A ruleBook holds the rules of all namespaces. It does not change.
type ruleBook struct {
	namespaces map[string]*namespaceRules
	hosts      map[string]entity // by host name in lower case
}

type namespaceRules struct {
	exact    map[string]*Rule // by folded name
	patterns []*Rule          // in the order of the config
}

func newRuleBook(rules map[string][]Rule) (*ruleBook, error) {
	b := &ruleBook{namespaces: map[string]*namespaceRules{}, hosts: map[string]entity{}}
	var faults []error
	for namespace, list := range rules {
		n := &namespaceRules{exact: map[string]*Rule{}}
		b.namespaces[namespace] = n
		for _, rule := range list {
			r := &rule
			if r.Listeners == 0 {
				r.Listeners = 25
			}
			if r.Deadline == 0 {
				r.Deadline = time.Minute
			}
			filter, err := schemas.ParseTopicFilter(r.Name)
			if err != nil {
				faults = append(faults, fmt.Errorf("relay of namespace %s: %w", namespace, err))
				continue
			}
			r.Name = fold(r.Name)
			switch {
			case filter.Concrete():
				n.exact[r.Name] = r
			case r.Host != "":
				faults = append(faults, fmt.Errorf("relay of namespace %s: host %s: a pattern can't have a host name of its own", namespace, r.Host))
			default:
				n.patterns = append(n.patterns, r)
			}
			if r.Host != "" {
				b.hosts[strings.ToLower(r.Host)] = entity{namespace, r.Name}
			}
		}
	}
	return b, errors.Join(faults...)
}

// find is the rule about a hybrid connection: the one of its name, else the first
// pattern that matches; nil if there is none.
func (b *ruleBook) find(e entity) *Rule {
	n := b.namespaces[e.namespace]
	if n == nil {
		return nil
	}
	if r := n.exact[e.name]; r != nil {
		return r
	}
	// The first segment keeps the rule about notices, which is for topics, out.
	name := schemas.Topic("name/" + e.name)
	if i := slices.IndexFunc(n.patterns, func(r *Rule) bool { return schemas.TopicFilter("name/" + r.Name).Match(name) }); i >= 0 {
		return n.patterns[i]
	}
	return nil
}

// named says whether a rule has exactly this name.
func (b *ruleBook) named(e entity) bool {
	n := b.namespaces[e.namespace]
	return n != nil && n.exact[e.name] != nil
}

// fold maps A-Z to lower case and nothing else.
func fold(s string) string {
	if strings.IndexFunc(s, func(c rune) bool { return 'A' <= c && c <= 'Z' }) < 0 {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// Reserved says whether a first segment of a path belongs to no hybrid connection, in
// any case (protocol section 2). "$hc" is not among them: it begins all addresses that
// name one.
func Reserved(segment string) bool {
	switch fold(segment) {
	case "topics", "connect", "subscriptions", "healthz", ".well-known":
		return true
	}
	return false
}

// Bound finds the hybrid connection whose own host name this is, in lower case and
// without port.
func (r *Relay) Bound(host string) (namespace, name string, ok bool) {
	e, ok := r.rules.Load().hosts[host]
	return e.namespace, e.name, ok
}

// prefixes lists the names that the beginning of a path can be, the longest first,
// each with the number of its segments. The problem is about the first segment that
// can't begin a name.
func prefixes(segments []string) (names []string, problem error) {
	name := ""
	for i, s := range segments {
		if i == maxSegments {
			break
		}
		if _, err := schemas.ParseSegment("hybrid connection", s); err != nil {
			if i == 0 {
				return nil, err
			}
			break
		}
		if i > 0 {
			name += "/"
		}
		if name += fold(s); len(name) > maxName {
			if i == 0 {
				return nil, schemas.Problemf("name", "The name has %d bytes; at most %d are allowed.", len(name), maxName)
			}
			break
		}
		names = append(names, name)
	}
	slices.Reverse(names)
	return names, nil
}
