package schemas

import (
	"strings"
)

// Limits of names (protocol section 1).
const (
	MaxSegments = 16
	MaxSegment  = 64
	MaxTopic    = 256
)

// NoticeSegment and a "/" begin the topics of the broker's own notices. A wildcard
// first segment never matches them, and publishing to them is refused.
const NoticeSegment = "outrelay"

func notices(s string) bool { return strings.HasPrefix(s, NoticeSegment+"/") }

// A Topic is where events are published: 1-16 segments joined by "/", at most
// 256 bytes. Make one with [ParseTopic].
type Topic string

// ParseTopic checks s against the grammar of topics. The error is a [Problem]
// of name "name" that says which rule s broke.
func ParseTopic(s string) (Topic, error) {
	if err := checkSegments("topic", s, false); err != nil {
		return "", err
	}
	return Topic(s), nil
}

// Notices says whether t is one of the broker's own.
func (t Topic) Notices() bool { return notices(string(t)) }

// A TopicFilter is a pattern over topics: a topic in which a segment may be "*"
// (exactly one segment) and the last may be "**" (one or more).
type TopicFilter string

// ParseTopicFilter checks s against the grammar of topic filters. The error is a
// [Problem] of name "name".
func ParseTopicFilter(s string) (TopicFilter, error) {
	if err := checkSegments("topic filter", s, true); err != nil {
		return "", err
	}
	return TopicFilter(s), nil
}

// Concrete says whether f has no wildcard, so that it is a topic.
func (f TopicFilter) Concrete() bool { return !strings.Contains(string(f), "*") }

// Notices says whether all of f's topics are the broker's own; if not, none is.
func (f TopicFilter) Notices() bool { return notices(string(f)) }

// Match says whether t is one of f's topics.
func (f TopicFilter) Match(t Topic) bool {
	if t.Notices() != f.Notices() {
		return false
	}
	pattern, topic := string(f), string(t)
	for {
		p, restP, moreP := strings.Cut(pattern, "/")
		s, restT, moreT := strings.Cut(topic, "/")
		switch {
		case p == "**":
			return true
		case p != "*" && p != s:
			return false
		case moreP != moreT:
			return false
		case !moreP:
			return true
		}
		pattern, topic = restP, restT
	}
}

// Contains says whether every topic of g is one of f's: a right to f covers g. It
// looks at the segments alone, not at the limits on the length of a topic.
func (f TopicFilter) Contains(g TopicFilter) bool {
	if f.Notices() != g.Notices() {
		return false
	}
	a, b := strings.Split(string(f), "/"), strings.Split(string(g), "/")
	for i, p := range a {
		if i >= len(b) {
			return false
		}
		switch {
		case p == "**":
			return true
		case b[i] == "**":
			return false
		case p != "*" && p != b[i]:
			return false
		}
	}
	return len(a) == len(b)
}

// Overlaps says whether some topic is matched by both f and g. It looks at the
// segments alone, not at the limits on the length of a topic.
func (f TopicFilter) Overlaps(g TopicFilter) bool {
	if f.Notices() != g.Notices() {
		return false
	}
	a, b := strings.Split(string(f), "/"), strings.Split(string(g), "/")
	for i := 0; ; i++ {
		switch {
		case i == len(a) || i == len(b):
			return len(a) == len(b)
		case a[i] == "**" || b[i] == "**":
			return true
		case a[i] != b[i] && a[i] != "*" && b[i] != "*":
			return false
		}
	}
}

// ParseSegment checks s against the grammar of one segment, which is that of a
// subscription's name; what is named in the error.
func ParseSegment(what, s string) (string, error) {
	if problem := checkSegment(what, s, false, false); problem != nil {
		return "", problem
	}
	return s, nil
}

func checkSegments(what, s string, wildcards bool) error {
	switch {
	case s == "":
		return Problemf("name", "The %s is empty; give 1-%d segments joined by \"/\", such as orders/eu.", what, MaxSegments)
	case len(s) > MaxTopic:
		return Problemf("name", "The %s has %d bytes; at most %d are allowed.", what, len(s), MaxTopic)
	}
	n := strings.Count(s, "/") + 1
	if n > MaxSegments {
		return Problemf("name", "The %s has %d segments; at most %d are allowed.", what, n, MaxSegments)
	}
	for i, rest := 1, s; i <= n; i++ {
		segment, after, _ := strings.Cut(rest, "/")
		if problem := checkSegment(what, segment, wildcards, i == n); problem != nil {
			return problem
		}
		rest = after
	}
	return nil
}

func checkSegment(what, s string, wildcards, last bool) *Problem {
	switch {
	case s == "":
		return Problemf("name", "The %s has an empty segment; remove the extra \"/\".", what)
	case s == "." || s == "..":
		return Problemf("name", "The %s has the segment %q; \".\" and \"..\" are not allowed.", what, s)
	case len(s) > MaxSegment:
		return Problemf("name", "The %s has a segment of %d bytes; at most %d are allowed.", what, len(s), MaxSegment)
	case wildcards && s == "*", wildcards && last && s == "**":
		return nil
	case wildcards && s == "**":
		return Problemf("name", "The %s has \"**\" before its last segment; only the last may be \"**\".", what)
	}
	for i := range len(s) {
		if !segmentByte(s[i]) {
			switch {
			case s[i] == '*' && !wildcards:
				return Problemf("name", "The %s has a wildcard; only a topic filter may hold one.", what)
			case s[i] == '*':
				return Problemf("name", "The %s has \"*\" beside other characters; a wildcard is a segment of its own.", what)
			}
			return Problemf("name", "The %s has the character %q; a segment is made of A-Z a-z 0-9 . _ ~ -.", what, firstRune(s[i:]))
		}
	}
	return nil
}

func firstRune(s string) rune {
	for _, r := range s {
		return r
	}
	return 0
}

func segmentByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '.' || c == '_' || c == '~' || c == '-'
}
