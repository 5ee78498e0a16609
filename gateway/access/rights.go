package access

import (
	"errors"
	"slices"
	"strings"

	"github.com/outrelay/outrelay/schemas"
)

// Rights are what a grant allows, in the form of a JSON Web Token's claim "outrelay"
// (protocol section 7): topic filters, names of durable subscriptions ("*" for any),
// and names of hybrid connections or patterns of them in the form of topic filters.
type Rights struct {
	Publish       []string `json:"publish,omitempty"`
	Subscribe     []string `json:"subscribe,omitempty"`
	Subscriptions []string `json:"subscriptions,omitempty"`
	Listen        []string `json:"listen,omitempty"`
	Send          []string `json:"send,omitempty"`
	Manage        bool     `json:"manage,omitempty"`
}

// parse checks every name. The text is what is wrong, "" if nothing.
func (c Rights) parse() (r rights, wrong string) {
	var f faults
	r = rights{
		publish:       topicFilters(c.Publish, "publish", &f),
		subscribe:     topicFilters(c.Subscribe, "subscribe", &f),
		subscriptions: c.Subscriptions,
		listen:        namePatterns(c.Listen, "listen", &f),
		send:          namePatterns(c.Send, "send", &f),
		manage:        c.Manage,
	}
	for _, name := range c.Subscriptions {
		if _, err := schemas.ParseSegment("subscription", name); err != nil && name != "*" {
			f.add("subscriptions", "%s", detail(err))
		}
	}
	if len(f.all) > 0 {
		return rights{}, f.all[0].Error()
	}
	return r, ""
}

// Validate returns nil if every name is one that a token may hold. The error says
// which is not, and why.
func (c Rights) Validate() error {
	if _, wrong := c.parse(); wrong != "" {
		return errors.New(wrong)
	}
	return nil
}

// export returns a copy.
func (r *rights) export() Rights {
	text := func(filters []schemas.TopicFilter) (s []string) {
		for _, f := range filters {
			s = append(s, string(f))
		}
		return s
	}
	return Rights{
		Publish: text(r.publish), Subscribe: text(r.subscribe), Subscriptions: slices.Clone(r.subscriptions),
		Listen: slices.Clone(r.listen), Send: slices.Clone(r.send), Manage: r.manage,
	}
}

// rights is a set of things that may be done. It is immutable once made.
type rights struct {
	publish, subscribe []schemas.TopicFilter
	subscriptions      []string // names; "*" is any
	listen, send       []string // names of hybrid connections, folded, or patterns of them
	manage             bool
}

func (r *rights) empty() bool {
	return len(r.publish)+len(r.subscribe)+len(r.subscriptions)+len(r.listen)+len(r.send) == 0 && !r.manage
}

// cover says whether one of the rights contains all of a.
func (r *rights) cover(a Ask) bool {
	switch a.Action {
	case Publish:
		return !a.Topics.Notices() && coverTopics(r.publish, a.Topics)
	case Subscribe:
		return coverTopics(r.subscribe, a.Topics)
	case Subscription:
		_, err := schemas.ParseSegment("subscription", a.Name)
		return err == nil && (slices.Contains(r.subscriptions, a.Name) || slices.Contains(r.subscriptions, "*"))
	case Listen:
		return coverName(r.listen, a.Name)
	case Send:
		return coverName(r.send, a.Name)
	case Manage:
		return r.manage
	}
	return false
}

func coverTopics(rights []schemas.TopicFilter, asked schemas.TopicFilter) bool {
	if _, err := schemas.ParseTopicFilter(string(asked)); err != nil {
		return false
	}
	return slices.ContainsFunc(rights, func(f schemas.TopicFilter) bool { return f.Contains(asked) })
}

func coverName(patterns []string, name string) bool {
	if _, err := schemas.ParseTopic(name); err != nil {
		return false
	}
	// The first segment keeps the rule about notices, which is for topics alone, out.
	asked := schemas.TopicFilter("name/" + fold(name))
	return slices.ContainsFunc(patterns, func(p string) bool {
		return schemas.TopicFilter("name/" + p).Contains(asked)
	})
}

// fold maps A-Z to lower case and nothing else: outside ASCII there are letters
// whose lower case is an ASCII one.
func fold(s string) string {
	i := strings.IndexFunc(s, func(r rune) bool { return 'A' <= r && r <= 'Z' })
	if i < 0 {
		return s
	}
	b := []byte(s)
	for ; i < len(b); i++ {
		if 'A' <= b[i] && b[i] <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// everything is what a visitor may do in a namespace with [Namespace.Dev].
func everything() rights {
	return rights{
		publish:       []schemas.TopicFilter{"**"},
		subscribe:     []schemas.TopicFilter{"**", schemas.NoticeSegment + "/**"},
		subscriptions: []string{"*"},
		listen:        []string{"**"},
		send:          []string{"**"},
	}
}

// A keyRights is the set of rights that a shared key has.
type keyRights struct{ send, listen, manage bool }

// A scope is the part of a namespace that an address covers: it and all below it
// at a "/". The text has no slash at its ends: "" is the whole namespace, "topics"
// all its events, "topics/T" the topic T and those below, and anything else a
// hybrid connection's folded name and those below.
type scope string

const topicsScope = "topics"

// reserved are the first segments that no hybrid connection may have, in any case
// (protocol section 2).
var reserved = []string{topicsScope, "connect", "subscriptions", "healthz", ".well-known", "$hc"}

// parseScope reads the path of a resource, decoded once. It is false for a path
// that is nothing in a namespace.
func parseScope(path string) (scope, bool) {
	path = strings.Trim(path, "/")
	first, rest, below := strings.Cut(path, "/")
	switch {
	case path == "" || path == topicsScope:
		return scope(path), true
	case first == topicsScope && below:
		_, err := schemas.ParseTopic(rest)
		return scope(path), err == nil
	case slices.Contains(reserved, fold(first)):
		return "", false
	}
	_, err := schemas.ParseTopic(path)
	return scope(fold(path)), err == nil
}

// contains says whether t is s or lies below it.
func (s scope) contains(t scope) bool {
	return s == "" || s == t || strings.HasPrefix(string(t), string(s)+"/")
}

// meet is what lies in both.
func (s scope) meet(t scope) (scope, bool) {
	switch {
	case s.contains(t):
		return t, true
	case t.contains(s):
		return s, true
	}
	return "", false
}

// rights returns what a key's rights come to in the scope (protocol section 7).
func (s scope) rights(k keyRights) rights {
	var r rights
	topics := func(filters ...schemas.TopicFilter) {
		if k.send {
			r.publish = filters
		}
		if k.listen {
			r.subscribe = filters
		}
	}
	names := func(patterns ...string) {
		if k.send {
			r.send = patterns
		}
		if k.listen {
			r.listen = patterns
		}
	}
	topic, events := strings.CutPrefix(string(s), topicsScope+"/")
	switch {
	case s == "":
		topics("**")
		names("**")
		if k.listen {
			r.subscriptions = []string{"*"}
		}
		r.manage = k.manage
	case s == topicsScope:
		topics("**")
	case events:
		topics(schemas.TopicFilter(topic), schemas.TopicFilter(topic+"/**"))
	default:
		names(string(s), string(s)+"/**")
	}
	return r
}
