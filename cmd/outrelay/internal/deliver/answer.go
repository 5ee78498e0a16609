package deliver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay/subscriber"
)

// MaxRetryAfter is the longest Retry-After that is honoured: what a release can be
// delayed by.
const MaxRetryAfter = subscriber.MaxDelay

// An Outcome is what became of an event.
type Outcome string

// The outcomes.
const (
	Acked    Outcome = "acked"    // the service has dealt with it
	Released Outcome = "released" // it will be handed out again
	Rejected Outcome = "rejected" // it is a dead letter
)

// An Answer is what a target said to an event.
type Answer struct {
	// Status is an HTTP status or, of a command, its exit code; nil where there was none.
	Status *int
	// Outcome is what the answer means. Released is a failure, which may be the last.
	Outcome Outcome
	// Why is the reason for any outcome but Acked, in printable characters.
	Why string
	// RetryAfter is how long the service wants to be left alone.
	RetryAfter time.Duration

	health health
}

// A health is what an answer tells of the service, not of the event.
type health uint8

const (
	unknown health = iota // the request was ended from here
	working
	failing // it may have been the event's fault
	stalled // no answer in time: the same, unless nothing else succeeded meanwhile
	down    // it can't be reached, or asks for a pause
)

// answerTo judges an HTTP answer that came whole.
func answerTo(status int, header http.Header, body []byte, now time.Time) Answer {
	a := Answer{Status: &status, Outcome: Released, health: failing}
	if status/100 == 2 {
		a.Outcome, a.health = Acked, working
		return a
	}
	a.Why = strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
	if text := printable(string(body), maxWhy); text != "" {
		a.Why += ": " + text
	}
	if status/100 == 4 && status != http.StatusTooManyRequests {
		a.Outcome, a.health = Rejected, working
		return a
	}
	if a.RetryAfter = retryAfter(header.Get("Retry-After"), now); a.RetryAfter > 0 || status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		a.health = down
	}
	if status/100 == 3 {
		a.Why += " (redirects are not followed)"
	}
	return a
}

// noAnswer judges a request without a whole answer.
func noAnswer(ctx context.Context, err error, timeout time.Duration, reached bool) Answer {
	a := Answer{Outcome: Released, Why: printable(cause(err).Error(), maxWhy), health: failing}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		a.Why, a.health = fmt.Sprintf("no answer in %v", timeout), stalled
	case ctx.Err() != nil:
		a.Why, a.health = "the agent stopped", unknown
	case !reached:
		a.health = down
	}
	return a
}

// retryAfter reads the header of that name, seconds or a date (RFC 9110 section 10.2.3);
// what it can't read is 0. It is at most MaxRetryAfter.
func retryAfter(v string, now time.Time) time.Duration {
	v = strings.TrimSpace(v)
	if v != "" && strings.Trim(v, "0123456789") == "" {
		n, err := strconv.ParseUint(v, 10, 31)
		if err != nil { // more than that
			return MaxRetryAfter
		}
		return min(time.Duration(n)*time.Second, MaxRetryAfter)
	}
	t, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(t.Sub(now), 0), MaxRetryAfter)
}

// maxWhy is how much of a stranger's text is kept, in characters.
const maxWhy = 200

// printable is a stranger's text on one line, fit for a log and an attribute.
func printable(s string, most int) string {
	s = strings.ToValidUTF8(s[:min(len(s), 8*most)], "")
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) && r != '\n' && r != '\t' && r != '\r' {
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "..."
	}
	return s
}
