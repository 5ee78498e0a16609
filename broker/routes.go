package broker

import (
	"slices"
	"strings"

	"github.com/outrelay/outrelay/schemas"
)

// routes find the views that an event of a topic may reach: a trie of the segments
// of their topic filters, behind a cache of the topics seen. The zero value is empty.
type routes struct {
	root  branch
	cache map[schemas.Topic][]*view
}

// maxRoutes bounds the cache of topics; beyond it the cache starts afresh.
const maxRoutes = 10_000

// A branch is what comes after some segments of a filter.
type branch struct {
	views    []*view // of filters that end here
	rest     []*view // of filters that go on with "**"
	children map[string]*branch
}

func (r *routes) add(v *view) {
	b := &r.root
	for segment := range strings.SplitSeq(string(v.key.topics), "/") {
		if segment == "**" {
			b.rest = append(b.rest, v)
			clear(r.cache)
			return
		}
		child := b.children[segment]
		if child == nil {
			child = &branch{}
			if b.children == nil {
				b.children = map[string]*branch{}
			}
			b.children[segment] = child
		}
		b = child
	}
	b.views = append(b.views, v)
	clear(r.cache)
}

func (r *routes) remove(v *view) {
	r.root.remove(v, string(v.key.topics))
	clear(r.cache)
}

// remove takes v out, and branches that nothing is left on.
func (b *branch) remove(v *view, path string) {
	segment, after, more := strings.Cut(path, "/")
	is := func(other *view) bool { return other == v }
	if segment == "**" {
		b.rest = slices.DeleteFunc(b.rest, is)
		return
	}
	child := b.children[segment]
	if more {
		child.remove(v, after)
	} else {
		child.views = slices.DeleteFunc(child.views, is)
	}
	if len(child.views)+len(child.rest)+len(child.children) == 0 {
		delete(b.children, segment)
	}
}

// find returns the views that match t. The caller must not change the slice.
func (r *routes) find(t schemas.Topic) []*view {
	if views, ok := r.cache[t]; ok {
		return views
	}
	views := r.root.find(nil, string(t), !t.Notices())
	if r.cache == nil || len(r.cache) >= maxRoutes {
		r.cache = map[schemas.Topic][]*view{}
	}
	r.cache[t] = views
	return views
}

// find appends the views of a topic's remaining segments. wild says whether a
// wildcard may stand for the first of them, which it may not for the broker's own.
func (b *branch) find(views []*view, path string, wild bool) []*view {
	if wild {
		views = append(views, b.rest...)
	}
	segment, after, more := strings.Cut(path, "/")
	for _, name := range [...]string{segment, "*"} {
		child := b.children[name]
		if child == nil || name == "*" && !wild {
			continue
		}
		if more {
			views = child.find(views, after, true)
		} else {
			views = append(views, child.views...)
		}
	}
	return views
}
