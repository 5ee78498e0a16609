package subscriber

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

func TestParseTakesWhatAStreamNeeds(t *testing.T) {
	cursor := schemas.Cursor{Log: 7, Sequence: 42, Accepted: 99}
	delivered := func(json string, c *schemas.Cursor) string {
		return string(schemas.AppendDelivered(nil, []byte(json), "orders/eu", c))
	}
	const event = `{"specversion":"1.0","id":"1","source":"/s","type":"t"}`
	tests := []struct {
		name, in      string
		topic, cursor string
		notice        *Notice
	}{
		{"stored", delivered(event, &cursor), "orders/eu", cursor.String(), nil},
		{"not stored", delivered(event, nil), "orders/eu", "", nil},
		{"blanks between", `{ "relaytopic" : "orders/eu", "relaycursor" : "abc", "id":"1" }`, "orders/eu", "abc", nil},
		{"its like in the data", `{"id":"1","relaytopic":"a","data":{"x":1,"relaytopic":"b","relaycursor":"c"}}`, "a", "", nil},
		{"its like in a text", `{"relaytopic":"a","data":"{\"x\":1,\"relaytopic\":\"b\"}"}`, "a", "", nil},
		{"its like in a text at the end", `{"relaytopic":"a","data":",\"relaytopic\":\"b"}`, "a", "", nil},
		{"the other way round", `{"id":"1","relaycursor":"c","relaytopic":"a"}`, "a", "c", nil},
		{"escapes", `{"id":"1","relaycursor":"c","relaytopic":"\u0061"}`, "a", "c", nil},
		{"published by somebody as a notice", delivered(`{"specversion":"1.0","id":"1","source":"/outrelay","type":"dev.outrelay.gap"}`, nil), "orders/eu", "", nil},
		{"somebody's source", `{"source":"/other","type":"dev.outrelay.gap","data":{}}`, "", "", nil},
		{"gap", `{"source":"/outrelay","type":"dev.outrelay.gap","data":{"reason":"slow","missed":3}}`, "", "",
			&Notice{Type: schemas.NoticeGap, Gap: &Gap{"slow", new(uint64(3))}}},
		{"gap of unknown size", `{"source":"/outrelay","type":"dev.outrelay.gap","data":{"reason":"reset","missed":null}}`, "", "",
			&Notice{Type: schemas.NoticeGap, Gap: &Gap{"reset", nil}}},
		{"draining", `{"source":"/outrelay","type":"dev.outrelay.draining","data":{"reconnectafterms":1500}}`, "", "",
			&Notice{Type: schemas.NoticeDraining, ReconnectAfter: 1500 * time.Millisecond}},
		{"draining for ever", `{"source":"/outrelay","type":"dev.outrelay.draining","data":{"reconnectafterms":1e300}}`, "", "",
			&Notice{Type: schemas.NoticeDraining, ReconnectAfter: time.Hour}},
		{"position", `{"source":"/outrelay","type":"dev.outrelay.position","data":{"cursor":"abc"}}`, "", "",
			&Notice{Type: schemas.NoticePosition, cursor: "abc"}},
		{"rejected", `{"source":"/outrelay","type":"dev.outrelay.rejected","data":{"type":"https://outrelay.dev/problems/event","status":400,"eventid":"7"}}`, "", "",
			&Notice{Type: schemas.NoticeRejected, Problem: &schemas.Problem{Name: "event", EventID: "7"}}},
		{"one of later versions", `{"source":"/outrelay","type":"dev.outrelay.news"}`, "", "", &Notice{Type: "dev.outrelay.news"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := parse([]byte(tt.in), "")
			if err != nil {
				t.Fatalf("parse(%s) error = %v", tt.in, err)
			}
			if d.Topic != tt.topic || d.Cursor != tt.cursor || string(d.Raw) != tt.in {
				t.Errorf("parse(%s) = topic %q, cursor %q, raw %s; want %q, %q, the same", tt.in, d.Topic, d.Cursor, d.Raw, tt.topic, tt.cursor)
			}
			if tt.notice != nil {
				tt.notice.Raw = []byte(tt.in)
			}
			if !reflect.DeepEqual(d.Notice, tt.notice) {
				t.Errorf("parse(%s) notice = %+v, want %+v", tt.in, d.Notice, tt.notice)
			}
		})
	}
}

func TestParseRefusesWhatIsNoEvent(t *testing.T) {
	for _, in := range []string{"", "[]", "7", `{"id":`, "hello", `{"source":"/outrelay","type":"dev.outrelay.gap","data":7}`} {
		if d, err := parse([]byte(in), ""); err == nil {
			t.Errorf("parse(%q) = %+v, want an error", in, d)
		}
	}
}

// The short way and the long way read the same out of any message.
func FuzzParse(f *testing.F) {
	f.Add(`{"id":"1","relaytopic":"a/b","relaycursor":"AQ"}`)
	f.Add(`{"relaytopic":"a","data":",\"relaytopic\":\"b"}`)
	f.Add(`{"relaytopic":"a","data":{"x":"}","relaycursor":"b"}}`)
	f.Add(`{"source":"/outrelay","type":"dev.outrelay.gap","data":{"reason":"slow"}}`)
	f.Add(`{"x":",\"relaytopic\":\"b\",\"relaycursor\":\"c"}`)
	f.Fuzz(func(t *testing.T, in string) {
		slow, err := parseMembers([]byte(in))
		if err != nil {
			return // what is no JSON object never comes out of a gateway
		}
		if fast, ok := tail([]byte(in), ""); ok && (fast.Topic != slow.Topic || fast.Cursor != slow.Cursor || slow.Notice != nil) {
			t.Errorf("%s: the short way reads %q %q, the long way %q %q (notice %v)", in, fast.Topic, fast.Cursor, slow.Topic, slow.Cursor, slow.Notice)
		}
	})
}

func TestEventReadsWhatCameWithTheSDK(t *testing.T) {
	d := Delivery{Raw: []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"n":1.50},"relaytopic":"a"}`)}
	e, err := d.Event()
	if err != nil {
		t.Fatal(err)
	}
	if e.ID() != "1" || string(e.Data()) != `{"n":1.50}` || e.Extensions()["relaytopic"] != "a" {
		t.Errorf("Event() = %v", e)
	}
	for _, bad := range []string{`{"specversion":"1.0","data_base64":1}`, `{}`, `7`} {
		d := Delivery{Raw: []byte(bad)}
		if _, err := d.Event(); err == nil {
			t.Errorf("Event() of %s has no error", bad)
		}
	}
}

func TestGapErrorSaysWhy(t *testing.T) {
	missed := uint64(3)
	for reason, want := range map[string]string{
		"slow": "3 events", "expired": "cursor", "reset": "another log", "unstored": "not stored", "new\x1b[2J": "reason",
	} {
		got := (&GapError{Gap: Gap{reason, &missed}}).Error()
		if reason == "reset" {
			want = "another one"
		}
		if !strings.Contains(got, want) || strings.ContainsRune(got, 0x1b) {
			t.Errorf("GapError of %q says %q, want %q in it and no control character", reason, got, want)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	cursor := schemas.Cursor{Log: 7, Sequence: 42, Accepted: 1 << 60}
	event := fmt.Sprintf(`{"specversion":"1.0","id":"1","source":"/s","type":"t","data":%q}`, strings.Repeat("x", 256))
	raw := schemas.AppendDelivered(nil, []byte(event), "orders/eu", &cursor)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(raw, "orders/eu"); err != nil {
			b.Fatal(err)
		}
	}
}
