package subscriber

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/outrelay/outrelay/schemas"
)

// HistoryOptions say what of the stored events [Client.History] reads.
type HistoryOptions struct {
	// From is "earliest" (the default) or an RFC 3339 time.
	From string
	// After is a cursor; it wins over From.
	After string
	// Filter and SQL are as in [SubscribeOptions].
	Filter json.RawMessage
	SQL    string
}

// History reads the stored events whose topic the filter matches, oldest first, up to
// the newest at the time (protocol section 2). A gap is a [GapError], after which the
// loop may go on; any other error ends it.
func (c *Client) History(ctx context.Context, filter string, options HistoryOptions) iter.Seq2[Delivery, error] {
	return func(yield func(Delivery, error) bool) {
		f, err := schemas.ParseTopicFilter(filter)
		if err != nil {
			yield(Delivery{}, fmt.Errorf("history of %q: %w", filter, err))
			return
		}
		query := url.Values{"limit": {strconv.Itoa(historyPage)}}
		for name, v := range map[string]string{"from": options.From, "after": options.After, "filter": string(options.Filter), "sql": options.SQL} {
			if v != "" {
				query.Set(name, v)
			}
		}
		for {
			a, err := c.ask(ctx, http.MethodGet, "/topics/"+string(f)+"?"+query.Encode(), nil)
			var page []json.RawMessage
			if err == nil {
				err = a.into(&page)
			}
			if err != nil {
				yield(Delivery{}, fmt.Errorf("history of %s: %w", f, err))
				return
			}
			for _, raw := range page {
				d, err := parse(raw, "")
				if err == nil && d.Notice != nil {
					if d.Notice.Gap == nil {
						continue
					}
					d, err = Delivery{}, &GapError{Gap: *d.Notice.Gap, Notice: raw}
				}
				if !yield(d, err) {
					return
				}
			}
			next := a.header.Get("Outrelay-Cursor")
			if a.header.Get("Link") == "" || next == "" {
				return
			}
			query.Del("from")
			query.Set("after", next)
		}
	}
}

// historyPage is how many events a request for history asks for.
const historyPage = 200
