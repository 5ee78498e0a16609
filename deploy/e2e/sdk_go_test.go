package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

// payloads are one event of each kind of data, as a Go program would set it, and
// the bytes that it stands for.
var payloads = []struct {
	name, contentType string
	data              any
	bytes             []byte
}{
	{"json", "application/json", json.RawMessage(exact), []byte(exact)},
	{"text", "text/plain", words, []byte(words)},
	{"binary", "application/octet-stream", []byte{0, 1, 2, 0xFE, 0xFF}, []byte{0, 1, 2, 0xFE, 0xFF}},
}

const (
	exact = `{"total":1250,"exact":0.10000000000000000555,"deep":[{"a":null},true]}`
	words = "two lines\nand \"quotes\" & ünïcode \U0001F30B"
)

// The official Go SDK publishes in its three modes, and parses what a stream and
// a history page deliver; the three come out the same.
func TestGoSDK(t *testing.T) {
	g := start(t)
	for _, payload := range payloads {
		t.Run(payload.name, func(t *testing.T) {
			sent := cloudevents.NewEvent()
			sent.SetID("A-17")
			sent.SetSource("https://shop.example/eu")
			sent.SetType("example.order.paid")
			sent.SetSubject("order/17")
			sent.SetTime(time.Date(2026, 1, 31, 12, 0, 0, 123456789, time.UTC))
			sent.SetExtension("tenant", "north")
			if err := sent.SetData(payload.contentType, payload.data); err != nil {
				t.Fatal(err)
			}
			base := "gosdk/" + payload.name
			s := dial(t, g.ws(base+"/*"))

			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			send := func(mode string, choose func(context.Context) context.Context) {
				p, err := cehttp.New(cehttp.WithTarget(g.topics(base+"/"+mode)), cehttp.WithClient(*client))
				if err != nil {
					t.Fatal(err)
				}
				c, err := cloudevents.NewClient(p)
				if err != nil {
					t.Fatal(err)
				}
				if result := c.Send(choose(t.Context()), sent); !cloudevents.IsACK(result) {
					t.Fatalf("Send in %s mode: %v", mode, result)
				}
			}
			send("binary", binding.WithForceBinary)
			send("structured", binding.WithForceStructured)
			req, err := cehttp.NewHTTPRequestFromEvents(t.Context(), g.topics(base+"/batch"), []cloudevents.Event{sent})
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("a batch: %s", resp.Status)
			}

			var first string
			for _, mode := range []string{"binary", "structured", "batch"} {
				text := s.next(t)
				if topic := member(t, text, "relaytopic"); topic != base+"/"+mode {
					t.Errorf("an event on %s arrived, want %s", topic, base+"/"+mode)
				}
				if first == "" {
					first = own(t, text)
				} else if got := own(t, text); got != first {
					t.Errorf("in %s mode it arrived as\n%s\nwant, as in binary mode,\n%s", mode, got, first)
				}
				var got cloudevents.Event
				if err := json.Unmarshal([]byte(text), &got); err != nil {
					t.Fatalf("the SDK can't parse %s: %v", text, err)
				}
				same(t, mode, got, sent, payload.bytes)
			}

			// the same three from the log, as a batch
			resp, err = client.Get(g.topics(base + "/*"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			events, err := cehttp.NewEventsFromHTTPResponse(resp)
			if err != nil || len(events) != 3 {
				t.Fatalf("the SDK reads %d events (%v) from the history, want 3", len(events), err)
			}
			for _, got := range events {
				same(t, "history", got, sent, payload.bytes)
			}
		})
	}
}

// same compares what the SDK parsed with what it sent.
func same(t *testing.T, how string, got, want cloudevents.Event, data []byte) {
	t.Helper()
	if err := got.Validate(); err != nil {
		t.Errorf("%s: the SDK finds the event invalid: %v", how, err)
	}
	if got.ID() != want.ID() || got.Source() != want.Source() || got.Type() != want.Type() ||
		got.Subject() != want.Subject() || !got.Time().Equal(want.Time()) || got.DataContentType() != want.DataContentType() ||
		got.Extensions()["tenant"] != want.Extensions()["tenant"] {
		t.Errorf("%s: got %v\nwant %v", how, got, want)
	}
	if !bytes.Equal(got.Data(), data) {
		t.Errorf("%s: the data is %q, want %q", how, got.Data(), data)
	}
}
