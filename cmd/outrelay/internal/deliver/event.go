package deliver

import (
	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// An Event is what a target is given: an event as it was delivered, with relaytopic and
// relaycursor.
type Event struct {
	*schemas.Event
	// Raw is its JSON form as it came.
	Raw []byte
}

func readEvent(d *subscriber.SubscriptionDelivery) (Event, error) {
	e, err := schemas.ParseStored(d.Raw) // which keeps what the broker added
	return Event{e, d.Raw}, err
}

// key is the partition that the event belongs to; "" is none.
func (e *Event) key() string {
	a, _ := e.Attribute("partitionkey")
	return a.Value
}
