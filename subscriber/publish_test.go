package subscriber_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sdk "github.com/cloudevents/sdk-go/v2/event"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// body reads the request of a visit.
func (v *visit) body() string {
	b, err := io.ReadAll(v.r.Body)
	if err != nil {
		v.t.Errorf("visit %d: read the body: %v", v.n, err)
	}
	return string(b)
}

// answer is a receipt.
func (v *visit) answer(status int, receipt string) {
	v.w.Header().Set("Content-Type", "application/json")
	v.w.WriteHeader(status)
	fmt.Fprint(v.w, receipt)
}

// abort ends the connection without an answer.
func (v *visit) abort() { panic(http.ErrAbortHandler) }

func TestPublishSendsWhatItIsGiven(t *testing.T) {
	spaced := `{ "specversion": "1.0", "id":"1", "source":"/s","type":"t", "data": 1.50 }`
	other := `{"specversion":"1.0","id":"2","source":"/s","type":"t"}`
	tests := []struct {
		name       string
		publish    func(context.Context, *subscriber.Client) (subscriber.Receipt, error)
		media, raw string
	}{
		{"one", func(ctx context.Context, c *subscriber.Client) (subscriber.Receipt, error) {
			return c.PublishJSON(ctx, "a/b", []byte(spaced))
		}, schemas.MediaTypeEvent, spaced},
		{"several", func(ctx context.Context, c *subscriber.Client) (subscriber.Receipt, error) {
			return c.PublishJSON(ctx, "a/b", []byte(spaced), []byte(other))
		}, schemas.MediaTypeBatch, "[" + spaced + "," + other + "]"},
		{"a batch", func(ctx context.Context, c *subscriber.Client) (subscriber.Receipt, error) {
			return c.PublishBatch(ctx, "a/b", []byte("[\n"+spaced+"]"))
		}, schemas.MediaTypeBatch, "[\n" + spaced + "]"},
		{"the SDK's", func(ctx context.Context, c *subscriber.Client) (subscriber.Receipt, error) {
			e := sdk.New()
			e.SetID("2")
			e.SetSource("/s")
			e.SetType("t")
			return c.Publish(ctx, "a/b", e)
		}, schemas.MediaTypeEvent, other},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFaulty(t, func(v *visit) {
					if v.r.Method != http.MethodPost || v.r.URL.Path != "/topics/a/b" || v.r.Header.Get("Content-Type") != tt.media {
						t.Errorf("%s %s as %s", v.r.Method, v.r.URL, v.r.Header.Get("Content-Type"))
					}
					if got := v.body(); got != tt.raw && !sameJSON(got, tt.raw) {
						t.Errorf("body %s, want %s", got, tt.raw)
					}
					v.answer(http.StatusOK, `{"accepted":2,"cursor":"abc","duplicates":[1]}`)
				})
				defer f.close()
				c := f.client(t, f.config())
				defer c.Close()
				got, err := tt.publish(t.Context(), c)
				if err != nil || got.Accepted != 2 || !got.Stored || got.Cursor != "abc" || !slices.Equal(got.Duplicates, []int{1}) {
					t.Errorf("got %+v, %v", got, err)
				}
			})
		})
	}
}

func sameJSON(a, b string) bool {
	var x, y map[string]any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && fmt.Sprint(x) == fmt.Sprint(y)
}

func TestPublishTriesAgainWhatMayPass(t *testing.T) {
	tests := []struct {
		name  string
		first func(*visit)
		least time.Duration
	}{
		{"draining", func(v *visit) { v.refuse(&schemas.Problem{Name: "draining", RetryAfter: 3 * time.Second}) }, 3 * time.Second},
		{"rate", func(v *visit) { v.refuse(&schemas.Problem{Name: "rate", RetryAfter: 9 * time.Second}) }, 9 * time.Second},
		{"a proxy without a gateway", func(v *visit) { v.w.WriteHeader(http.StatusBadGateway) }, 0},
		{"no answer", (*visit).abort, 0},
		{"half an answer", func(v *visit) {
			v.w.Header().Set("Content-Length", "100")
			fmt.Fprint(v.w, `{"acc`)
			v.abort()
		}, 0},
		{"silence", func(v *visit) { <-v.r.Context().Done() }, 30 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var bodies []string
				f := newFaulty(t, func(v *visit) {
					bodies = append(bodies, v.body())
					if v.n == 0 {
						tt.first(v)
						return
					}
					v.answer(http.StatusAccepted, `{"accepted":1}`)
				})
				defer f.close()
				c := f.client(t, f.config())
				defer c.Close()
				began := time.Now()
				got, err := c.PublishJSON(t.Context(), "a/b", []byte(event("1")))
				if err != nil || got.Accepted != 1 || got.Stored {
					t.Fatalf("got %+v, %v", got, err)
				}
				if took := time.Since(began); took < tt.least || took > tt.least+time.Second {
					t.Errorf("took %v, want %v and a little", took, tt.least)
				}
				if len(bodies) != 2 || bodies[0] != event("1") || bodies[1] != bodies[0] {
					t.Errorf("sent %q, want the event twice", bodies)
				}
			})
		})
	}
}

