package broker

import (
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// rules are a namespace's topic rules with their defaults filled in. They are
// immutable.
type rules struct {
	retention Retention
	list      []TopicRule
	maxAge    time.Duration // the longest, which is the log's

	former    []formerRules // the newest first
	forgotten int64         // former rules that held before this time are not known
}

// formerRules are rules that held until a reload, in nanoseconds since 1970. Whoever
// resumes from before it may have missed what they did not keep.
type formerRules struct {
	rules
	until int64
}

// maxFormerRules bounds the former rules that are remembered.
const maxFormerRules = 32

func newRules(c NamespaceConfig) rules {
	r := rules{retention: c.Retention, maxAge: c.Retention.MaxAge}
	for _, rule := range c.Topics {
		if rule.MaxAge == 0 {
			rule.MaxAge = c.Retention.MaxAge
		}
		r.list = append(r.list, rule)
		if !rule.Unstored {
			r.maxAge = max(r.maxAge, rule.MaxAge)
		}
	}
	return r
}

// after returns r as what follows old.
func (r rules) after(old *rules, now time.Time) *rules {
	before := *old
	before.former = nil
	r.former = append([]formerRules{{before, now.UnixNano()}}, old.former...)
	r.forgotten = old.forgotten
	if len(r.former) > maxFormerRules {
		r.forgotten = r.former[maxFormerRules].until
		r.former = r.former[:maxFormerRules]
	}
	return &r
}

// find returns the first rule that matches, or the default.
func (r *rules) find(t schemas.Topic) TopicRule {
	for _, rule := range r.list {
		if rule.Filter.Match(t) {
			return rule
		}
	}
	return TopicRule{Filter: "**", MaxAge: r.retention.MaxAge}
}

// unstored says whether some topic of f may be one that is not stored.
func (r *rules) unstored(f schemas.TopicFilter) bool {
	if schemas.TopicFilter(schemas.NoticeSegment + "/**").Overlaps(f) {
		return true
	}
	for _, rule := range r.list {
		if rule.Filter.Overlaps(f) {
			if rule.Unstored {
				return true
			}
			if rule.Filter.Contains(f) {
				return false
			}
		}
	}
	return false
}

// minAge is the shortest time for which some topic of f may be kept.
func (r *rules) minAge(f schemas.TopicFilter) time.Duration {
	shortest := r.maxAge
	for _, rule := range r.list {
		if rule.Unstored || !rule.Filter.Overlaps(f) {
			continue
		}
		shortest = min(shortest, rule.MaxAge)
		if rule.Filter.Contains(f) {
			return shortest
		}
	}
	return min(shortest, r.retention.MaxAge)
}

// A rulebook holds a namespace's rules, which a reload replaces in one step.
type rulebook struct{ held atomic.Pointer[rules] }

func newRulebook(r rules) *rulebook {
	b := &rulebook{}
	b.held.Store(&r)
	return b
}

// now returns the present rules.
func (b *rulebook) now() *rules { return b.held.Load() }

func (b *rulebook) find(t schemas.Topic) TopicRule { return b.now().find(t) }

// unstored says whether some topic of f may have been one that was not stored, at
// any time since then, in nanoseconds since 1970.
func (b *rulebook) unstored(f schemas.TopicFilter, since int64) bool {
	r := b.now()
	if r.unstored(f) || since < r.forgotten {
		return true
	}
	for _, former := range r.former {
		if since < former.until && former.unstored(f) {
			return true
		}
	}
	return false
}

// minAge is the shortest time for which some event of f may have been kept that was
// accepted after since, and maxAge the longest for which any was.
func (b *rulebook) minAge(f schemas.TopicFilter, since int64) (shortest, longest time.Duration) {
	r := b.now()
	shortest, longest = r.minAge(f), r.maxAge
	if since < r.forgotten {
		return 0, longest
	}
	for _, former := range r.former {
		if since < former.until {
			shortest, longest = min(shortest, former.minAge(f)), max(longest, former.maxAge)
		}
	}
	return shortest, longest
}
