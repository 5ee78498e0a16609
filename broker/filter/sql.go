package filter

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	cesql "github.com/cloudevents/sdk-go/sql/v2"
	sqlerrors "github.com/cloudevents/sdk-go/sql/v2/errors"
	"github.com/cloudevents/sdk-go/sql/v2/utils"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/schemas"
)

// sql is the dialect of that name. It holds when its expression is the boolean
// true on the event, without an error.
type sql struct {
	root  cesql.Expression
	steps int
	json  string
}

func newSQL(root cesql.Expression, canonical string, steps int) *sql {
	b, _ := jsontext.AppendQuote([]byte(`{"sql":`), canonical) // valid UTF-8: parseSQL saw to it
	return &sql{root, steps, string(append(b, '}'))}
}

func (x *sql) key() string { return x.json }

func (x *sql) match(e *schemas.Event) (passes bool) {
	// The module's part of the evaluation has panicked on odd values before.
	defer func() {
		if recover() != nil {
			passes = false
		}
	}()
	value, err := x.evaluate(e)
	return err == nil && value == true
}

// evaluate returns an int32, a string or a bool, or an error of the module's kinds.
func (x *sql) evaluate(e *schemas.Event) (any, error) {
	return x.root.Evaluate(event.Event{Context: &view{event: e, steps: x.steps}})
}

// view carries an event through the module's expressions to ours. The module's
// event can't hold every attribute as it came (it rewrites time, for one), so no
// part of it is ever asked for one: the embedded interface is nil.
type view struct {
	event.EventContext
	event *schemas.Event
	// steps is the work that is left.
	steps int
}

var errSteps = errors.New("the expression takes too much work on this event")

func viewOf(e event.Event) *view { return e.Context.(*view) }

// spend counts n steps.
func (v *view) spend(n int) error {
	if v.steps -= n; v.steps < 0 {
		return errSteps
	}
	return nil
}

// identifier is the value of an attribute.
type identifier struct {
	name    string
	missing error
}

func newIdentifier(name string) cesql.Expression {
	return identifier{name, sqlerrors.NewMissingAttributeError(name)}
}

func (i identifier) Evaluate(e event.Event) (any, error) {
	v := viewOf(e)
	a, ok := v.event.Attribute(i.name)
	if err := v.spend(len(v.event.Attributes())); err != nil {
		return false, err
	}
	if !ok {
		return false, i.missing
	}
	switch a.Kind {
	case schemas.Integer:
		n, err := strconv.ParseInt(a.Value, 10, 32)
		return int32(n), err
	case schemas.Boolean:
		return a.Value == "true", nil
	}
	return a.Value, nil
}

// exists says whether the event has an attribute.
type exists string

func (x exists) Evaluate(e event.Event) (any, error) {
	v := viewOf(e)
	_, ok := v.event.Attribute(string(x))
	return ok, v.spend(len(v.event.Attributes()))
}

// like matches a text with a pattern.
type like struct {
	left cesql.Expression
	// segments are what stands between the wildcards %, of which there is one
	// fewer than segments.
	segments []segment
}

// A segment is a part of a pattern without %.
type segment struct {
	// text is the segment if it has no wildcard _.
	text string
	// characters is the segment if it has: each character, anyOne for the wildcard.
	characters []rune
}

const anyOne = -1

func newLike(left cesql.Expression, pattern string) cesql.Expression {
	x := like{left: left}
	var characters []rune
	wild := false
	flush := func() {
		if wild {
			x.segments = append(x.segments, segment{characters: characters})
		} else {
			x.segments = append(x.segments, segment{text: string(characters)})
		}
		characters, wild = nil, false
	}
	escaped := false
	for _, c := range pattern {
		switch {
		case escaped && c != '%' && c != '_':
			characters = append(characters, '\\')
			if escaped = c == '\\'; !escaped {
				characters = append(characters, c)
			}
		case escaped:
			characters, escaped = append(characters, c), false
		case c == '\\':
			escaped = true
		case c == '%':
			flush()
		case c == '_':
			characters, wild = append(characters, anyOne), true
		default:
			characters = append(characters, c)
		}
	}
	if escaped {
		characters = append(characters, '\\')
	}
	flush()
	return x
}

func (x like) Evaluate(e event.Event) (any, error) {
	value, err := x.left.Evaluate(e)
	if err != nil {
		return false, err
	}
	if value, err = utils.Cast(value, cesql.StringType); err != nil {
		return false, err
	}
	return x.matches(value.(string), viewOf(e))
}

// matches takes the first place for each segment between two %: a later one can't
// let more of the rest match.
func (x like) matches(text string, v *view) (bool, error) {
	first, rest := x.segments[0], x.segments[1:]
	n := first.at(text)
	if n < 0 {
		return false, nil
	}
	if len(rest) == 0 {
		return n == len(text), nil
	}
	text = text[n:]
	for _, s := range rest[:len(rest)-1] {
		from, err := s.find(text, v)
		if from < 0 || err != nil {
			return false, err
		}
		text = text[from+s.at(text[from:]):]
	}
	last := rest[len(rest)-1]
	if last.characters == nil {
		return strings.HasSuffix(text, last.text), nil
	}
	from := len(text)
	for range last.characters {
		if from == 0 {
			return false, nil
		}
		_, size := utf8.DecodeLastRuneInString(text[:from])
		from -= size
	}
	return last.at(text[from:]) >= 0, nil
}

// at returns the length of the segment at the beginning of text, or -1.
func (s segment) at(text string) int {
	if s.characters == nil {
		if strings.HasPrefix(text, s.text) {
			return len(s.text)
		}
		return -1
	}
	n := 0
	for _, c := range s.characters {
		r, size := utf8.DecodeRuneInString(text[n:])
		if size == 0 || c != anyOne && c != r {
			return -1
		}
		n += size
	}
	return n
}

// find returns where the segment first stands in text, or -1.
func (s segment) find(text string, v *view) (int, error) {
	if s.characters == nil {
		i := strings.Index(text, s.text)
		if i < 0 {
			return i, v.spend(len(text))
		}
		return i, v.spend(i + len(s.text))
	}
	for i := range text {
		if err := v.spend(len(s.characters)); err != nil {
			return -1, err
		}
		if s.at(text[i:]) >= 0 {
			return i, nil
		}
	}
	return -1, nil
}
