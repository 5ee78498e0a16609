package schemas_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/schemas"
)

// The types here are the format of vectors/*.json, which vectors/README.md explains.

// A text is a string, or pieces of which some are repeated.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	var pieces []json.RawMessage
	if b[0] != '[' {
		return json.Unmarshal(b, (*string)(t))
	}
	if err := json.Unmarshal(b, &pieces); err != nil {
		return err
	}
	var out strings.Builder
	for _, p := range pieces {
		piece := struct {
			Repeat string
			Times  int
		}{Times: 1}
		var err error
		if p[0] == '"' {
			err = json.Unmarshal(p, &piece.Repeat)
		} else {
			err = json.Unmarshal(p, &piece)
		}
		if err != nil {
			return err
		}
		out.WriteString(strings.Repeat(piece.Repeat, piece.Times))
	}
	*t = text(out.String())
	return nil
}

// A source says which rule a case is about, and why it has its outcome.
type source struct {
	Name string `json:"name"`
	Spec string `json:"spec"`
	Why  string `json:"why"`
}

func (s source) origin() source { return s }

// An input is the body and the headers of a message.
type input struct {
	Mode       string    `json:"mode"`
	Headers    [][2]text `json:"headers"`
	Body       text      `json:"body"`
	BodyBase64 []byte    `json:"bodybase64"`
}

// body is the caller's.
func (in input) body() []byte {
	if in.BodyBase64 != nil {
		return bytes.Clone(in.BodyBase64)
	}
	return []byte(in.Body)
}

func (in input) header() http.Header {
	h := http.Header{}
	for _, pair := range in.Headers {
		h.Add(string(pair[0]), string(pair[1]))
	}
	return h
}

// An outcome is the canonical form of an event, or the problem.
type outcome struct {
	Event   text            `json:"event"`
	Problem *wantProblem    `json:"problem"`
	Payload json.RawMessage `json:"payload"`
	Bytes   []byte          `json:"payloadbase64"`
}

type wantProblem struct {
	Name      string `json:"name"`
	Attribute string `json:"attribute"`
	Index     *int   `json:"index"`
}

type eventCase struct {
	source
	input
	outcome
}

type batchCase struct {
	source
	input
	Events  []text       `json:"events"`
	Count   int          `json:"count"`
	Problem *wantProblem `json:"problem"`
}

type twinCase struct {
	source
	Event    text    `json:"event"`
	Messages []input `json:"messages"`
}

type apartCase struct {
	source
	Messages []struct {
		input
		outcome
	} `json:"messages"`
}

// load reads a file of vectors strictly into v, a pointer to a struct of groups.
func load[T any](t testing.TB, name string) T {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	var v T
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("vectors/%s: %v", name, err)
	}
	return v
}

// each runs f for the cases of a group, and fails if there are none or one does
// not say what it is for.
func each[C interface{ origin() source }](t *testing.T, cases []C, f func(t *testing.T, c C)) {
	t.Helper()
	if len(cases) == 0 {
		t.Fatal("the group has no cases; this test reads it wrongly")
	}
	for i, c := range cases {
		s := c.origin()
		if s.Spec == "" || s.Why == "" {
			t.Errorf("case %d, %q, names no specification or no reason", i, s.Name)
		}
		name := s.Name
		if name == "" {
			name = fmt.Sprint(i)
		}
		t.Run(name, func(t *testing.T) { f(t, c) })
	}
}

type structuredFile struct {
	About string
	Cases []eventCase
}

type batchFile struct {
	About string
	Cases []batchCase
}

type twinsFile struct {
	About string
	Twins []twinCase
	Apart []apartCase
}

// short keeps a failure's text readable.
func short[T ~string | ~[]byte](b T) string {
	const most = 400
	if len(b) <= most {
		return string(b)
	}
	return fmt.Sprintf("%s ...%d bytes... %s", b[:most/2], len(b)-most, b[len(b)-most/2:])
}

// asProblem is the problem that err is.
func asProblem(t *testing.T, err error) *schemas.Problem {
	t.Helper()
	var p *schemas.Problem
	if !errors.As(err, &p) {
		t.Fatalf("the error %v (%T) is no problem", err, err)
	}
	if p.Detail == "" {
		t.Errorf("the problem %q says nothing", p.Name)
	}
	return p
}

// checkProblem compares a refusal with what is wanted; a nil index is not compared.
func checkProblem(t *testing.T, err error, want *wantProblem) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want the problem %q", want.Name)
	}
	p := asProblem(t, err)
	if p.Name != want.Name || p.Attribute != want.Attribute {
		t.Errorf("problem %q of attribute %q (%s), want %q of %q", p.Name, p.Attribute, p.Detail, want.Name, want.Attribute)
	}
	if want.Index != nil && (p.Index == nil || *p.Index != *want.Index) {
		t.Errorf("index %v, want %d (%s)", p.Index, *want.Index, p.Detail)
	}
}