func TestPublishGivesUpInTime(t *testing.T) {
	refuse := func(v *visit) { v.refuse(&schemas.Problem{Name: "storage", Detail: "The disk is full."}) }
	tests := []struct {
		name        string
		retry       time.Duration
		limit       time.Duration // of the context
		each        func(*visit)
		want        error
		least, most time.Duration
	}{
		{"default", 0, 0, refuse, schemas.ErrStorage, 20 * time.Second, time.Minute},
		{"never", -1, 0, refuse, schemas.ErrStorage, 0, 0},
		{"context", 0, 5 * time.Second, refuse, schemas.ErrStorage, 5 * time.Second, 5 * time.Second},
		{"told to wait longer than it may", 0, 0, func(v *visit) {
			v.refuse(&schemas.Problem{Name: "rate", RetryAfter: time.Hour})
		}, schemas.ErrRate, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFaulty(t, tt.each)
				defer f.close()
				config := f.config()
				config.PublishRetry = tt.retry
				c := f.client(t, config)
				defer c.Close()
				ctx := t.Context()
				if tt.limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.limit)
					defer cancel()
				}
				began := time.Now()
				if _, err := c.PublishJSON(ctx, "a/b", []byte(event("1"))); !errors.Is(err, tt.want) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
				if took := time.Since(began); took < tt.least || took > tt.most {
					t.Errorf("took %v, want %v to %v", took, tt.least, tt.most)
				}
			})
		})
	}
}

func TestPublishEndsAtARefusal(t *testing.T) {
	index := 1
	tests := []struct {
		name string
		each func(*visit)
		want func(error) bool
	}{
		{"of an event", func(v *visit) {
			v.refuse(&schemas.Problem{Name: "event", Detail: "The id is empty.", Index: &index, Attribute: "id"})
		}, func(err error) bool {
			var p *schemas.Problem
			return errors.As(err, &p) && p.Name == "event" && *p.Index == 1 && p.Attribute == "id" && p.Detail == "The id is empty."
		}},
		{"of a token", func(v *visit) { v.refuse(schemas.ErrUnauthorized) }, func(err error) bool { return errors.Is(err, schemas.ErrUnauthorized) }},
		{"by something else", func(v *visit) { http.Error(v.w, "blocked\x1b[2J by policy", http.StatusForbidden) }, func(err error) bool {
			return isStatus(403)(err) && strings.Contains(err.Error(), "by policy") && !strings.Contains(err.Error(), "\x1b")
		}},
		{"a redirect", func(v *visit) { http.Redirect(v.w, v.r, "http://elsewhere.test/", http.StatusTemporaryRedirect) }, isStatus(307)},
		{"a page instead of a receipt", func(v *visit) { fmt.Fprint(v.w, "<h1>Please log in</h1>") }, isStatus(200)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				visits := 0
				f := newFaulty(t, func(v *visit) {
					visits++
					tt.each(v)
				})
				defer f.close()
				config := f.config()
				config.Token = func(context.Context) (string, error) { return "canary", nil }
				c := f.client(t, config)
				defer c.Close()
				_, err := c.PublishJSON(t.Context(), "a/b", []byte(event("1")), []byte(event("2")))
				if err == nil || !tt.want(err) || strings.Contains(err.Error(), "canary") {
					t.Errorf("error %v", err)
				}
				if visits != 1 {
					t.Errorf("sent %d times, want once", visits)
				}
			})
		})
	}
}

func TestPublishSendsNothingThatItKnowsToBeWrong(t *testing.T) {
	c, err := subscriber.New(subscriber.Config{Gateway: "http://127.0.0.1:1", PublishRetry: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tt := range []struct {
		name, topic string
		events      []string
		want        error
	}{
		{"wildcard", "a/*", []string{event("1")}, schemas.ErrName},
		{"no topic", "", []string{event("1")}, schemas.ErrName},
		{"two in one", "a", []string{event("1"), event("2") + "," + event("3")}, schemas.ErrEvent},
		{"half an event", "a", []string{event("1"), `{"id":`}, schemas.ErrEvent},
		{"too much", "a", []string{event("1"), `"` + strings.Repeat("x", schemas.MaxBatch) + `"`}, schemas.ErrTooLarge},
	} {
		var raw [][]byte
		for _, e := range tt.events {
			raw = append(raw, []byte(e))
		}
		if _, err := c.PublishJSON(t.Context(), tt.topic, raw...); !errors.Is(err, tt.want) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.want)
		}
	}
	if got, err := c.PublishJSON(t.Context(), "a"); err != nil || got.Accepted != 0 {
		t.Errorf("nothing published: %+v, %v", got, err)
	}
}
