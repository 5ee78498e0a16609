package schemas_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/outrelay/outrelay/schemas"
)

// Every parser of what strangers send has a fuzz target here; its seeds are the
// vectors. go test -list Fuzz names them.

// maxSeed keeps the cases about sizes out of the seeds, which are slow to vary.
const maxSeed = 4 << 10

func FuzzParseEvent(f *testing.F) {
	for _, c := range load[structuredFile](f, "structured.json").Cases {
		if b := c.body(); len(b) <= maxSeed {
			f.Add(b)
		}
	}
	f.Add(typicalEvent)
	var arena schemas.Arena
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := schemas.ParseEvent(b)
		arena.Reset()
		arena.ParseEvent(typicalEvent) //nolint:errcheck // something before it
		same, sameErr := arena.ParseEvent(b)
		if !reflect.DeepEqual(err, sameErr) {
			t.Errorf("in an arena the error is %v, not %v", sameErr, err)
		}
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if !reflect.DeepEqual(e, same) {
			t.Errorf("in an arena the event is %s", same.JSON())
		}
		if !json.Valid(b) {
			t.Errorf("accepted what encoding/json does not read")
		}
		checkEvent(t, e)
	})
}

func FuzzParseBatch(f *testing.F) {
	for _, c := range load[batchFile](f, "batch.json").Cases {
		if b := c.body(); len(b) <= maxSeed {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := schemas.ParseBatch(b)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		var elements []json.RawMessage
		if err := json.Unmarshal(b, &elements); err != nil || len(elements) != len(events) {
			t.Fatalf("%d events; encoding/json: %d, %v", len(events), len(elements), err)
		}
		forms := make([][]byte, len(events))
		for i, e := range events {
			checkEvent(t, e)
			if one, err := schemas.ParseEvent(elements[i]); err != nil || !bytes.Equal(one.JSON(), e.JSON()) {
				t.Errorf("event %d alone: %v", i, err)
			}
			forms[i] = e.JSON()
		}
		again := append(append([]byte("["), bytes.Join(forms, []byte(","))...), ']')
		if events, err := schemas.ParseBatch(again); err != nil || len(events) != len(forms) {
			t.Errorf("the batch of the JSON forms: %d events, %v", len(events), err)
		}
	})
}

// Headers are lines of name and value, as on the wire.
func FuzzParseBinary(f *testing.F) {
	for _, c := range load[structuredFile](f, "binary.json").Cases {
		var lines strings.Builder
		for _, h := range c.Headers {
			lines.WriteString(string(h[0]) + ":" + string(h[1]) + "\n")
		}
		if b := c.body(); len(b)+lines.Len() <= maxSeed {
			f.Add(lines.String(), b)
		}
	}
	f.Fuzz(func(t *testing.T, lines string, body []byte) {
		header := http.Header{}
		for line := range strings.Lines(lines) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
			header.Add(name, value)
		}
		e, err := schemas.ParseBinary(header, body)
		again, errAgain := schemas.ParseBinary(header, body)
		if err != nil {
			p := checkRefusal(t, err)
			if q := checkRefusal(t, errAgain); p.Detail != q.Detail {
				t.Errorf("refused with %q and then with %q", p.Detail, q.Detail)
			}
			return
		}
		if errAgain != nil || !bytes.Equal(e.JSON(), again.JSON()) {
			t.Errorf("the second time: %v", errAgain)
		}
		checkEvent(t, e)
		data, ok := e.Data()
		if ok != (len(body) > 0) {
			t.Errorf("a body of %d bytes is data: %t", len(body), ok)
		}
		if !bytes.Equal(data, body) && !bytes.Equal(data, bytes.Trim(body, " \t\r\n")) {
			t.Errorf("the body %q became %q", body, data)
		}
		if schemas.ContentMode(header) == schemas.NoEvent {
			t.Error("accepted what ContentMode calls no event")
		}
	})
}

