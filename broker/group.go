package broker

import (
	"slices"
	"time"

	"github.com/outrelay/outrelay/schemas"
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
	arrived    []Arrival // who joined since the last Take
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

// An Arrival is a stream that joined a group: the token that Join was given, and
// from where on it takes part.
type Arrival struct {
	Token  any
	Member Member
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
// deliver first: call Next. The next Take names the token among those who arrived.
// notify is called when the group has something to take, once until the next Take,
// under a lock: it must not block or call the broker.
//
// A member's Next must not be called until it has left.
func (s *Stream) Join(owner, token any, notify func(*Group)) (*Group, Member, bool) {
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
	s.out = nil // what was delivered may go
	m := Member{s.next, s.place.sequence}
	g.arrived = append(g.arrived, Arrival{token, m})
	g.tell()
	return g, m, true
}

// tell calls the owner unless it was told already or nothing waits. The feed's lock
// is held.
func (g *Group) tell() {
	if !g.told && (g.mark.next < g.view.end() || len(g.arrived) > 0 || g.generation != g.feed.generation) {
		g.told = true
		g.notify(g)
	}
}

// A Taking is what [Group.Take] took.
type Taking struct {
	Deliveries []Delivery
	// Arrived are those who joined since the last Take; the deliveries are for them
	// too, but for those that their Member skips.
	Arrived []Arrival
	// From and To are the group's places before and after.
	From, To Mark
	// More says that there is more.
	More bool
	// Lost says that the group fell behind the ring, or the log is another one: all
	// members must leave at From.
	Lost bool
}

// Take takes what waits, up to max deliveries, and moves the group's place past it.
// The deliveries are appended to dst.
func (g *Group) Take(dst []Delivery, max int) Taking {
	now := time.Now().UnixNano()
	f, v := g.feed, g.view
	f.mu.Lock()
	defer f.mu.Unlock()
	g.told = false
	t := Taking{Arrived: g.arrived, From: g.mark}
	g.arrived = nil
	if g.generation != f.generation || g.mark.next < v.base {
		t.Lost = true
		return t
	}
	for ; g.mark.next < v.end() && max > 0; max-- {
		e := v.at(g.mark.next)
		g.mark.next++
		d := Delivery{Event: e.json, entry: e}
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
	g.level()
	t.Deliveries, t.To, t.More = dst, g.mark, g.mark.next < v.end()
	return t
}

// level moves the place to the newest stored event if nothing of the view lies
// between. The feed's lock is held.
func (g *Group) level() {
	if f := g.feed; g.mark.next == g.view.end() && f.head.sequence > g.mark.place.sequence {
		g.mark.place = f.head
	}
}

// Mark is the group's place.
func (g *Group) Mark() Mark {
	g.feed.mu.Lock()
	defer g.feed.mu.Unlock()
	if g.generation == g.feed.generation {
		g.level()
	}
	return g.mark
}

// Cursor is the place m as a cursor.
func (g *Group) Cursor(m Mark) schemas.Cursor {
	g.feed.mu.Lock()
	defer g.feed.mu.Unlock()
	return g.feed.cursor(m.place)
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
