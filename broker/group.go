package broker

import (
	"slices"
	"time"
)

// A Group is the shared place of streams that are level with their view: whoever
// serves them takes each event once for all. A stream leaves it when its socket is
// full, and goes on by itself with [Stream.Next] until it is level again.
//
// Take belongs to one goroutine at a time, the group's owner's; so does whatever it
// returned until the next call.
type Group struct {
	owner  any
	feed   *feed
	view   *view
	notify func(*Group)

	// guarded by the feed's mu
	mark       Mark
	generation uint64
	members    int
	told       bool
}

// A Mark is a place in a view, after a delivery.
type Mark struct {
	next  uint64
	place position
	live  uint64 // unstored events of the view before next
}

// A Member says from where on a stream that joined a group takes part: deliveries
// that [Member.Skips] names are not for it.
type Member struct {
	next uint64
	seen uint64 // the newest stored event before it
}

// Skips says whether d came before the stream's place.
func (m Member) Skips(d *Delivery) bool {
	return d.mark.next <= m.next || d.Stored && d.Cursor.Sequence <= m.seen
}

// Past says whether a stream that joined at m is level with the group at mark, so
// that nothing need be skipped any more.
func (m Member) Past(mark Mark) bool { return mark.next >= m.next && mark.place.sequence >= m.seen }

// Join makes the stream a member of its view's group of that owner, which is made
// if there is none. It reports false if the stream has something of its own to
// deliver first: call Next. notify is called when something comes for the group,
// once until the next Take, under a lock: it must not block or call the broker.
//
// A member's Next must not be called until it has left.
func (s *Stream) Join(owner any, notify func(*Group)) (*Group, Member, bool) {
	if s.behind || s.snapshot != nil || len(s.gaps) > 0 {
		return nil, Member{}, false
	}
	if s.notBefore > 0 {
		if time.Now().UnixNano() < s.notBefore+clockSlack {
			return nil, Member{}, false
		}
		s.notBefore = 0
	}
	f, v := s.feed, s.view
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.generation != s.generation || s.next < v.base {
		return nil, Member{}, false
	}
	for s.next < v.end() { // what it needs not deliver
		e := v.at(s.next)
		if e.stored() && e.sequence > s.place.sequence || !e.stored() && s.next >= s.began {
			break
		}
		s.next++
	}
	if s.next < s.began {
		return nil, Member{}, false
	}
	var g *Group
	for _, other := range v.groups {
		if other.owner == owner {
			g = other
		}
	}
	if g == nil {
		g = &Group{
			owner: owner, feed: f, view: v, notify: notify,
			mark: Mark{s.next, s.place, s.live}, generation: s.generation,
		}
		v.groups = append(v.groups, g)
	}
	if g.generation != s.generation || s.next < g.mark.next {
		return nil, Member{}, false
	}
	g.members++
	g.tell()
	return g, Member{s.next, s.place.sequence}, true
}

// tell calls the owner unless it was told already or nothing waits. The feed's lock
// is held.
func (g *Group) tell() {
	if !g.told && (g.mark.next < g.view.end() || g.generation != g.feed.generation) {
		g.told = true
		g.notify(g)
	}
}

// Take appends to dst what waits, up to max deliveries, and moves the group's place
// past it. more says that there is more. lost says that the group fell behind the
// ring, or the log is another one: all members must leave at the mark of before.
func (g *Group) Take(dst []Delivery, max int) (out []Delivery, more, lost bool) {
	now := time.Now().UnixNano()
	f, v := g.feed, g.view
	f.mu.Lock()
	defer f.mu.Unlock()
	g.told = false
	if g.generation != f.generation || g.mark.next < v.base {
		return dst, false, true
	}
	for ; g.mark.next < v.end() && max > 0; max-- {
		e := v.at(g.mark.next)
		g.mark.next++
		d := Delivery{Event: e.json}
		if e.stored() {
			g.mark.place = e.position
			if e.expires != 0 && e.expires <= now {
				continue
			}
			d.Stored, d.Cursor = true, f.cursor(e.position)
		} else {
			g.mark.live++
		}
		d.mark = g.mark
		dst = append(dst, d)
	}
	if g.mark.next == v.end() && f.head.sequence > g.mark.place.sequence {
		g.mark.place = f.head // nothing of the view lies between
	}
	return dst, g.mark.next < v.end(), false
}

// Mark is the group's place.
func (g *Group) Mark() Mark {
	g.feed.mu.Lock()
	defer g.feed.mu.Unlock()
	if g.generation == g.feed.generation && g.mark.next == g.view.end() && g.feed.head.sequence > g.mark.place.sequence {
		g.mark.place = g.feed.head
	}
	return g.mark
}

// Mark is the place after the delivery. It holds for one that came from a group.
func (d *Delivery) Mark() Mark { return d.mark }

// Leave takes the stream out of the group; its own Next goes on after mark, or
// where it joined if that is later.
func (s *Stream) Leave(g *Group, m Member, mark Mark) {
	f := g.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if mark.next >= m.next {
		s.next, s.live = mark.next, mark.live
	}
	if mark.place.sequence > s.place.sequence {
		s.place = mark.place
	}
	g.members--
	if g.members == 0 {
		g.view.groups = slices.DeleteFunc(g.view.groups, func(other *Group) bool { return other == g })
	}
}

// Members counts the streams of the stream's view, whatever serves them.
func (s *Stream) Members() int {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return s.view.streams
}
