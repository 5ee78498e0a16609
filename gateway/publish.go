package gateway

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// published is the answer to a publish (protocol section 3).
type published struct {
	Accepted   int    `json:"accepted"`
	Cursor     string `json:"cursor,omitempty"`
	Duplicates []int  `json:"duplicates,omitempty"`
}

// publish takes POST /topics/{topic}.
func (c *call) publish() {
	answer, status, err := c.takeEvents()
	if err != nil {
		if errors.Is(err, schemas.ErrMediaType) {
			c.w.Header().Set("Accept-Post", schemas.MediaTypeEvent+", "+schemas.MediaTypeBatch)
		}
		c.refuse(err)
		return
	}
	c.answerJSON(status, answer)
}

func (c *call) takeEvents() (published, int, error) {
	var none published
	name, err := c.joined("topic")
	if err != nil {
		return none, 0, err
	}
	topic, err := schemas.ParseTopic(name)
	if err != nil {
		return none, 0, err
	}
	if err := publishable(topic); err != nil {
		return none, 0, err
	}
	if _, err := c.authorize(access.Publish, schemas.TopicFilter(topic)); err != nil {
		return none, 0, err
	}
	mode, err := c.contentMode()
	if err != nil {
		return none, 0, err
	}
	limit := int64(schemas.MaxStreamMessage) // blanks and escapes count in the JSON form only
	if mode == schemas.Batched {
		limit = schemas.MaxBatch
	}
	body, release, err := c.body(limit)
	defer release()
	if err != nil {
		return none, 0, err
	}
	var events []*schemas.Event
	switch mode {
	case schemas.Batched:
		events, err = schemas.ParseBatch(body)
	case schemas.Structured:
		events, err = only(schemas.ParseEvent(body))
	default:
		events, err = only(schemas.ParseBinary(c.r.Header, body))
	}
	if err != nil {
		return none, 0, err
	}
	c.gateway.metrics.received(c.namespace, events)
	if len(events) == 0 {
		return none, http.StatusOK, nil
	}
	ctx, cancel := c.brokerContext()
	defer cancel()
	began := time.Now()
	receipt, err := c.gateway.config.Broker.Publish(ctx, c.namespace, topic, events)
	if err != nil {
		return none, 0, err
	}
	c.gateway.metrics.published(c.namespace, time.Since(began), len(receipt.Duplicates))
	answer := published{Accepted: receipt.Accepted, Duplicates: receipt.Duplicates}
	if !receipt.Stored {
		return answer, http.StatusAccepted, nil
	}
	answer.Cursor = receipt.Cursor.String()
	return answer, http.StatusOK, nil
}

func only(e *schemas.Event, err error) ([]*schemas.Event, error) { return []*schemas.Event{e}, err }

// publishable refuses the broker's own topics, whatever rights there are.
func publishable(t schemas.Topic) error {
	if t.Notices() {
		return schemas.Problemf("forbidden", "Topics under %s/ are the broker's own; publish to another.", schemas.NoticeSegment)
	}
	return nil
}

// contentMode tells how the request carries events. The error is of name
// "media-type" if it carries none, or none that can be read.
func (c *call) contentMode() (schemas.Mode, error) {
	for _, coding := range c.r.Header.Values("Content-Encoding") {
		if coding = strings.Trim(coding, " \t"); coding != "" && !strings.EqualFold(coding, "identity") {
			c.w.Header().Set("Accept-Encoding", "identity")
			return 0, schemas.Problemf("media-type", "The body has a content encoding; send it without.")
		}
	}
	mode := schemas.ContentMode(c.r.Header)
	switch mode {
	case schemas.NoEvent:
		return 0, schemas.Problemf("media-type", "The request carries no CloudEvent: send Content-Type %s or %s, or the attributes as headers ce-id, ce-source, ce-type and ce-specversion.",
			schemas.MediaTypeEvent, schemas.MediaTypeBatch)
	case schemas.UnknownFormat:
		return 0, schemas.Problemf("media-type", "Events are taken in the JSON format: send one Content-Type, %s or %s.", schemas.MediaTypeEvent, schemas.MediaTypeBatch)
	}
	return mode, nil
}
