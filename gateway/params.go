package gateway

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// Limits of a history page (protocol section 2).
const (
	defaultPage = 100
	maxPage     = 1000
)

// streamParams are the parameters of a stream or a history page (protocol section
// 2, "Stream parameters").
type streamParams struct {
	start     broker.Start
	filter    *filter.Filter
	positions bool
	slowClose bool // slow=close
	limit     int  // of a history page

	// As they came, for the address of the next page.
	rawFilter, rawSQL, rawLimit string
}

// A way is how a topic filter's events are asked for.
type way uint8

const (
	wayWebSocket way = iota
	waySSE
	wayHistory
)

// parseStreamParams reads the query of a stream or page. Parameters that it does
// not know are not looked at: a token may be among them. The error is a
// [schemas.Problem] of name "parameter", "cursor" or "filter".
func parseStreamParams(r *http.Request, w way) (streamParams, error) {
	p := streamParams{positions: w == waySSE, limit: defaultPage}
	if w == wayHistory {
		p.start.From = broker.FromEarliest
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return p, schemas.Problemf("parameter", "The query can't be read; percent-encode what is not allowed in one, %q as %%25 and %q as %%3B.", '%', ';')
	}
	one := func(name string) (value string, given bool, err error) {
		values := query[name]
		switch len(values) {
		case 0:
			return "", false, nil
		case 1:
			return values[0], true, nil
		}
		return "", false, schemas.Problemf("parameter", "The parameter %q is given %d times; give it once.", name, len(values))
	}
	for _, known := range []struct {
		name string
		take func(string) error
	}{
		{"from", func(v string) error { return p.takeFrom(v, w) }},
		{"after", p.takeAfter},
		{"filter", func(v string) error {
			p.rawFilter = v
			return notEmpty("filter", v)
		}},
		{"sql", func(v string) error {
			p.rawSQL = v
			return notEmpty("sql", v)
		}},
		{"positions", func(v string) error {
			if v != "true" && v != "false" {
				return schemas.Problemf("parameter", "The parameter \"positions\" is true or false.")
			}
			p.positions = v == "true" || w == waySSE
			return nil
		}},
		{"slow", func(v string) error {
			if v != "gap" && v != "close" {
				return schemas.Problemf("parameter", "The parameter \"slow\" is gap or close.")
			}
			p.slowClose = v == "close"
			return nil
		}},
		{"limit", p.takeLimit},
	} {
		value, given, err := one(known.name)
		if err == nil && given {
			err = known.take(value)
		}
		if err != nil {
			return p, err
		}
	}
	if id := r.Header.Get("Last-Event-ID"); w == waySSE && id != "" {
		// An EventSource that reconnects repeats its address, so the header is the newer.
		if err := p.takeAfter(id); err != nil {
			return p, err
		}
	}
	p.filter, err = filter.Parse(p.rawFilter, p.rawSQL)
	return p, err
}

func notEmpty(name, value string) error {
	if value == "" {
		return schemas.Problemf("filter", "The parameter %q is empty; leave it out to get everything.", name)
	}
	return nil
}

func (p *streamParams) takeFrom(value string, w way) error {
	switch value {
	case "earliest":
		p.start.From = broker.FromEarliest
		return nil
	case "latest", "last":
		if w == wayHistory {
			return schemas.Problemf("parameter", "A history page begins from \"earliest\", a time, or after a cursor; %q is for streams.", value)
		}
		p.start.From = broker.FromLatest
		if value == "last" {
			p.start.From = broker.FromLast
		}
		return nil
	}
	t, err := schemas.ParseTimestamp(value)
	if err != nil {
		if strings.Contains(value, " ") {
			return schemas.Problemf("parameter", "The parameter \"from\" has a blank; if it is the \"+\" of a time, write %%2B.")
		}
		return schemas.Problemf("parameter", "The parameter \"from\" is latest, earliest, last or an RFC 3339 time such as 2026-01-31T12:00:00Z.")
	}
	p.start.From, p.start.Time = broker.FromTime, t
	return nil
}

func (p *streamParams) takeAfter(value string) error {
	cursor, err := schemas.ParseCursor(value)
	if err != nil {
		return err
	}
	p.start.After = &cursor
	return nil
}

func (p *streamParams) takeLimit(value string) error {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n < 1 || n > maxPage {
		return schemas.Problemf("parameter", "The parameter \"limit\" is a whole number from 1 to %d.", maxPage)
	}
	p.limit, p.rawLimit = int(n), value
	return nil
}

// nextPage is the address of the page after cursor, relative to the server. It
// carries no token.
func (p *streamParams) nextPage(topics schemas.TopicFilter, cursor schemas.Cursor) string {
	query := url.Values{"after": {cursor.String()}}
	for name, value := range map[string]string{"filter": p.rawFilter, "sql": p.rawSQL, "limit": p.rawLimit} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return "/topics/" + string(topics) + "?" + query.Encode()
}
