package subscriber

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxAnswer is how much of an answer to a request about subscriptions or of a page of
// history is read, in bytes: 1,000 events of the largest size are not, a page of what
// people publish is.
const maxAnswer = 256 << 20

// An answer is what came back of a request: status, header and the whole body.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask sends a request to an address of the gateway, with a body in JSON unless it is
// nil, and reads the answer. It is not tried again. A status that is no success is the
// refusal's error.
func (c *Client) ask(ctx context.Context, method, address string, body any) (answer, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		content = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+address, content)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("User-Agent", userAgent)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if err := c.authorize(ctx, r.Header); err != nil {
		return answer{}, err
	}
	resp, err := c.polls.Do(r)
	if err != nil {
		return answer{}, c.plain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return answer{}, refusal(resp, time.Now())
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("read the answer: %w", err)
	case len(b) > maxAnswer:
		return answer{}, fmt.Errorf("read the answer: it has more than %d bytes", maxAnswer)
	}
	return answer{resp.StatusCode, resp.Header, b}, nil
}

// into reads an answer's JSON.
func (a answer) into(v any) error {
	if err := json.Unmarshal(a.body, v); err != nil {
		return &StatusError{Status: a.status, Text: printable(a.body)}
	}
	return nil
}
