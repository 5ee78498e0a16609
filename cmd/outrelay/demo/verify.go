package demo

import (
	"encoding/json"
	"errors"
)

// A share is the part of the week that one subscriber asks for.
type share struct {
	name string // in the summary
	// What the subscriber asks the gateway for.
	topic  string          // a topic filter
	filter json.RawMessage // on attributes; nil takes all
	// has says whether an event of the file belongs to the share. It is the file's
	// word, and knows nothing of topics or of how the gateway filters.
	has func(Quake) bool
}

// shares are the demo's three subscribers, in the order of the summary.
var shares = []share{
	{
		name: "quakes/**", topic: "quakes/**",
		has: func(Quake) bool { return true },
	},
	{
		name: "quakes/ak", topic: "quakes/ak",
		has: func(q Quake) bool { return q.Network == "ak" },
	},
	{
		name: "explosions", topic: "quakes/**", filter: json.RawMessage(`{"exact":{"type":"gov.usgs.explosion"}}`),
		has: func(q Quake) bool { return q.Type == "gov.usgs.explosion" },
	},
}

// expect lists the ids of the share's events in the order of the file.
func (s share) expect(week []Quake) []string {
	var ids []string
	for _, q := range week {
		if s.has(q) {
			ids = append(ids, q.ID)
		}
	}
	return ids
}

// compare holds the ids that a subscriber got, in the order in which it got them,
// against those that the file says it should. lost counts those that never came.
// outOfOrder counts those that stand in the wrong place: after a later one, a
// second time, or though the file has no such event in this share.
func compare(want, got []string) (lost, outOfOrder int) {
	place := make(map[string]int, len(want))
	for i, id := range want {
		place[id] = i
	}
	seen := make(map[string]bool, len(got))
	last := -1
	for _, id := range got {
		i, known := place[id]
		switch {
		case !known || i <= last: // a second one is at best where the last one was
			outOfOrder++
		default:
			last = i
		}
		seen[id] = true
	}
	for _, id := range want {
		if !seen[id] {
			lost++
		}
	}
	return lost, outOfOrder
}

// A Summary is the outcome of a replay, printed as one line of JSON.
type Summary struct {
	Published   int         `json:"published"` // events that the gateway took
	Subscribers Subscribers `json:"subscribers"`
	Lost        int         `json:"lost"`       // over all subscribers
	OutOfOrder  int         `json:"outoforder"` // over all subscribers, doubles included
}

// Subscribers says how many events each subscriber got.
type Subscribers struct {
	All        int `json:"quakes/**"`
	Alaska     int `json:"quakes/ak"`
	Explosions int `json:"explosions"`
}

// summarize compares what each subscriber got with the file. got stands in the
// order of shares.
func summarize(week []Quake, published int, got [][]string) Summary {
	s := Summary{
		Published:   published,
		Subscribers: Subscribers{All: len(got[0]), Alaska: len(got[1]), Explosions: len(got[2])},
	}
	for i, share := range shares {
		lost, outOfOrder := compare(share.expect(week), got[i])
		s.Lost += lost
		s.OutOfOrder += outOfOrder
	}
	return s
}

// errImperfect is the demo's error where the broker did not do as the file says.
var errImperfect = errors.New("the subscribers did not get what the file says; the summary has the numbers")

// err is nil if each subscriber got its share of the week, each event once and in order.
func (s Summary) err(week []Quake) error {
	if s.Published != len(week) || s.Lost > 0 || s.OutOfOrder > 0 {
		return errImperfect
	}
	return nil
}
