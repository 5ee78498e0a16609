package filter_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/sql/v2/parser"
	sdk "github.com/cloudevents/sdk-go/v2/event"

	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// plain has no attribute that the SDK rewrites.
const plain = `{"specversion":"1.0","id":"A-17","source":"/shop","type":"com.example.order.paid","subject":"aab",` +
	`"a":"5","b":7,"c":true,"d":"x%","e":"","f":"false","g":-3,"h":"com"}`

// canonicalLimits take the key of every filter that the default limits let
// through: it writes escapes its own way, and both parameters in one.
var canonicalLimits = filter.Limits{Text: 1 << 20, Depth: 2 * filter.MaxDepth, Nodes: 2 * filter.MaxNodes, SQL: 1 << 20}

// checkFilter checks what holds for every filter and every error of Parse.
func checkFilter(t *testing.T, f *filter.Filter, err error, events []*schemas.Event) {
	t.Helper()
	if err != nil {
		var p *schemas.Problem
		if f != nil || !errors.As(err, &p) || p.Name != "filter" || p.Detail == "" || len(p.Detail) > 500 || !utf8.ValidString(p.Detail) {
			t.Fatalf("refused with %v, %#v", f, err)
		}
		return
	}
	key := f.Key()
	again, err := canonicalLimits.Parse(key, "")
	if err != nil || again.Key() != key {
		t.Fatalf("Parse(Key) of %q: %v, with the key %q", key, err, again.Key())
	}
	if key != "" && !json.Valid([]byte(key)) {
		t.Fatalf("Key = %q, which is no JSON", key)
	}
	for _, e := range events {
		filter.EvaluateAll(f, e)
		if m := f.Match(e); m != again.Match(e) || m != f.Match(e) {
			t.Fatalf("the filter %s and that of its key differ on %s", key, e.JSON())
		}
	}
}

func FuzzDialects(f *testing.F) {
	for _, seed := range []string{
		`{"exact":{"id":"A-17","type":"x"}}`, `[{"prefix":{"type":"com."}},{"suffix":{"id":"7"}}]`,
		`{"all":[{"any":[{"exact":{"a":"5"}}]},{"not":{"exact":{"b":"7"}}}]}`, `{"sql":"a = 5 AND NOT EXISTS z"}`,
		`{"exact":{"id":"A-17","id":"x"}}`, `{"exact":{"":"x"}}`, `{}`, `[]`, `[[]]`, `{"all":[]}`, `null`, `{"not":[]}`,
		`{"exact":{"id":"\ud800"}}`, `{"sql":"\u0027it\\\u0027s\u0027"}`, `{"a":1}{`, `{"exact":{"id":"\u2028\u0000<"}}`,
		strings.Repeat(`{"not":`, 17), strings.Repeat(`{"all":[`, 17), strings.Repeat("[", 5000),
	} {
		f.Add(seed)
	}
	events := []*schemas.Event{event(f, paid), event(f, plain)}
	f.Fuzz(func(t *testing.T, dialects string) {
		got, err := filter.Parse(dialects, "")
		checkFilter(t, got, err, events)
	})
}

func FuzzSQL(f *testing.F) {
	for _, seed := range []string{
		"a = 5", "NOT (b >= 7 XOR c)", "type LIKE 'com.%\\_' AND subject NOT IN ('a', \"b\")", "- -5 % 3 <> INT(a)",
		"SUBSTRING(type, -3, 2) = LEFT(h, 2)", "CONCAT_WS('-', a, b, c) LIKE '%_7%'", "true AND", "type =", "'x", "(a", "a b",
		"EXISTS a AND FALSE OR TRUE", "b-1 = 6", "'it\\'s' = \"it's\"", "'a''b'", "ıd = 'x'", "data = 1", "\xff", "a\x00",
		"SUBSTRING(type, 1, -5)", "ABS(-2147483648)", "-2147483648 / -1", "((((((((((((((((1))))))))))))))))",
	} {
		f.Add(seed)
	}
	for _, seed := range hostile {
		f.Add(seed[:min(len(seed), 400)])
	}
	events := []*schemas.Event{event(f, paid), event(f, plain)}
	f.Fuzz(func(t *testing.T, expression string) {
		got, err := filter.Parse("", expression)
		checkFilter(t, got, err, events)
		if err == nil && expression != "" {
			checkModule(t, expression, events[1])
		}
	})
}

