package subscriber

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// maxProblem is how much of a refusal's body is read, in bytes.
const maxProblem = 64 << 10

// A StatusError is an HTTP answer that is neither success nor the gateway's own
// refusal: something between here and there gave it, such as a proxy.
type StatusError struct {
	Status int
	// Text is the start of what the answer said, in printable characters.
	Text string

	retryAfter time.Duration
}

// Error is the status and the start of the answer.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("the answer is HTTP %d %s, not the gateway's own", e.Status, http.StatusText(e.Status))
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// refusal reads the error out of an answer: a [schemas.Problem] where the gateway
// gave it, else a [StatusError]. It does not close the body.
func refusal(resp *http.Response, now time.Time) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem)) // what came will do
	wait := retryAfter(resp.Header.Get("Retry-After"), now)
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	p := new(schemas.Problem)
	if media == schemas.MediaTypeProblem && json.Unmarshal(body, p) == nil && !strings.Contains(p.Name, ":") && p.Name != "" {
		p.RetryAfter = wait
		return readable(p)
	}
	return &StatusError{Status: resp.StatusCode, Text: printable(body), retryAfter: wait}
}

// readable cleans what a stranger wrote into a problem.
func readable(p *schemas.Problem) *schemas.Problem {
	p.Name, p.Detail = printable([]byte(p.Name)), printable([]byte(p.Detail))
	return p
}

// printable is the start of a stranger's text, fit for one line of a log.
func printable(b []byte) string {
	const most = 500
	s := strings.Join(strings.Fields(strings.ToValidUTF8(string(b[:min(len(b), 4*most)]), "")), " ")
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "..."
	}
	return s
}

// retryAfter reads the header of that name, seconds or a date (RFC 9110 section
// 10.2.3); zero if it says nothing.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}

// passing says whether a further try may succeed where err is what the last one
// gave, and the least wait before it that the other side asked for. The end of
// the caller's own context is not its business.
func passing(err error) (wait time.Duration, ok bool) {
	var p *schemas.Problem
	if errors.As(err, &p) {
		return p.RetryAfter, passingStatus(p.Status())
	}
	var s *StatusError
	if errors.As(err, &s) {
		return s.retryAfter, passingStatus(s.Status)
	}
	return 0, true
}

func passingStatus(status int) bool {
	return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
}

// misconfigured says whether err is about what the other side is, rather than
// whether it is there: a certificate that can't be trusted.
func misconfigured(err error) bool {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	return errors.As(err, &certificate) || errors.As(err, &record)
}

// refusals makes an error of every answer to a handshake that is not 101, because
// the WebSocket library keeps too little of its body.
type refusals struct{ http.RoundTripper }

func (t *refusals) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, err
	}
	defer resp.Body.Close()
	return nil, refusal(resp, time.Now())
}

// CloseIdleConnections lets http.Client find the transport's.
func (t *refusals) CloseIdleConnections() {
	t.RoundTripper.(*http.Transport).CloseIdleConnections()
}
