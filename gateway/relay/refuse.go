package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// A refusal is a status with a reason phrase of one's own, for what has no problem of
// the contract.
type refusal struct {
	status int
	reason string
}

func (r refusal) Error() string { return r.reason }

// refuse answers with a problem in the words of Azure: its reason phrase, and its
// member of the body.
func (v *visit) refuse(err error) {
	var p *schemas.Problem
	switch {
	case v.answered || v.r.Context().Err() != nil && errors.Is(err, context.Canceled):
		return
	case errors.As(err, &p):
	case errors.Is(err, context.DeadlineExceeded):
		p = schemas.Problemf("storage", "The gateways did not answer in time; try again.")
		p.RetryAfter = time.Second
	default:
		if r := (refusal{}); errors.As(err, &r) {
			v.answer(r.status, r.reason, nil, nil)
			return
		}
		v.relay.logger.Error("relay failed", "tracking", v.trackingID(), "error", err)
		p = schemas.Problemf("internal", "The gateway failed on this request; its log says why.")
	}
	v.relay.metrics.refused(v, p.Name)
	detail := v.traced(p.Detail)
	traced := *p
	traced.Detail = detail
	body, err := json.Marshal(&traced)
	if err != nil {
		panic(err)
	}
	azure, err := json.Marshal(azureError{azureDetail{azureCode(p.Status()), detail}})
	if err != nil {
		panic(err)
	}
	body = append(append(body[:len(body)-1], ','), azure[1:]...)
	header := http.Header{"Content-Type": {schemas.MediaTypeProblem}, "X-Content-Type-Options": {"nosniff"}, "Cache-Control": {"no-store"}}
	if p.RetryAfter > 0 {
		header.Set("Retry-After", strconv.FormatInt(int64((p.RetryAfter+time.Second-1)/time.Second), 10))
	}
	if errors.Is(p, schemas.ErrUnauthorized) {
		header.Set("WWW-Authenticate", access.Challenge)
	}
	if errors.Is(p, schemas.ErrUpgrade) {
		header.Set("Upgrade", "websocket")
	}
	v.answer(p.Status(), detail, header, body)
}

type azureError struct {
	Error azureDetail `json:"error"`
}

type azureDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// azureCode is Azure's word for a status.
func azureCode(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "TokenMissingOrInvalid"
	case http.StatusForbidden:
		return "Forbidden"
	case http.StatusNotFound:
		return "EndpointNotFound"
	case http.StatusGatewayTimeout:
		return "GatewayTimeout"
	case http.StatusInternalServerError:
		return "InternalServerError"
	}
	return strings.ReplaceAll(http.StatusText(status), " ", "")
}

// traced is a text with where and when, as Azure ends its reason phrases.
func (v *visit) traced(text string) string {
	place := v.entity.name
	if place == "" {
		place = strings.Map(printable, v.path[min(1, len(v.path)):])
	}
	const most = 256
	if len(place) > most {
		place = place[:most]
	}
	return fmt.Sprintf("%s. TrackingId:%s, SystemTracker:sb://%s/%s, Timestamp:%s",
		strings.TrimRight(text, ". "), v.trackingID(), safeHost(v.r.Host), place, time.Now().UTC().Format("2006-01-02T15:04:05"))
}

// printable keeps what may stand in a status line without a question.
func printable(c rune) rune {
	if c <= ' ' || c >= 0x7f || strings.ContainsRune(`"<>\\`, c) {
		return -1
	}
	return c
}

// safeHost is a Host header without what could not be in a host name.
func safeHost(host string) string {
	return strings.Map(func(c rune) rune {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-._:[]", c) {
			return c
		}
		return -1
	}, host)
}

// reasonPhrase makes text fit for a status line.
func reasonPhrase(text string) string {
	const most = 1024
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, ""))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	return text
}

const answerTimeout = 30 * time.Second

// answer writes a whole answer and, on HTTP/1, ends the connection: net/http has no
// way to write a reason phrase of one's own.
func (v *visit) answer(status int, reason string, header http.Header, body []byte) {
	v.answered = true
	clear(v.w.Header())
	if v.r.ProtoMajor != 1 {
		h := v.w.Header()
		for name, values := range header {
			h[name] = values
		}
		h.Set("TrackingId", v.trackingID())
		h.Set("Content-Length", strconv.Itoa(len(body)))
		v.w.WriteHeader(status)
		if v.r.Method != http.MethodHead {
			v.w.Write(body) //nolint:errcheck // who asked has gone
		}
		return
	}
	c, err := hijack(v.w)
	if err != nil {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, reasonPhrase(reason), time.Now().UTC().Format(http.TimeFormat))
	header.Write(&b) //nolint:errcheck // to memory
	fmt.Fprintf(&b, "TrackingId: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", v.trackingID(), len(body))
	if v.r.Method != http.MethodHead {
		b.Write(body)
	}
	c.conn.SetDeadline(time.Now().Add(answerTimeout)) //nolint:errcheck // the write will say it
	if _, err := c.conn.Write([]byte(b.String())); err != nil {
		c.conn.Close()
		return
	}
	linger(c.conn, time.Second)
}