// checkModule compares an expression's value with the module's own, where it has
// one and the specification and the module agree.
func checkModule(t *testing.T, expression string, e *schemas.Event) (compared bool) {
	t.Helper()
	upper := strings.ToUpper(expression)
	// They differ in the grouping of AND, OR and XOR, in what a backslash and a
	// character are, and in SUBSTRING of a negative length.
	if strings.Contains(upper, "OR") || strings.ContainsAny(expression, `\`) || strings.Contains(upper, "SUBSTRING") ||
		strings.ContainsFunc(expression, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return false
	}
	var other sdk.Event
	if err := json.Unmarshal(e.JSON(), &other); err != nil {
		t.Fatal(err)
	}
	theirs, theirErr, ok := module(expression, other)
	if !ok {
		return false
	}
	ours, err := filter.Evaluate(expression, e)
	if (err == nil) != (theirErr == nil) || err == nil && ours != theirs {
		t.Fatalf("%s = %#v, %v; by the module %#v, %v", expression, ours, err, theirs, theirErr)
	}
	return true
}

// module evaluates by the module alone; ok is false where its parser refuses.
func module(expression string, e sdk.Event) (value any, err error, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	x, err := parser.Parse(expression)
	if err != nil {
		return nil, nil, false
	}
	value, err = x.Evaluate(e)
	return value, err, true
}

// TestModuleAgrees is the comparison of FuzzSQL on expressions that are made to be valid.
func TestModuleAgrees(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := random{rand.New(rand.NewPCG(seed, 2))}
	e := event(t, plain)
	compared := 0
	for range 4000 {
		if checkModule(t, r.expression(1+r.IntN(5)), e) {
			compared++
		}
	}
	if compared < 3000 {
		t.Errorf("%d expressions of 4000 were compared, want most", compared)
	}
}

// expression is a valid SQL expression, in the part of the language that both
// implementations read alike.
func (r random) expression(depth int) string {
	if depth == 0 {
		return r.pick("a", "b", "c", "d", "e", "f", "g", "h", "B", "z", "1", "-5", "0", "7", "TRUE", "false", "'5'", "'x%'", "'true'", `"com"`, "''")
	}
	x := func() string { return r.expression(depth - 1 - r.IntN(depth)) }
	switch r.IntN(9) {
	case 0:
		return "(" + x() + ")"
	case 1:
		return r.pick("NOT ", "not ", "- ") + x()
	case 2:
		return x() + r.pick(" LIKE ", " not like ") + r.pick("'%'", "'5'", "'_'", "'x_'", "'%o%'", "'t%e'")
	case 3:
		return x() + r.pick(" IN (", " NOT IN (") + x() + ", " + x() + ")"
	case 4:
		return x() + r.pick(" * ", " / ", " % ", " + ", " - ") + x()
	case 5, 6:
		return x() + r.pick(" = ", " != ", " <> ", " < ", " <= ", " > ", " >= ") + x()
	case 7:
		return x() + " AND " + x()
	}
	switch r.IntN(4) {
	case 0:
		return fmt.Sprintf("%s(%s)", r.pick("INT", "bool", "STRING", "IS_INT", "is_bool", "ABS", "LOWER", "UPPER", "TRIM", "LENGTH"), x())
	case 1:
		return fmt.Sprintf("%s(%s, %s)", r.pick("LEFT", "RIGHT"), x(), r.pick("0", "1", "2", "9", "b"))
	case 2:
		return fmt.Sprintf("%s(%s, %s)", r.pick("CONCAT", "CONCAT_WS"), x(), x())
	}
	return r.pick("EXISTS a", "exists z", "EXISTS Subject")
}
