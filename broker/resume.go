package broker

import (
	"context"
	"errors"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// clockSlack is by how much the order of acceptance may differ from that of the
// log: publishes race, and gateways' clocks differ.
const clockSlack = int64(time.Second)

// holds says whether c is a place in the log as it is now. It is not if the log was
// made anew, restored from an older copy or rewound: then it has another id, ends
// before c, or another time at c's place. If that event is gone, its neighbours'
// times decide.
func (l *eventLog) holds(ctx context.Context, now place, c schemas.Cursor) (bool, error) {
	if c.Log != now.log || c.Sequence > now.last {
		return false, nil
	}
	if c.Sequence == 0 || c.Accepted == 0 {
		return true, nil
	}
	r, err := l.at(ctx, c.Sequence)
	if err == nil {
		return r.accepted == c.Accepted, nil
	}
	if !errors.Is(err, errGone) {
		return false, err
	}
	next, err := l.leader(ctx, leaderGet{Sequence: c.Sequence + 1, Next: ">"})
	switch {
	case err == nil && next.accepted < c.Accepted-clockSlack:
		return false, nil
	case err != nil && !errors.Is(err, errGone):
		return false, err
	}
	// What was stored since then must lie behind it.
	since, err := l.firstSince(ctx, c.Time().Add(time.Duration(clockSlack)))
	return since == 0 || since > c.Sequence, err
}

// position is the place sequence with a time that holds understands, whether its
// event is there or not.
func (l *eventLog) position(ctx context.Context, sequence uint64, now place) (position, error) {
	if sequence == 0 {
		return position{}, nil
	}
	if sequence >= now.last {
		return position{now.last, now.accepted}, nil
	}
	r, err := l.at(ctx, sequence)
	if errors.Is(err, errGone) {
		if r, err = l.leader(ctx, leaderGet{Sequence: sequence + 1, Next: ">"}); err == nil {
			return position{sequence, r.accepted - 1}, nil
		}
	}
	if errors.Is(err, errGone) {
		return position{sequence, now.accepted}, nil
	}
	return position{sequence, r.accepted}, err
}

// A beginning is where a stream or page goes on, and what must be said first.
type beginning struct {
	position
	gaps []*Gap
	// notBefore drops what was accepted earlier, in nanoseconds since 1970.
	notBefore int64
}

// begin resolves a start against the log as it is now.
func (l *eventLog) begin(ctx context.Context, now place, topics schemas.TopicFilter, s Start) (beginning, error) {
	var b beginning
	var err error
	switch {
	case s.After != nil:
		return l.resume(ctx, now, topics, *s.After)
	case s.From == FromEarliest:
		b.position, err = l.position(ctx, now.first-1, now)
	case s.From == FromTime:
		b.notBefore = s.Time.UnixNano()
		var first uint64
		if first, err = l.firstSince(ctx, s.Time); err != nil {
			return b, err
		}
		if first == 0 {
			first = now.last + 1
		}
		b.position, err = l.position(ctx, first-1, now)
	default:
		b.position = position{now.last, now.accepted}
	}
	return b, err
}

// resume finds the place after a cursor, or the gap that there is instead.
func (l *eventLog) resume(ctx context.Context, now place, topics schemas.TopicFilter, c schemas.Cursor) (beginning, error) {
	b := beginning{position: position{c.Sequence, c.Accepted}}
	same, err := l.holds(ctx, now, c)
	if err != nil {
		return b, err
	}
	reason := ""
	at := position{c.Sequence, c.Accepted}
	switch {
	case !same:
		reason = GapReset
	case c.Sequence+1 < now.first && l.old(now, at, topics):
		reason = GapExpired
	case l.old(now, at, topics) && now.deleted > 0 && c.Sequence < now.last && l.uneven(topics, c.Accepted):
		b.gaps = append(b.gaps, &Gap{Reason: GapExpired})
	}
	if reason != "" {
		b.gaps = append(b.gaps, &Gap{Reason: reason})
		if b.position, err = l.position(ctx, now.first-1, now); err != nil {
			return b, err
		}
	}
	return b, nil
}

// damaged says whether events after the one sequence, up to the other, were lost by
// damage to the log's files.
func (l *eventLog) damaged(after, upTo uint64) bool {
	for _, span := range l.lost {
		if span[1] > after && span[0] <= upTo {
			return true
		}
	}
	return false
}

// old says whether some event of the filter that came after p may be gone: by age
// only if p is older than the shortest age of the filter's topics, by bytes only if
// the log was full since then.
func (l *eventLog) old(now place, p position, topics schemas.TopicFilter) bool {
	shortest, _ := l.rules.minAge(topics, p.accepted)
	return p.accepted <= now.fullAt || time.Since(time.Unix(0, p.accepted)) > shortest
}

// uneven says whether some events of the filter may have been kept for less time
// than others of the log.
func (l *eventLog) uneven(topics schemas.TopicFilter, since int64) bool {
	shortest, longest := l.rules.minAge(topics, since)
	return shortest < longest
}
