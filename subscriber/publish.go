package subscriber

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/schemas"
)

// maxReceipt is how much of an answer to a publish is read, in bytes: enough for
// the indexes of a whole batch.
const maxReceipt = 64 << 10

// expectFrom is the size in bytes from which a body waits for the gateway's word,
// so that one it would refuse by its size is not sent.
const expectFrom = schemas.MaxEvent

// A Receipt says what became of a publish.
type Receipt struct {
	// Accepted counts the events taken, duplicates included.
	Accepted int
	// Stored says that the gateway keeps them, as its log's promise says; false on a
	// topic that is not stored, and where every event had expired.
	Stored bool
	// Cursor is the place of the last event, or of its first copy. Empty if not Stored.
	Cursor string
	// Duplicates are the indexes of the events that the gateway knew already,
	// rising. After a try that ended without an answer they may be this call's own.
	Duplicates []int
}

// Publish sends events to a topic over HTTPS, one as it is, several as a batch,
// which is all or nothing: at most 1,000 events and 8 MiB, and 1 MiB an event.
//
// It returns once the gateway has taken them. What may pass (429, 503, a lost
// connection) is tried again for [Config.PublishRetry] or until ctx ends, with
// jitter, and not before the time that the gateway named. When it fails without a
// refusal the events may have been taken all the same.
//
// Errors: a [schemas.Problem] is the gateway's refusal, nothing of the call was
// taken, and Index names the event at fault; a [StatusError] is somebody else's.
func (c *Client) Publish(ctx context.Context, topic string, events ...event.Event) (Receipt, error) {
	raw := make([][]byte, len(events))
	for i := range events {
		b, err := writeEvent(events[i])
		if err != nil {
			return Receipt{}, fmt.Errorf("publish to %s: event %d: %w", topic, i, err)
		}
		raw[i] = b
	}
	return c.PublishJSON(ctx, topic, raw...)
}

// PublishJSON is [Client.Publish] for events that are JSON already (the JSON event
// format). Their bytes are sent as they are; they are not kept after the return.
func (c *Client) PublishJSON(ctx context.Context, topic string, events ...[]byte) (Receipt, error) {
	switch len(events) {
	case 0:
		return Receipt{}, nil
	case 1:
		return c.post(ctx, topic, schemas.MediaTypeEvent, events[0])
	}
	size := len(events) + 1
	for i, e := range events {
		// Joined with others, what is no single value would change them.
		if !jsontext.Value(e).IsValid() {
			err := wrong(e).At(i)
			return Receipt{}, fmt.Errorf("publish to %s: %w", topic, err)
		}
		size += len(e)
	}
	body := make([]byte, 0, size)
	for i, e := range events {
		body = append(body, "[,"[min(i, 1)])
		body = append(body, e...)
	}
	return c.PublishBatch(ctx, topic, append(body, ']'))
}

// PublishBatch is [Client.Publish] for a batch that is JSON already: an array of
// events, sent as it is.
func (c *Client) PublishBatch(ctx context.Context, topic string, batch []byte) (Receipt, error) {
	return c.post(ctx, topic, schemas.MediaTypeBatch, batch)
}

// wrong is what the gateway would say of JSON that can't be read.
func wrong(b []byte) *schemas.Problem {
	if _, err := schemas.ParseEvent(b); err != nil {
		if p, ok := err.(*schemas.Problem); ok { //nolint:errorlint // its own, unwrapped
			return p
		}
	}
	return schemas.Problemf("event", "The JSON can't be read.")
}

// post sends a body until it is answered, refused for good, or time is up.
func (c *Client) post(ctx context.Context, topic, mediaType string, body []byte) (Receipt, error) {
	name, err := schemas.ParseTopic(topic)
	if err != nil {
		return Receipt{}, fmt.Errorf("publish to %q: %w", topic, err)
	}
	if len(body) > schemas.MaxBatch {
		return Receipt{}, fmt.Errorf("publish to %s: %w", topic, schemas.Problemf("too-large",
			"The request has %d bytes; at most %d are allowed. Send several.", len(body), schemas.MaxBatch))
	}
	until := time.Now().Add(c.config.PublishRetry)
	for n := 0; ; n++ {
		receipt, err := c.postOnce(ctx, name, mediaType, body)
		if err == nil {
			return receipt, nil
		}
		err = fmt.Errorf("publish to %s: %w", topic, err)
		told, ok := passing(err)
		if !ok || ctx.Err() != nil || misconfigured(err) {
			return Receipt{}, err
		}
		wait := c.backoff.after(told, n)
		if time.Now().Add(wait).After(until) {
			return Receipt{}, err
		}
		c.config.Logger.LogAttrs(ctx, levelRetry, "publish again", attrTopic(topic), attrErr(err), attrWait(wait))
		if !sleep(ctx, wait) {
			return Receipt{}, err
		}
	}
}

func (c *Client) postOnce(ctx context.Context, topic schemas.Topic, mediaType string, body []byte) (Receipt, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/topics/"+string(topic), bytes.NewReader(body))
	if err != nil {
		return Receipt{}, err
	}
	r.Header.Set("Content-Type", mediaType)
	r.Header.Set("User-Agent", userAgent)
	if len(body) > expectFrom {
		r.Header.Set("Expect", "100-continue")
	}
	if err := c.authorize(ctx, r.Header); err != nil {
		return Receipt{}, err
	}
	resp, err := c.publish.Do(r)
	if err != nil {
		return Receipt{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return Receipt{}, refusal(resp, time.Now())
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxReceipt))
	if err != nil {
		return Receipt{}, fmt.Errorf("read the answer: %w", err)
	}
	var receipt struct {
		Accepted   *int   `json:"accepted"`
		Cursor     string `json:"cursor"`
		Duplicates []int  `json:"duplicates"`
	}
	if err := json.Unmarshal(answer, &receipt); err != nil || receipt.Accepted == nil {
		return Receipt{}, &StatusError{Status: resp.StatusCode, Text: printable(answer)}
	}
	return Receipt{
		Accepted:   *receipt.Accepted,
		Stored:     resp.StatusCode == http.StatusOK && receipt.Cursor != "",
		Cursor:     receipt.Cursor,
		Duplicates: receipt.Duplicates,
	}, nil
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
