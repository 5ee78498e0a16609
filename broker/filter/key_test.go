package filter_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

func TestKeyIsEqualForEqualFilters(t *testing.T) {
	classes := [][][2]string{
		{
			{`{"exact":{"id":"a","type":"b"}}`, ""},
			{`{"exact":{"type":"b","id":"a"}}`, ""},
			{` { "exact" : { "type" : "\u0062" , "id" : "a" } } `, ""},
			{`[{"exact":{"id":"a","type":"b"}}]`, ""},
			{`{"all":[{"exact":{"id":"a","type":"b"}}]}`, ""},
			{`{"any":[{"exact":{"id":"a","type":"b"}},{"exact":{"type":"b","id":"a"}}]}`, ""},
		},
		{
			{`[{"exact":{"id":"a"}},{"prefix":{"type":"b"}}]`, ""},
			{`[{"prefix":{"type":"b"}},{"exact":{"id":"a"}}]`, ""},
			{`{"all":[{"prefix":{"type":"b"}},{"exact":{"id":"a"}}]}`, ""},
			{`[{"all":[{"prefix":{"type":"b"}},{"exact":{"id":"a"}}]},{"exact":{"id":"a"}}]`, ""},
		},
		{
			{"", "id = 'a' and Type Not Like \"b\" and int(count) > -05"},
			{"", " ID='a'AND type NOT LIKE 'b' AND INT ( COUNT )>-5\n"},
			{`{"sql":"id = 'a' AND type NOT LIKE 'b' AND INT(count) > -5"}`, ""},
		},
		{
			{`{"exact":{"id":"a"}}`, "b=1"},
			{`[{"sql":"b = 1"},{"exact":{"id":"a"}}]`, ""},
		},
	}
	seen := map[string]int{}
	for i, class := range classes {
		for _, c := range class {
			key := parse(t, c[0], c[1]).Key()
			if want := parse(t, class[0][0], class[0][1]).Key(); key != want {
				t.Errorf("Key of %q = %s, want that of %q, %s", c, key, class[0], want)
			}
			if j, ok := seen[key]; ok && j != i {
				t.Errorf("Key of %q = %s, which %q has too", c, key, classes[j][0])
			}
			seen[key] = i
		}
	}
}

