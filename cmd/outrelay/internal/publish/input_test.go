package publish

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/schemas"
)

// values reads all and shows each value with its line.
func values(in io.Reader) ([]string, error) {
	r := newReader(in)
	var got []string
	for {
		it, err := r.next()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		kind := ""
		if it.array {
			kind = "array "
		}
		got = append(got, fmt.Sprintf("%d %s%s", it.line, kind, it.raw))
	}
}

func TestReaderSplitsItsInput(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string
	}{
		{"nothing", "", nil},
		{"blanks", " \r\n\t\n", nil},
		{"one", `{"a":1}`, []string{`1 {"a":1}`}},
		{"lines", "{\"a\":1}\n{\"b\":2}\r\n\n{\"c\":3}", []string{`1 {"a":1}`, `2 {"b":2}`, `4 {"c":3}`}},
		{"no lines", `{"a":1} {"b":2}{"c":3}`, []string{`1 {"a":1}`, `1 {"b":2}`, `1 {"c":3}`}},
		{"one over several lines", "\n{\n \"a\": {\n}}\n{}", []string{"2 {\n \"a\": {\n}}", "5 {}"}},
		{"array", "[{\"a\":1},\n{\"b\":\"]\"}]\n", []string{"1 array [{\"a\":1},\n{\"b\":\"]\"}]"}},
		{"braces in a text", `{"a":"}{\"}\\"}{}`, []string{`1 {"a":"}{\"}\\"}`, `1 {}`}},
		{"no JSON", "hello {}\n{}", []string{"1 hello {}", "2 {}"}},
		{"cut short", "{}\n{\"a\":", []string{"1 {}", "2 {\"a\":"}},
		{"a text without an end", "{\"a\":\"b}\n{\"c\":1}\n", []string{`1 {"a":"b}`, `2 {"c":1}`}},
		{"too many ends", "}}\n{}", []string{"1 }}", "2 {}"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for how, in := range map[string]io.Reader{
				"at once":      strings.NewReader(tt.in),
				"byte by byte": iotest.OneByteReader(strings.NewReader(tt.in)),
			} {
				got, err := values(in)
				if err != nil || !slices.Equal(got, tt.want) {
					t.Errorf("%s: values(%q) = %q, %v; want %q", how, tt.in, got, err, tt.want)
				}
			}
		})
	}
}

// endless never ends, and counts what is read of it.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
		if e.read == 0 {
			p[i] = '{'
		}
		e.read++
	}
	return len(p), nil
}

func TestReaderIsBounded(t *testing.T) {
	in := &endless{}
	_, err := values(in)
	var line *lineError
	if !errors.As(err, &line) || line.line != 1 || !errors.Is(err, schemas.ErrTooLarge) {
		t.Errorf("error %v, want the problem too-large of line 1", err)
	}
	if in.read > schemas.MaxBatch+2*bufferSize {
		t.Errorf("%d bytes were read of a value without an end", in.read)
	}
	want := errors.New("the disk is gone")
	if _, err := values(io.MultiReader(strings.NewReader(`{"a"`), iotest.ErrReader(want))); !errors.Is(err, want) {
		t.Errorf("error %v, want that of the input", err)
	}
}

func TestElementsKnowTheirLines(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{"[]", nil},
		{"[\n]", nil},
		{"[1]", []string{"3 1"}},
		{"[\n{\"a\":[1,2]},\n\n {\"b\":\"],\\\"\"} ,3\n]", []string{`4 {"a":[1,2]}`, `6 {"b":"],\""}`, "6 3"}},
		{"[{},", []string{"3 [{},"}},
		{"[1}", []string{"3 [1}"}},
	} {
		var got []string
		for _, e := range (item{raw: []byte(tt.in), line: 3, array: true}).elements() {
			got = append(got, fmt.Sprintf("%d %s", e.line, e.raw))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("elements of %q = %q, want %q", tt.in, got, tt.want)
		}
	}
}

// However values are put together, they come apart the same; and nothing but blanks
// is lost of any input.
func FuzzReader(f *testing.F) {
	f.Add(`{"a":"}"}`, `[1,"]"]`)
	f.Add("{\n}", `{"a":{"b":[{}]}}`)
	f.Add("x y", `"`)
	f.Fuzz(func(t *testing.T, a, b string) {
		compact := strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "").Replace
		in := a + "\n" + b
		r := newReader(strings.NewReader(in))
		var all []byte
		var got []string
		for {
			it, err := r.next()
			if err != nil {
				break
			}
			all = append(all, it.raw...)
			got = append(got, string(it.raw))
		}
		if compact(string(all)) != compact(in) {
			t.Errorf("read %q of %q", all, in)
		}
		whole := func(s string) bool {
			v := jsontext.Value(s)
			return v.IsValid() && (v.Kind() == '{' || v.Kind() == '[')
		}
		if whole(a) && whole(b) && !slices.Equal(got, []string{strings.Trim(a, " \t\r\n"), strings.Trim(b, " \t\r\n")}) {
			t.Errorf("read %q of %q and %q", got, a, b)
		}
	})
}