var (
	topicModel       = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,64}(?:/[A-Za-z0-9._~-]{1,64}){0,15}$`)
	topicFilterModel = regexp.MustCompile(`^(?:(?:[A-Za-z0-9._~-]{1,64}|\*)/){0,15}(?:[A-Za-z0-9._~-]{1,64}|\*\*?)$`)
	dotSegment       = regexp.MustCompile(`(?:^|/)\.{1,2}(?:/|$)`)
)

func FuzzParseTopic(f *testing.F) {
	for _, c := range load[topicsFile](f, "topics.json").Topics {
		f.Add(c.Text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		topic, err := schemas.ParseTopic(s)
		want := topicModel.MatchString(s) && !dotSegment.MatchString(s) && len(s) <= schemas.MaxTopic
		if (err == nil) != want {
			t.Fatalf("ParseTopic(%q): %v, want it to pass: %t", s, err, want)
		}
		if err != nil {
			checkRefusal(t, err)
			return
		}
		filter, err := schemas.ParseTopicFilter(s)
		if err != nil || !filter.Concrete() || !filter.Match(topic) {
			t.Errorf("the topic %q is no filter of itself: %v", s, err)
		}
	})
}

func FuzzParseTopicFilter(f *testing.F) {
	for _, c := range load[topicsFile](f, "topics.json").Filters {
		f.Add(c.Text, "a/b")
	}
	for _, c := range load[filtersFile](f, "filters.json").Match {
		f.Add(c.Filter, c.Topic)
	}
	for _, c := range load[filtersFile](f, "filters.json").Pairs {
		f.Add(c.Filter, c.Other)
	}
	f.Fuzz(func(t *testing.T, s, other string) {
		filter, err := schemas.ParseTopicFilter(s)
		want := topicFilterModel.MatchString(s) && !dotSegment.MatchString(s) && len(s) <= schemas.MaxTopic
		if (err == nil) != want {
			t.Fatalf("ParseTopicFilter(%q): %v, want it to pass: %t", s, err, want)
		}
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if !filter.Contains(filter) || !filter.Overlaps(filter) {
			t.Errorf("%q does not contain itself", s)
		}
		if topic, err := schemas.ParseTopic(other); err == nil {
			if got, want := filter.Match(topic), filterModel(s)(other); got != want {
				t.Errorf("%q matches %q: %t, want %t", s, other, got, want)
			}
		}
		g, err := schemas.ParseTopicFilter(other)
		if err != nil {
			return
		}
		if filter.Overlaps(g) != g.Overlaps(filter) {
			t.Errorf("%q overlaps %q: %t, and not the other way", s, other, filter.Overlaps(g))
		}
		if filter.Contains(g) && !filter.Overlaps(g) {
			t.Errorf("%q contains %q and has nothing in common with it", s, other)
		}
		if filter.Contains(g) && g.Contains(filter) && filter != g {
			t.Errorf("%q and %q contain each other", s, other)
		}
		if g.Concrete() && filter.Contains(g) != filter.Match(schemas.Topic(g)) {
			t.Errorf("%q contains the topic %q: %t, and matches it not so", s, other, filter.Contains(g))
		}
	})
}

func FuzzParseCursor(f *testing.F) {
	file := load[cursorsFile](f, "cursors.json")
	for _, c := range file.Good {
		f.Add(c.Text)
	}
	for _, c := range file.Bad {
		f.Add(c.Text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := schemas.ParseCursor(s)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if c.String() != s || !urlSafe.MatchString(s) || c.Accepted < 0 {
			t.Errorf("ParseCursor(%q) = %+v, which is %q", s, c, c)
		}
	})
}

// Any attribute value comes back from a header as it went in, and whatever a header
// holds becomes a valid attribute or a refusal.
func FuzzHeaderValue(f *testing.F) {
	file := load[headersFile](f, "headers.json")
	for _, c := range file.Encode {
		f.Add(c.Value)
		f.Add(c.Header)
	}
	for _, c := range file.Decode {
		f.Add(c.Header)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if e, err := withHeader(s); err == nil {
			checkEvent(t, e)
		} else {
			checkRefusal(t, err)
		}
		header := schemas.EncodeHeader(s)
		for i := range len(header) {
			if c := header[i]; c <= 0x20 || c >= 0x7F || c == '"' {
				t.Fatalf("EncodeHeader(%q) = %q", s, header)
			}
		}
		e, err := withHeader(header)
		if want := stringModel(s); (err == nil) != want && len(s) < schemas.MaxAttributes/2 {
			t.Fatalf("%q in a header: %v, want it to pass: %t", s, err, want)
		}
		if err != nil {
			return
		}
		if a, _ := e.Attribute("ext"); a.Value != s {
			t.Errorf("%q came back as %q", s, a.Value)
		}
		structured, err := withAttribute("ext", s)
		if err != nil || !bytes.Equal(structured.JSON(), e.JSON()) {
			t.Errorf("%q in structured mode: %v", s, err)
		}
	})
}

// stringModel says whether s is a String of CloudEvents.
func stringModel(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.In(r, unicode.Cc, unicode.Noncharacter_Code_Point)
	})
}

// fuzzAttribute compares what an attribute takes with a model of its grammar.
func fuzzAttribute(f *testing.F, name string, cases []valueCase, model func(string) bool) {
	for _, c := range cases {
		f.Add(c.Text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) || len(s) > schemas.MaxAttributes/2 {
			return // another rule refuses it
		}
		e, err := withAttribute(name, s)
		if want := s != "" && stringModel(s) && model(s); (err == nil) != want {
			t.Fatalf("the %s %q: %v, want it to pass: %t", name, s, err, want)
		}
		if err != nil {
			checkRefusal(t, err)
			return
		}
		checkEvent(t, e)
	})
}

func FuzzURIReference(f *testing.F) {
	fuzzAttribute(f, "source", load[valuesFile](f, "values.json").URIReferences, referenceModel.MatchString)
}

func FuzzURI(f *testing.F) {
	fuzzAttribute(f, "dataschema", load[valuesFile](f, "values.json").URIs, uriModel.MatchString)
}

func FuzzMediaType(f *testing.F) {
	var cases []valueCase
	for _, c := range load[valuesFile](f, "values.json").MediaTypes {
		cases = append(cases, c.valueCase)
	}
	fuzzAttribute(f, "datacontenttype", cases, mediaTypeModel.MatchString)
}

func FuzzTimestamp(f *testing.F) {
	for _, c := range load[valuesFile](f, "values.json").Timestamps {
		f.Add(c.Text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := schemas.ParseTimestamp(s)
		want, ok := timestampModel(s)
		if (err == nil) != ok || ok && !at.Equal(want) {
			t.Errorf("ParseTimestamp(%q) = %v, %v, want %v, and that it passes: %t", s, at, err, want, ok)
		}
	})
}

// What a gateway or anybody else answers is read without a panic, and written so
// that it reads back the same.
func FuzzProblem(f *testing.F) {
	f.Add([]byte(`{"type":"https://outrelay.dev/problems/event","title":"T","status":400,"detail":"d","index":3,"attribute":"id","eventid":"1"}`))
	f.Add([]byte(`{"type":7,"status":"x","index":1.5}`))
	f.Add([]byte(`{"type":"https://outrelay.dev/problems/https://x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p schemas.Problem
		if err := json.Unmarshal(b, &p); err != nil {
			return
		}
		out, err := json.Marshal(&p)
		if err != nil {
			t.Fatal(err)
		}
		var q schemas.Problem
		if err := json.Unmarshal(out, &q); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(&q)
		if err != nil || !bytes.Equal(out, again) {
			t.Errorf("%s is written as %s, and read again as %s", b, out, again)
		}
	})
}

// checkRefusal holds what is promised of every problem.
func checkRefusal(t *testing.T, err error) *schemas.Problem {
	t.Helper()
	p := asProblem(t, err)
	if p.Status() != http.StatusBadRequest && p.Status() != http.StatusRequestEntityTooLarge {
		t.Errorf("refused with status %d", p.Status())
	}
	if len(p.Detail) > 1000 {
		t.Errorf("the answer has %d bytes", len(p.Detail))
	}
	b, err := json.Marshal(p)
	if err != nil || !json.Valid(b) {
		t.Errorf("the problem is no JSON: %v", err)
	}
	return p
}
