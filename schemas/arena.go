package schemas

// An Arena reads events into memory that is used again after [Arena.Reset]: what was
// read before must not be looked at any more then, nor any text of it. The zero value is
// ready; it belongs to one goroutine at a time.
type Arena struct {
	events []Event
	json   []byte
	object Object
	draft  draft
}

// Sizes of what an arena uses again. What is beyond is left to the garbage collector.
const (
	arenaEvents = 128
	arenaJSON   = 64 << 10
)

// ParseEvent is as the function of that name.
func (a *Arena) ParseEvent(b []byte) (*Event, error) {
	if !a.object.Read(b, "") {
		r := newReader(b)
		r.draft.arena = a
		return r.one(false)
	}
	return a.parse(a.object.text, b, a.object.members)
}

// ParseWithin is ParseEvent for the object within another, which [Object.Read] was told
// of; false if it found none.
func (a *Arena) ParseWithin(o *Object) (e *Event, ok bool, err error) {
	if o.within < 0 {
		return nil, false, nil
	}
	e, err = a.parse(o.members[o.within].value.of(o.b), o.b, o.inner)
	return e, true, err
}

// parse makes an event of an object of which the members lie in b.
func (a *Arena) parse(object, b []byte, members []memberAt) (*Event, error) {
	a.draft.arena = a
	return a.draft.parse(object, b, members, false)
}

// Reset takes the memory of all events back.
func (a *Arena) Reset() {
	a.events, a.json = a.events[:0], a.json[:0]
	a.object.Clear()
	a.draft.reset()
}

// event returns an event, of which all fields are to be set.
func (a *Arena) event() *Event {
	if a == nil {
		return &Event{}
	}
	n := len(a.events)
	if n == cap(a.events) {
		a.events, n = make([]Event, 0, arenaEvents), 0
	}
	a.events = a.events[:n+1]
	return &a.events[n]
}

// bytes returns an empty slice with room for n bytes.
func (a *Arena) bytes(n int) []byte {
	if a == nil || n > arenaJSON/4 {
		return make([]byte, 0, n)
	}
	if cap(a.json)-len(a.json) < n {
		a.json = make([]byte, 0, arenaJSON)
	}
	start := len(a.json)
	a.json = a.json[:start+n]
	return a.json[start : start : start+n]
}
