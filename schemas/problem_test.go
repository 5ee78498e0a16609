package schemas_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/outrelay/outrelay/schemas"
)

type problemsFile struct {
	About    string
	Problems []struct {
		source
		Problem string
		Status  int
	}
	Closes []struct {
		source
		Word  string
		Code  int
		Retry schemas.Retry
	}
	Frames []struct {
		source
		Code  int
		Text  string
		Word  string
		Retry schemas.Retry
	}
}

func TestProblemTable(t *testing.T) {
	var names []string
	for _, c := range load[problemsFile](t, "problems.json").Problems {
		names = append(names, c.Problem)
		p := schemas.Problemf(c.Problem, "what to do: %d", 1)
		if p.Status() != c.Status {
			t.Errorf("the status of %q is %d, want %d", c.Problem, p.Status(), c.Status)
		}
		if p.Title() == "" || p.Title() == c.Problem || http.StatusText(c.Status) == "" {
			t.Errorf("the title of %q is %q", c.Problem, p.Title())
		}
		if want := p.Title() + ": what to do: 1"; p.Error() != want {
			t.Errorf("the error text is %q, want %q", p.Error(), want)
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var members map[string]any
		if err := json.Unmarshal(b, &members); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"type": "https://outrelay.dev/problems/" + c.Problem, "title": p.Title(),
			"status": float64(c.Status), "detail": "what to do: 1",
		}
		if fmt.Sprint(members) != fmt.Sprint(want) {
			t.Errorf("the problem details are %v, want %v", members, want)
		}
	}
	slices.Sort(names)
	if got := schemas.ProblemNames(); !slices.Equal(got, names) {
		t.Errorf("the names are %v, and %v in the vectors", got, names)
	}
}

func TestProblemRoundTrip(t *testing.T) {
	p := schemas.Problemf("event", "A <detail> with \"quotes\" and \u20ac.").At(0)
	p.Attribute, p.EventID = "id", "A-17"
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var got schemas.Problem
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Index == nil || *got.Index != 0 {
		t.Fatalf("the index is %v, want 0", got.Index)
	}
	got.Index, p.Index = nil, nil
	if got != *p {
		t.Errorf("read back as %+v, want %+v", got, *p)
	}
}

func TestProblemIs(t *testing.T) {
	p := schemas.Problemf("event", "x")
	wrapped := fmt.Errorf("publish to a/b: %w", p.At(3))
	if !errors.Is(wrapped, schemas.ErrEvent) || errors.Is(wrapped, schemas.ErrName) || errors.Is(wrapped, errors.New("event")) {
		t.Error("a problem is the same error as one of its name, and as no other")
	}
	if p.Index != nil {
		t.Error("At changed the problem itself")
	}
	if want := "event 3: x"; !strings.Contains(wrapped.Error(), want) {
		t.Errorf("the error text is %q, without %q", wrapped, want)
	}
	if got := schemas.ErrEvent.Error(); got != schemas.ErrEvent.Title() {
		t.Errorf("the error text without a detail is %q", got)
	}
}

// A client reads what other servers send as well as it can.
func TestForeignProblems(t *testing.T) {
	for _, tt := range []struct {
		in, name, title, detail, out string
		status                       int
	}{
		{
			`{"type":"https://outrelay.dev/problems/brand-new","title":"Brand new","status":422,"detail":"d","more":[1]}`,
			"brand-new", "Brand new", "d",
			`{"type":"https://outrelay.dev/problems/brand-new","title":"Brand new","status":422,"detail":"d"}`, 422,
		},
		{
			`{"type":"https://example.com/p","title":"T","status":403}`,
			"https://example.com/p", "T", "",
			`{"type":"https://example.com/p","title":"T","status":403}`, 403,
		},
		{`{}`, "about:blank", "about:blank", "", `{"type":"about:blank","title":"about:blank","status":500}`, 500},
		{`{"type":7,"title":["a"],"status":"403","detail":{},"index":"x","attribute":null}`, "about:blank", "about:blank", "", `{"type":"about:blank","title":"about:blank","status":500}`, 500},
		{`{"type":"https://outrelay.dev/problems/event","status":200,"title":"Lies"}`, "event", schemas.ErrEvent.Title(), "", `{"type":"https://outrelay.dev/problems/event","title":"` + schemas.ErrEvent.Title() + `","status":400}`, 400},
		{`{"type":"https://outrelay.dev/problems/"}`, "https://outrelay.dev/problems/", "https://outrelay.dev/problems/", "", `{"type":"https://outrelay.dev/problems/","title":"https://outrelay.dev/problems/","status":500}`, 500},
	} {
		var p schemas.Problem
		if err := json.Unmarshal([]byte(tt.in), &p); err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if p.Name != tt.name || p.Title() != tt.title || p.Detail != tt.detail || p.Status() != tt.status || p.Index != nil {
			t.Errorf("%s is read as %+v, %q, %d", tt.in, p, p.Title(), p.Status())
		}
		if out, err := json.Marshal(&p); err != nil || string(out) != tt.out {
			t.Errorf("%s is written as %s, %v, want %s", tt.in, out, err, tt.out)
		}
	}
	for _, in := range []string{`[]`, `"x"`, `1`, ``, `{"type":`} {
		if err := json.Unmarshal([]byte(in), new(schemas.Problem)); err == nil {
			t.Errorf("%s is read as a problem", in)
		}
	}
}

func TestCloseReasons(t *testing.T) {
	file := load[problemsFile](t, "problems.json")
	var want []schemas.CloseReason
	for _, c := range file.Closes {
		want = append(want, schemas.CloseReason{Word: c.Word, Code: c.Code, Retry: c.Retry})
	}
	if got := schemas.CloseReasons(); !slices.Equal(got, want) {
		t.Errorf("the close reasons are %v, want %v", got, want)
	}
	for _, r := range want {
		for _, detail := range []string{"", "for people", strings.Repeat("\u20ac", 100)} {
			text := r.Text(detail)
			if len(text) > 123 || !utf8.ValidString(text) {
				t.Errorf("the text %q has %d bytes or is not UTF-8", text, len(text))
			}
			if got := schemas.ParseClose(r.Code, text); got != r {
				t.Errorf("ParseClose(%d, %q) = %v, want %v", r.Code, text, got, r)
			}
		}
	}
	for _, c := range file.Frames {
		want := schemas.CloseReason{Word: c.Word, Code: c.Code, Retry: c.Retry}
		if got := schemas.ParseClose(c.Code, c.Text); got != want {
			t.Errorf("ParseClose(%d, %q) = %v, want %v (%s)", c.Code, c.Text, got, want, c.Why)
		}
	}
}
