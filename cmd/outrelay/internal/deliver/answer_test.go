package deliver

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
)

func TestAnswers(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	date := now.Add(90 * time.Second).Format(http.TimeFormat)
	for _, tt := range []struct {
		status     int
		retryAfter string
		outcome    Outcome
		health     health
		wait       time.Duration
	}{
		{200, "", Acked, working, 0},
		{202, "60", Acked, working, 0},
		{299, "", Acked, working, 0},
		{301, "", Released, failing, 0},
		{304, "", Released, failing, 0},
		{400, "60", Rejected, working, 0},
		{401, "", Rejected, working, 0},
		{408, "", Rejected, working, 0},
		{410, "", Rejected, working, 0},
		{429, "", Released, down, 0},
		{429, "7", Released, down, 7 * time.Second},
		{429, date, Released, down, 90 * time.Second},
		{429, "soon", Released, down, 0},
		{429, "-1", Released, down, 0},
		{429, "86400", Released, down, MaxRetryAfter},
		{429, "99999999999999999999", Released, down, MaxRetryAfter},
		{429, now.Add(-time.Hour).Format(http.TimeFormat), Released, down, 0},
		{429, now.Add(24 * time.Hour).Format(http.TimeFormat), Released, down, MaxRetryAfter},
		{500, "", Released, failing, 0},
		{500, "3", Released, down, 3 * time.Second},
		{503, "", Released, down, 0},
		{599, "", Released, failing, 0},
	} {
		a := answerTo(tt.status, http.Header{"Retry-After": {tt.retryAfter}}, nil, now)
		if a.Outcome != tt.outcome || a.health != tt.health || a.RetryAfter != tt.wait || *a.Status != tt.status {
			t.Errorf("%d with Retry-After %q is %+v", tt.status, tt.retryAfter, a)
		}
		if (a.Why == "") != (a.Outcome == Acked) {
			t.Errorf("%d is explained by %q", tt.status, a.Why)
		}
	}
	a := answerTo(404, http.Header{}, []byte("no\tsuch \x1b[31m\r\nthing"+strings.Repeat("!", 500)), now)
	if want := "404 Not Found: no such [31m thing!!!"; !strings.HasPrefix(a.Why, want) || len(a.Why) > maxWhy+20 {
		t.Errorf("Why = %q", a.Why)
	}
}

func TestNoAnswer(t *testing.T) {
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	over, stop := context.WithCancel(t.Context())
	stop()
	for _, tt := range []struct {
		name    string
		ctx     context.Context
		reached bool
		want    health
	}{
		{"refused", t.Context(), false, down},
		{"cut", t.Context(), true, failing},
		{"late", late, true, stalled},
		{"late to connect", late, false, stalled},
		{"stopped", over, true, unknown},
	} {
		if a := noAnswer(tt.ctx, errors.New("EOF"), time.Second, tt.reached); a.health != tt.want || a.Outcome != Released || a.Status != nil {
			t.Errorf("%s: %+v", tt.name, a)
		}
	}
}

// What a service says reaches a log and an attribute clean and short, and no Retry-After
// is longer than the most or in the past.
func FuzzAnswer(f *testing.F) {
	f.Add(429, "120", []byte("slow down"))
	f.Add(503, "Sat, 31 Jan 2026 12:00:00 GMT", []byte("\xff\xfe\x00\u202e"))
	f.Add(200, "", []byte{})
	f.Fuzz(func(t *testing.T, status int, retryAfter string, body []byte) {
		a := answerTo(status, http.Header{"Retry-After": {retryAfter}}, body, time.Now())
		if a.RetryAfter < 0 || a.RetryAfter > MaxRetryAfter {
			t.Errorf("RetryAfter = %v", a.RetryAfter)
		}
		for _, r := range a.Why {
			if !unicode.IsPrint(r) {
				t.Errorf("Why has %q", r)
			}
		}
		if n := len([]rune(a.Why)); n > maxWhy+200 {
			t.Errorf("Why has %d characters", n)
		}
	})
}
