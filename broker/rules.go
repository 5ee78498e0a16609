package broker

import (
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// rules are a namespace's topic rules with their defaults filled in.
type rules struct {
	retention Retention
	list      []TopicRule
	maxAge    time.Duration // the longest, which is the log's
}

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

// find returns the first rule that matches, or the default.
func (r rules) find(t schemas.Topic) TopicRule {
	for _, rule := range r.list {
		if rule.Filter.Match(t) {
			return rule
		}
	}
	return TopicRule{Filter: "**", MaxAge: r.retention.MaxAge}
}

// unstored says whether some topic of f may be one that is not stored.
func (r rules) unstored(f schemas.TopicFilter) bool {
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
func (r rules) minAge(f schemas.TopicFilter) time.Duration {
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
