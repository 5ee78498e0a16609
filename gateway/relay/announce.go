package relay

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// An announcement is the data of an event about a listener.
type announcement struct {
	// Name is the hybrid connection's.
	Name string `json:"name"`
	// Listener is the id by which senders may ask for it.
	Listener string `json:"listener"`
	// Reason is why it is gone: the word of the close reason.
	Reason string `json:"reason,omitempty"`
}

// announce tells those who subscribe to the hybrid connection's topic that the listener
// has come or gone.
func (l *listener) announce(kind, reason string) {
	word := kind[strings.LastIndexByte(kind, '.')+1:]
	data := announcement{l.entity.name, l.id, reason}
	b, err := json.Marshal(struct {
		SpecVersion string       `json:"specversion"`
		ID          string       `json:"id"`
		Source      string       `json:"source"`
		Type        string       `json:"type"`
		Subject     string       `json:"subject"`
		Time        string       `json:"time"`
		ContentType string       `json:"datacontenttype"`
		Data        announcement `json:"data"`
	}{
		schemas.SpecVersion, fmt.Sprintf("%s-%016x-%s", l.relay.rendezvous.Gateway(), l.number, word), schemas.NoticeSource, kind,
		l.entity.name, time.Now().UTC().Format(time.RFC3339Nano), "application/json", data,
	})
	if err != nil {
		panic(err) // there is nothing in it that can't be written
	}
	e, err := schemas.ParseEvent(b)
	if err == nil {
		err = l.relay.broker.Announce(l.entity.namespace, schemas.ListenerTopic(l.entity.name), e)
	}
	if err != nil {
		l.relay.logger.Warn("listener not announced", "namespace", l.entity.namespace, "tracking", l.tracking, "error", err)
	}
}
