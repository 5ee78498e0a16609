package filter_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// paid has an attribute of every kind, and values that the SDK would rewrite.
const paid = `{"specversion":"1.0","id":"A-17","source":"/shop/eu?x=%7e","type":"com.example.order.paid",` +
	`"subject":"Zürich/Straße","time":"2026-11-23t10:11:12.500+01:00","datacontenttype":"application/json",` +
	`"dataschema":"https://example.com/a%2fb","amount":1250,"below":-3,"digits":"0042","paid":true,"open":false,` +
	`"yes":"TRUE","empty":"","data":{"type":"com.example.inner"}}`

func event(t testing.TB, text string) *schemas.Event {
	t.Helper()
	e, err := schemas.ParseEvent([]byte(text))
	if err != nil {
		t.Fatalf("ParseEvent(%s): %v", text, err)
	}
	return e
}

func parse(t testing.TB, dialects, sql string) *filter.Filter {
	t.Helper()
	f, err := filter.Parse(dialects, sql)
	if err != nil {
		t.Fatalf("Parse(%q, %q): %v", dialects, sql, err)
	}
	return f
}

// refused checks that the filter is refused with a problem of its name whose
// detail says want.
func refused(t testing.TB, dialects, sql, want string) {
	t.Helper()
	f, err := filter.Parse(dialects, sql)
	if !errors.Is(err, schemas.ErrFilter) {
		t.Errorf("Parse(%.200q, %.200q) = %v, %v; want a problem of name filter", dialects, sql, f, err)
		return
	}
	var p *schemas.Problem
	errors.As(err, &p)
	if !strings.Contains(p.Detail, want) {
		t.Errorf("Parse(%.200q, %.200q) detail = %q, want it to say %q", dialects, sql, p.Detail, want)
	}
	if len(p.Detail) > 500 {
		t.Errorf("Parse(%.200q, %.200q) detail has %d bytes", dialects, sql, len(p.Detail))
	}
}

func TestNothingGivenLetsEverythingThrough(t *testing.T) {
	e := event(t, paid)
	for _, dialects := range []string{"", "[]", " [ ] "} {
		f := parse(t, dialects, "")
		if f != nil {
			t.Errorf("Parse(%q, \"\") = %v, want nil", dialects, f)
		}
		if !f.Match(e) || f.Key() != "" {
			t.Errorf("the nil filter: Match = %v, Key = %q; want true and nothing", f.Match(e), f.Key())
		}
	}
}

func TestBothParametersMustHold(t *testing.T) {
	e := event(t, paid)
	for _, tt := range []struct {
		dialects, sql string
		want          bool
	}{
		{`{"exact":{"id":"A-17"}}`, "amount = 1250", true},
		{`{"exact":{"id":"A-18"}}`, "amount = 1250", false},
		{`{"exact":{"id":"A-17"}}`, "amount = 1251", false},
		{`[]`, "amount = 1251", false},
		{"", "amount = 1250", true},
	} {
		if got := parse(t, tt.dialects, tt.sql).Match(e); got != tt.want {
			t.Errorf("Parse(%q, %q).Match = %v, want %v", tt.dialects, tt.sql, got, tt.want)
		}
	}
}

func TestLimits(t *testing.T) {
	nested := func(n int) string {
		return strings.Repeat(`{"not":`, n-1) + `{"exact":{"id":"x"}}` + strings.Repeat("}", n-1)
	}
	arrays := func(n int) string {
		return strings.Repeat(`{"all":[`, n-1) + `{"exact":{"id":"x"}}` + strings.Repeat("]}", n-1)
	}
	many := func(n int) string {
		return "[" + strings.Repeat(`{"exact":{"id":"x"}},`, n-1) + `{"exact":{"id":"x"}}]`
	}
	long := func(n int) string {
		const frame = `{"exact":{"id":""}}`
		return `{"exact":{"id":"` + strings.Repeat("x", n-len(frame)) + `"}}`
	}
	expression := func(n int) string { return "id = '" + strings.Repeat("x", n-len("id = ''")) + "'" }
	in := func(open, closed string) func(int) string {
		return func(n int) string { return strings.Repeat(open, n) + "1" + strings.Repeat(closed, n) }
	}
	tests := []struct {
		name string
		make func(n int) (dialects, sql string)
		max  int
		want string
	}{
		{"text", func(n int) (string, string) { return long(n), "" }, filter.MaxText, "bytes"},
		{"depth of not", func(n int) (string, string) { return nested(n), "" }, filter.MaxDepth, "deep"},
		{"depth of all", func(n int) (string, string) { return arrays(n), "" }, filter.MaxDepth, "deep"},
		{"depth in an array", func(n int) (string, string) { return "[" + nested(n) + "]", "" }, filter.MaxDepth, "deep"},
		{"nodes", func(n int) (string, string) { return many(n), "" }, filter.MaxNodes, "filters"},
		{"sql", func(n int) (string, string) { return "", expression(n) }, filter.MaxSQL, "bytes"},
		{"sql in a filter", func(n int) (string, string) { return `{"sql":"` + expression(n) + `"}`, "" }, filter.MaxSQL, "bytes"},
		{"parentheses", func(n int) (string, string) { return "", in("(", ")")(n) }, filter.MaxDepth, "deep"},
		{"NOT", func(n int) (string, string) { return "", in("NOT ", "")(n) }, filter.MaxDepth, "deep"},
		{"minus", func(n int) (string, string) { return "", in("- ", "")(n) }, filter.MaxDepth, "deep"},
		{"calls", func(n int) (string, string) { return "", in("ABS(", ")")(n) }, filter.MaxDepth, "deep"},
		{"lists", func(n int) (string, string) { return "", in("1 IN (", ")")(n) }, filter.MaxDepth, "deep"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dialects, sql := tt.make(tt.max)
			parse(t, dialects, sql)
			dialects, sql = tt.make(tt.max + 1)
			refused(t, dialects, sql, tt.want)
		})
	}
	t.Run("set", func(t *testing.T) {
		l := filter.Limits{Text: 30, Depth: 2, Nodes: 2, SQL: 10}
		for _, bad := range [][2]string{
			{`{"exact":{"id":"xxxxxxxxxxxxxxxxxxxxx"}}`, ""},
			{`{"not":{"not":{"sql":"a"}}}`, ""},
			{`[{"sql":"a"},{"sql":"b"},{"sql":"c"}]`, ""},
			{"", "id = 'A-17'"},
			{"", "(((1)))"},
		} {
			if f, err := l.Parse(bad[0], bad[1]); !errors.Is(err, schemas.ErrFilter) {
				t.Errorf("Parse(%q, %q) = %v, %v; want it refused", bad[0], bad[1], f, err)
			}
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	f := parse(t, `[{"prefix":{"type":"com."}},{"not":{"suffix":{"type":".open"}}}]`, "subject LIKE 'Z_rich%' AND CONCAT(id, source) != ''")
	e := event(t, paid)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 200 {
				if !f.Match(e) || f.Key() == "" {
					t.Error("Match = false, want true")
					return
				}
			}
		})
	}
	group.Wait()
}
