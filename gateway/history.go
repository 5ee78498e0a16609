package gateway

import (
	"net/http"
	"strconv"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// history answers with a page of stored events, a batch in JSON. contentType is
// what the client chose to call it.
func (c *call) history(topics schemas.TopicFilter, contentType string) error {
	if _, err := c.authorize(access.Subscribe, topics); err != nil {
		return err
	}
	params, err := parseStreamParams(c.r, wayHistory)
	if err != nil {
		return err
	}
	ctx, cancel := c.brokerContext()
	defer cancel()
	page, err := c.gateway.config.Broker.History(ctx, c.namespace, broker.HistoryOptions{
		Topics: topics, Filter: params.filter, Start: params.start, Limit: params.limit,
	})
	if err != nil {
		return err
	}
	parts := make([][]byte, 0, len(page.Events)+1)
	if page.Gap != nil {
		c.gateway.metrics.gap(c.namespace, page.Gap.Reason)
		parts = append(parts, gapNotice(page.Gap))
	}
	parts = append(parts, page.Events...)
	size := 0
	for _, e := range page.Events {
		size += len(e)
	}
	c.gateway.metrics.delivered(c.namespace, len(page.Events), size)
	h := c.w.Header()
	h.Set("Outrelay-Cursor", page.Next.String())
	if page.More {
		h.Set("Link", "<"+params.nextPage(topics, page.Next)+`>; rel="next"`)
	}
	c.answerArray(contentType, parts)
	return nil
}

// answerArray writes a JSON array of values that are JSON already, without joining
// them in memory first.
func (c *call) answerArray(contentType string, values [][]byte) {
	length := len("[]") + max(len(values)-1, 0)
	for _, v := range values {
		length += len(v)
	}
	c.w.Header().Set("Content-Length", strconv.Itoa(length))
	c.w.Header().Set("Content-Type", contentType)
	c.answered = true
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return
	}
	separator := []byte("[")
	for _, v := range values {
		if c.write(separator) != nil || c.write(v) != nil {
			return
		}
		separator = []byte(",")
	}
	if len(values) == 0 {
		c.write(separator)
	}
	c.write([]byte("]"))
}