func TestKeyIsTheSimplestJSON(t *testing.T) {
	for _, tt := range [][3]string{
		{`[{"all":[{"exact":{"type":"b","id":"a"}}]}]`, "", `{"exact":{"id":"a","type":"b"}}`},
		{`{"any":[{"exact":{"id":"a"}}]}`, "", `{"exact":{"id":"a"}}`},
		{"", "( id='a' )", `{"sql":"( id = 'a' )"}`},
		{`{"not":{"exact":{"id":"a"}}}`, "b", `{"all":[{"not":{"exact":{"id":"a"}}},{"sql":"b"}]}`},
	} {
		if got := parse(t, tt[0], tt[1]).Key(); got != tt[2] {
			t.Errorf("Key of %q and %q = %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
}

// A key that is made by joining texts without care is equal for some of these.
func TestKeyDiffersForDifferentFilters(t *testing.T) {
	different := [][2]string{
		{"", ""},
		{`{"exact":{"a":"b"}}`, ""},
		{`{"prefix":{"a":"b"}}`, ""},
		{`{"suffix":{"a":"b"}}`, ""},
		{`{"exact":{"ab":"b"}}`, ""},
		{`{"exact":{"a":"b","b":"c"}}`, ""},
		{`{"exact":{"a":"b\",\"b\":\"c"}}`, ""},
		{`{"exact":{"a":"b,b:c"}}`, ""},
		{`{"exact":{"a":"B"}}`, ""},
		{`{"exact":{"a":" b"}}`, ""},
		{`{"exact":{"a":"b\u0000"}}`, ""},
		{`{"exact":{"a":"b\\u0000"}}`, ""},
		{`{"exact":{"a":"e\u0301"}}`, ""},
		{`{"exact":{"a":"\u00e9"}}`, ""},
		{`{"not":{"exact":{"a":"b"}}}`, ""},
		{`{"not":{"not":{"exact":{"a":"b"}}}}`, ""},
		{`[{"exact":{"a":"b"}},{"exact":{"b":"c"}}]`, ""},
		{`{"any":[{"exact":{"a":"b"}},{"exact":{"b":"c"}}]}`, ""},
		{`{"any":[{"exact":{"a":"b"}},{"all":[{"exact":{"b":"c"}},{"exact":{"c":"d"}}]}]}`, ""},
		{`{"all":[{"any":[{"exact":{"a":"b"}},{"exact":{"b":"c"}}]},{"exact":{"c":"d"}}]}`, ""},
		{"", "a = 'b'"},
		{"", "a = 'B'"},
		{"", "a = b"},
		{"", "a = 'b '"},
		{"", "a = ' b'"},
		{"", "'a' = b"},
		{"", "a = 5"},
		{"", "a = '5'"},
		{"", "a = -5"},
		{"", "a = - 5"},
		{"", "a - 5"},
		{"", "a - -5"},
		{"", `a = 'it\'s'`},
		{"", `a = "it\"s"`},
		{"", "a IN ('b', 'c')"},
		{"", "a IN ('b, c')"},
		{"", "a NOT IN ('b', 'c')"},
		{"", "left = 'x'"},
		{"", "LEFT(a, 1) = 'x'"},
		{`{"sql":"a = 'b'"}`, "a = 'B'"},
		{`{"any":[{"sql":"a = 'b'"},{"sql":"a = 'B'"}]}`, ""},
		{`{"exact":{"sql":"a = 'b'"}}`, ""},
	}
	seen := map[string][2]string{}
	for _, d := range different {
		key := parse(t, d[0], d[1]).Key()
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q have the same Key, %s", d, other, key)
		}
		seen[key] = d
	}
}

// random makes filters of few names and values, so that some are equal, and texts
// of them that differ in all that must not matter.
type random struct{ *rand.Rand }

// filter is a filter as JSON makes one of it.
func (r random) filter(depth int) map[string]any {
	dialect := []string{"exact", "prefix", "suffix", "sql", "not", "all", "any"}[r.IntN(7)]
	if depth == 0 {
		dialect = []string{"exact", "prefix", "suffix"}[r.IntN(3)]
	}
	switch dialect {
	case "not":
		return map[string]any{dialect: r.filter(depth - 1)}
	case "all", "any":
		var list []any
		for range 1 + r.IntN(3) {
			list = append(list, r.filter(depth-1))
		}
		return map[string]any{dialect: list}
	case "sql":
		return map[string]any{dialect: r.pick("a", "b", "c") + r.pick(" = ", " != ", " < ") + r.pick("'1'", "1", "TRUE", "b")}
	}
	tests := map[string]any{}
	for range 1 + r.IntN(2) {
		tests[r.pick("a", "b", "c")] = r.pick("1", "12", "\"", "a\x01", "é")
	}
	return map[string]any{dialect: tests}
}

func (r random) pick(s ...string) string { return s[r.IntN(len(s))] }

// write writes v as JSON: members and arrays shuffled, blanks and escapes at will.
func (r random) write(b *bytes.Buffer, v any) {
	blank := func() { b.WriteString(r.pick("", "", " ", "\n\t")) }
	blank()
	switch v := v.(type) {
	case map[string]any:
		b.WriteByte('{')
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names) // so that the seed decides alone
		r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for i, name := range names {
			if i > 0 {
				b.WriteByte(',')
			}
			r.write(b, name)
			b.WriteByte(':')
			if text, ok := v[name].(string); ok && name == "sql" {
				r.write(b, strings.ReplaceAll(text, " ", r.pick(" ", "  ", "\n")))
			} else {
				r.write(b, v[name])
			}
		}
		b.WriteByte('}')
	case []any:
		list := slices.Clone(v)
		if r.IntN(3) == 0 {
			list = append(list, list[r.IntN(len(list))])
		}
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		b.WriteByte('[')
		for i, x := range list {
			if i > 0 {
				b.WriteByte(',')
			}
			r.write(b, x)
		}
		b.WriteByte(']')
	case string:
		b.WriteByte('"')
		for _, c := range v {
			if c < ' ' || c == '"' || r.IntN(5) == 0 {
				fmt.Fprintf(b, `\u%04x`, c)
			} else {
				b.WriteRune(c)
			}
		}
		b.WriteByte('"')
	}
	blank()
}

func (r random) text(v any) string {
	var b bytes.Buffer
	r.write(&b, v)
	return b.String()
}

func TestKeyProperties(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := random{rand.New(rand.NewPCG(seed, 1))}
	wide := filter.Limits{Text: 1 << 20, Depth: 64, Nodes: 1 << 16, SQL: 1 << 16}
	var events []*schemas.Event
	for _, a := range []string{"", `,"a":"1"`, `,"a":1`, `,"a":"12"`, `,"a":true`, `,"a":"aé"`} {
		for _, b := range []string{"", `,"b":"1"`, `,"b":12`, `,"b":"\""`} {
			for _, c := range []string{"", `,"c":"1"`, `,"c":"21"`} {
				events = append(events, event(t, `{"specversion":"1.0","id":"1","source":"/","type":"x"`+a+b+c+`}`))
			}
		}
	}
	behaviours := map[string]string{}
	texts := 0
	for range 3000 {
		v := r.filter(r.IntN(4))
		one, err := wide.Parse(r.text(v), "")
		if err != nil {
			t.Fatalf("Parse(%s): %v", r.text(v), err)
		}
		two, err := wide.Parse(r.text(v), "")
		if err != nil {
			t.Fatalf("Parse(%s): %v", r.text(v), err)
		}
		if one.Key() != two.Key() {
			t.Fatalf("two texts of %v have the keys %s and %s", v, one.Key(), two.Key())
		}
		if !json.Valid([]byte(one.Key())) {
			t.Fatalf("Key = %s, which is no JSON", one.Key())
		}
		again, err := wide.Parse(one.Key(), "")
		if err != nil || again.Key() != one.Key() {
			t.Fatalf("Parse(Key) of %s: %v, with the key %s", one.Key(), err, again.Key())
		}
		behaviour := ""
		for _, e := range events {
			m := one.Match(e)
			behaviour += map[bool]string{true: "1", false: "0"}[m]
			if two.Match(e) != m || again.Match(e) != m {
				t.Fatalf("filters with the key %s differ on %s", one.Key(), e.JSON())
			}
		}
		if b, ok := behaviours[one.Key()]; !ok {
			behaviours[one.Key()] = behaviour
		} else if texts++; b != behaviour {
			t.Fatalf("two filters have the key %s and behave differently", one.Key())
		}
	}
	if texts == 0 || len(behaviours) < 500 {
		t.Errorf("%d different filters, %d met again: the property was hardly tried", len(behaviours), texts)
	}
}
