package schemas_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/schemas"
)

// checkEvent holds what is promised of every event that is accepted.
func checkEvent(t *testing.T, e *schemas.Event) {
	t.Helper()
	form := e.JSON()
	if e.Size() != len(form) || e.Size() > schemas.MaxEvent {
		t.Errorf("Size() = %d of %d bytes, at most %d", e.Size(), len(form), schemas.MaxEvent)
	}
	if !jsontext.Value(form).IsValid() {
		t.Errorf("the JSON form is not strictly valid: %s", short(form))
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(form, &members); err != nil {
		t.Fatalf("encoding/json does not read the JSON form: %v: %s", err, short(form))
	}
	checkMembers(t, e, members)

	again, err := schemas.ParseEvent(form)
	if err != nil {
		t.Fatalf("the JSON form is refused: %v: %s", err, short(form))
	}
	if !bytes.Equal(again.JSON(), form) {
		t.Errorf("the JSON form is not stable:\n%s\n%s", short(form), short(again.JSON()))
	}
	data, ok := e.Data()
	dataAgain, okAgain := again.Data()
	if ok != okAgain || !bytes.Equal(data, dataAgain) {
		t.Errorf("Data() = %q, %t; read again %q, %t", short(data), ok, short(dataAgain), okAgain)
	}

	cursor := schemas.Cursor{Log: 7, Sequence: 9, Accepted: 11}
	delivered := schemas.AppendDelivered([]byte("before"), form, "a/b", &cursor)
	rest, ok := bytes.CutPrefix(delivered, []byte("before"))
	if !ok || !jsontext.Value(rest).IsValid() {
		t.Fatalf("AppendDelivered makes no valid JSON: %s", short(delivered))
	}
	clear(members)
	if err := json.Unmarshal(rest, &members); err != nil {
		t.Fatal(err)
	}
	if got := string(members[schemas.AttributeTopic]); got != `"a/b"` {
		t.Errorf("delivered with the topic %s", got)
	}
	if got := string(members[schemas.AttributeCursor]); got != `"`+cursor.String()+`"` {
		t.Errorf("delivered with the cursor %s", got)
	}
	if again, err := schemas.ParseEvent(rest); err != nil || !bytes.Equal(again.JSON(), form) {
		t.Errorf("what is delivered and published again is another event: %v: %s", err, short(rest))
	}
}

// checkMembers compares the attributes with what another reader found.
func checkMembers(t *testing.T, e *schemas.Event, members map[string]json.RawMessage) {
	t.Helper()
	delete(members, "data")
	delete(members, "data_base64")
	attributes := e.Attributes()
	if len(members) != len(attributes) {
		t.Errorf("%d attributes, encoding/json finds %d: %s", len(attributes), len(members), short(e.JSON()))
	}
	for _, a := range attributes {
		raw, value := members[a.Name], a.Value
		if a.Kind == schemas.String {
			if err := json.Unmarshal(raw, &value); err != nil {
				t.Errorf("the attribute %s is no string to encoding/json: %s", a.Name, raw)
			}
		} else if string(raw) != value {
			t.Errorf("the attribute %s is %s, want %s", a.Name, raw, value)
		}
		if value != a.Value {
			t.Errorf("the attribute %s is %q to encoding/json, want %q", a.Name, value, a.Value)
		}
		if got, ok := e.Attribute(a.Name); !ok || got != a {
			t.Errorf("Attribute(%q) = %v, %t", a.Name, got, ok)
		}
	}
	for name, got := range map[string]string{"id": e.ID(), "source": e.Source(), "type": e.Type()} {
		if a, _ := e.Attribute(name); a.Value != got || got == "" {
			t.Errorf("the attribute %s is %q by its method and %q by name", name, got, a.Value)
		}
	}
}

// checkOutcome compares an event or error with a case.
func checkOutcome(t *testing.T, e *schemas.Event, err error, want outcome) {
	t.Helper()
	if want.Problem != nil {
		checkProblem(t, err, want.Problem)
		if e != nil {
			t.Error("refused, and an event returned")
		}
		return
	}
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	if string(e.JSON()) != string(want.Event) {
		t.Fatalf("canonical form\n%s, want\n%s", short(e.JSON()), short(want.Event))
	}
	checkEvent(t, e)
	data, ok := e.Data()
	switch {
	case want.Bytes != nil:
		if !ok || !bytes.Equal(data, want.Bytes) {
			t.Errorf("Data() = %q, %t, want %q", data, ok, want.Bytes)
		}
	case string(want.Payload) == "null":
		if ok {
			t.Errorf("Data() = %q, want none", data)
		}
	case want.Payload != nil:
		var payload string
		if err := json.Unmarshal(want.Payload, &payload); err != nil {
			t.Fatal(err)
		}
		if !ok || string(data) != payload {
			t.Errorf("Data() = %q, %t, want %q", data, ok, payload)
		}
	}
}

// parse reads a message in the mode it names.
func parse(t *testing.T, in input) (*schemas.Event, error) {
	t.Helper()
	switch in.Mode {
	case "structured":
		return schemas.ParseEvent(in.body())
	case "binary":
		return schemas.ParseBinary(in.header(), in.body())
	case "batched":
		events, err := schemas.ParseBatch(in.body())
		if err == nil && len(events) != 1 {
			t.Fatalf("%d events in the batch, want one", len(events))
		}
		if err != nil {
			return nil, err
		}
		return events[0], nil
	}
	t.Fatalf("there is no mode %q", in.Mode)
	return nil, nil
}

func TestParseEvent(t *testing.T) {
	each(t, load[structuredFile](t, "structured.json").Cases, func(t *testing.T, c eventCase) {
		body := c.body()
		before := bytes.Clone(body)
		e, err := schemas.ParseEvent(body)
		if !bytes.Equal(before, body) {
			t.Error("ParseEvent changed its input")
		}
		clear(body) // b is not kept
		checkOutcome(t, e, err, c.outcome)
	})
}

// Every case of structured mode has the same outcome as the second of a batch.
func TestParseBatchOfStructuredCases(t *testing.T) {
	const first = `{"specversion":"1.0","id":"0","source":"/s","type":"t"}`
	each(t, load[structuredFile](t, "structured.json").Cases, func(t *testing.T, c eventCase) {
		batch := slices.Concat([]byte("["+first+","), c.body(), []byte("]"))
		events, err := schemas.ParseBatch(batch)
		clear(batch)
		if c.Problem != nil {
			want := *c.Problem
			if json.Valid(c.body()) { // else it is no element of the array
				one := 1
				want.Index = &one
			}
			checkProblem(t, err, &want)
			if events != nil {
				t.Error("refused, and events returned")
			}
			return
		}
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		if len(events) != 2 || string(events[0].JSON()) != first {
			t.Fatalf("%d events, want two", len(events))
		}
		checkOutcome(t, events[1], nil, c.outcome)
	})
}

func TestParseBatch(t *testing.T) {
	each(t, load[batchFile](t, "batch.json").Cases, func(t *testing.T, c batchCase) {
		events, err := schemas.ParseBatch(c.body())
		if c.Problem != nil {
			checkProblem(t, err, c.Problem)
			if events != nil {
				t.Error("refused, and events returned")
			}
			if p := asProblem(t, err); c.Problem.Index == nil && p.Index != nil {
				t.Errorf("index %d of a fault of the whole batch", *p.Index)
			}
			return
		}
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		if len(events) != max(len(c.Events), c.Count) {
			t.Fatalf("%d events, want %d", len(events), max(len(c.Events), c.Count))
		}
		for i, want := range c.Events {
			checkOutcome(t, events[i], nil, outcome{Event: want})
		}
	})
}

func TestParseBinary(t *testing.T) {
	each(t, load[structuredFile](t, "binary.json").Cases, func(t *testing.T, c eventCase) {
		for range 20 { // whatever the order of a map
			body := c.body()
			e, err := schemas.ParseBinary(c.header(), body)
			clear(body)
			checkOutcome(t, e, err, c.outcome)
			if len(body) > 10_000 {
				break
			}
		}
	})
}

// Header names may come in a map that no HTTP server made.
func TestParseBinaryFoldedNames(t *testing.T) {
	header := func(extra ...string) map[string][]string {
		h := map[string][]string{"ce-specversion": {"1.0"}, "CE-ID": {"1"}, "Ce-Source": {"/s"}, "ce-TYPE": {"t"}}
		for _, name := range extra {
			h[name] = []string{"x"}
		}
		return h
	}
	if _, err := schemas.ParseBinary(header(), nil); err != nil {
		t.Errorf("names in any case are refused: %v", err)
	}
	_, err := schemas.ParseBinary(header("ce-ext", "CE-EXT"), nil)
	checkProblem(t, err, &wantProblem{Name: "event", Attribute: "ext"})
	_, err = schemas.ParseBinary(header("ce-\u212a"), nil) // the sign for Kelvin, whose lower case is k
	checkProblem(t, err, &wantProblem{Name: "event", Attribute: "\u212a"})
	none := header()
	none["Ce-Ext"], none["Content-Type"] = nil, nil
	if e, err := schemas.ParseBinary(none, nil); err != nil || len(e.Attributes()) != 4 {
		t.Errorf("a header without values counts as one: %v", err)
	}
}

func TestContentMode(t *testing.T) {
	type modeCase struct {
		source
		input
	}
	names := map[string]schemas.Mode{
		"none": schemas.NoEvent, "binary": schemas.Binary, "structured": schemas.Structured,
		"batched": schemas.Batched, "unknown": schemas.UnknownFormat,
	}
	each(t, load[struct {
		About string
		Cases []modeCase
	}](t, "modes.json").Cases, func(t *testing.T, c modeCase) {
		want, ok := names[c.Mode]
		if !ok {
			t.Fatalf("there is no mode %q", c.Mode)
		}
		if got := schemas.ContentMode(c.header()); got != want {
			t.Errorf("ContentMode(%v) = %v, want %s", c.header(), got, c.Mode)
		}
	})
}

// The same event in three modes has one form, byte for byte.
func TestTwins(t *testing.T) {
	each(t, load[twinsFile](t, "twins.json").Twins, func(t *testing.T, c twinCase) {
		modes := map[string]bool{}
		for i, in := range c.Messages {
			modes[in.Mode] = true
			e, err := parse(t, in)
			if err != nil {
				t.Fatalf("message %d (%s) refused: %v", i, in.Mode, err)
			}
			checkOutcome(t, e, nil, outcome{Event: c.Event})
		}
		if len(modes) != 3 {
			t.Errorf("the case has messages in %d modes, want 3", len(modes))
		}
	})
}

// Where they do not have one form, each has the one that is known.
func TestTwinsApart(t *testing.T) {
	each(t, load[twinsFile](t, "twins.json").Apart, func(t *testing.T, c apartCase) {
		forms := map[text]bool{}
		for _, m := range c.Messages {
			e, err := parse(t, m.input)
			checkOutcome(t, e, err, m.outcome)
			forms[m.Event] = true
		}
		if len(forms) != len(c.Messages) {
			t.Error("messages of the case come out the same; it belongs to the twins")
		}
	})
}

func TestAppendDelivered(t *testing.T) {
	type deliveredCase struct {
		source
		Event, Topic, Cursor, Delivered string
	}
	each(t, load[struct {
		About string
		Cases []deliveredCase
	}](t, "delivered.json").Cases, func(t *testing.T, c deliveredCase) {
		e, err := schemas.ParseEvent([]byte(c.Event))
		if err != nil {
			t.Fatal(err)
		}
		topic, err := schemas.ParseTopic(c.Topic)
		if err != nil {
			t.Fatal(err)
		}
		var cursor *schemas.Cursor
		if c.Cursor != "" {
			parsed, err := schemas.ParseCursor(c.Cursor)
			if err != nil {
				t.Fatal(err)
			}
			cursor = &parsed
		}
		if got := schemas.AppendDelivered(nil, e.JSON(), topic, cursor); string(got) != c.Delivered {
			t.Errorf("delivered as %s, want %s", got, c.Delivered)
		}
	})
}

func TestExpiry(t *testing.T) {
	const form = `{"specversion":"1.0","id":"1","source":"/s","type":"t"%s}`
	for _, tt := range []struct {
		extra string
		want  time.Time
	}{
		{"", time.Time{}},
		{`,"expirytime":null`, time.Time{}},
		{`,"expirytime":"2026-01-31T12:00:00+01:00"`, time.Date(2026, 1, 31, 11, 0, 0, 0, time.UTC)},
		{`,"expirytime":"0001-01-01T00:00:01Z"`, time.Time{}.Add(time.Second)},
	} {
		e, err := schemas.ParseEvent(fmt.Appendf(nil, form, tt.extra))
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Expiry(); !got.Equal(tt.want) || got.IsZero() != tt.want.IsZero() {
			t.Errorf("Expiry() of %s = %v, want %v", e.JSON(), got, tt.want)
		}
	}
}

// Data is the caller's: changing it changes no event.
func TestDataIsACopy(t *testing.T) {
	for _, data := range []string{
		`"data":{"a":1}`, `"datacontenttype":"text/plain","data":"abc"`, `"data_base64":"AAEC"`,
	} {
		form := `{"specversion":"1.0","id":"1","source":"/s","type":"t",` + data + `}`
		e, err := schemas.ParseEvent([]byte(form))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := e.Data()
		clear(b)
		if string(e.JSON()) != form {
			t.Errorf("the event is %s, want %s", e.JSON(), form)
		}
	}
}

// A stranger's text in an answer is short and readable.
func TestProblemsQuoteLittle(t *testing.T) {
	long := strings.Repeat("\u20ac\u0007<script>", 1000)
	name, _ := json.Marshal(long)
	for _, body := range []string{
		`{` + string(name) + `:1}`,
		`{"specversion":` + string(name) + `}`,
		`{"specversion":"1.0","id":"1","source":` + string(name) + `}`,
		`{"data":{` + string(name) + `:1,` + string(name) + `:1}}`,
	} {
		_, err := schemas.ParseEvent([]byte(body))
		p := asProblem(t, err)
		if len(p.Detail) > 500 || len(p.Attribute) > 100 || strings.ContainsRune(p.Detail, 7) {
			t.Errorf("the answer to %s is %s (attribute %s)", short(body), p.Detail, p.Attribute)
		}
	}
}

// The hot path has an allocation for the event, one for its attributes, one for
// their text and one for the JSON form.
func TestParseAllocations(t *testing.T) {
	e, err := schemas.ParseEvent(typicalEvent)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := e.Data()
	header := http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"},
		"Ce-Ext": {"x"}, "Content-Type": {"application/json"},
	}
	dst := make([]byte, 0, 4096)
	cursor := schemas.Cursor{Log: 1 << 60, Sequence: 1 << 20, Accepted: 1 << 60}
	for _, tt := range []struct {
		name string
		most float64
		f    func() error
	}{
		{"ParseEvent", 4 + poolForgets, func() error { _, err := schemas.ParseEvent(typicalEvent); return err }},
		{"ParseBinary", 4 + 2*poolForgets, func() error { _, err := schemas.ParseBinary(header, body); return err }},
		{"AppendDelivered", 0, func() error {
			dst = schemas.AppendDelivered(dst[:0], e.JSON(), "a/b", &cursor)
			return nil
		}},
		{"Match", 0, func() error {
			schemas.TopicFilter("orders/*/paid/**").Match("orders/eu/paid/card/visa")
			return nil
		}},
	} {
		got := testing.AllocsPerRun(1000, func() {
			if err := tt.f(); err != nil {
				t.Fatal(err)
			}
		})
		if got > tt.most {
			t.Errorf("%s: %v allocations, at most %v", tt.name, got, tt.most)
		}
	}
}
