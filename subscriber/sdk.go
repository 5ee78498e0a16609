package subscriber

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
)

// The SDK takes data for a JSON value where its type is written application/json or
// text/json and nowhere else; of other types, application/geo+json among them, it
// reads only strings and writes the value as one. The functions here keep it a value,
// as the JSON event format says (section 3.1).

// otherJSON says whether a content type is JSON's but none that the SDK knows so.
func otherJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.TrimSpace(media)
	if media == event.ApplicationJSON || media == event.TextJSON {
		return false
	}
	media = strings.ToLower(media)
	return strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json")
}

// readEvent reads an event's JSON. The event shares nothing with raw.
func readEvent(raw []byte) (event.Event, error) {
	var head struct {
		DataContentType string          `json:"datacontenttype"`
		Data            json.RawMessage `json:"data"`
	}
	var e event.Event
	if json.Unmarshal(raw, &head) != nil || head.Data == nil || !otherJSON(head.DataContentType) {
		err := json.Unmarshal(raw, &e)
		return e, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return e, err
	}
	delete(members, "data")
	rest, err := json.Marshal(members)
	if err != nil {
		return e, err
	}
	err = json.Unmarshal(rest, &e)
	e.DataEncoded = head.Data
	return e, err
}

// writeEvent is the event's JSON, with the text of its data as it is.
func writeEvent(e event.Event) ([]byte, error) {
	if e.DataBase64 || !otherJSON(e.DataContentType()) || !json.Valid(e.DataEncoded) {
		b, err := e.MarshalJSON()
		if err == nil && !json.Valid(b) {
			err = fmt.Errorf("the data is no valid JSON, as its type %q says", e.DataContentType())
		}
		return b, err
	}
	data := e.DataEncoded
	e.DataEncoded = nil
	b, err := e.MarshalJSON()
	if err != nil {
		return nil, err
	}
	b = append(b[:len(b)-1], `,"data":`...)
	return append(append(b, data...), '}'), nil
}
