package publish

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/schemas"
)

// A Path leads to one value within an event: a JSONPath (RFC 9535) of names and
// indexes, such as "$.data.properties.net" or "data.tags[0]". The "$." may be left
// out; names with other characters stand in quotes, as in "$.data['a b']".
type Path struct {
	text  string
	steps []step
}

// A step is a member's name, or an index where name is empty.
type step struct {
	name  string
	index int
}

// ParsePath reads a path.
func ParsePath(text string) (Path, error) {
	p := Path{text: text}
	rest := strings.TrimPrefix(text, "$")
	if rest == text {
		rest = "." + text
	}
	for rest != "" {
		var s step
		var err error
		if s, rest, err = parseStep(rest); err != nil {
			return Path{}, fmt.Errorf("%q is no path such as data.properties.net: %w", text, err)
		}
		p.steps = append(p.steps, s)
	}
	if len(p.steps) == 0 {
		return Path{}, fmt.Errorf("%q leads to the whole event; name a member, such as data.properties.net", text)
	}
	return p, nil
}

func parseStep(s string) (step, string, error) {
	if after, ok := strings.CutPrefix(s, "."); ok {
		end := strings.IndexAny(after, ".[")
		if end < 0 {
			end = len(after)
		}
		if name := after[:end]; name != "" && !strings.ContainsAny(name, `*?()'"]@$ `) {
			return step{name: name}, after[end:], nil
		}
		return step{}, "", fmt.Errorf("a name is missing, or one like it needs quotes: %q", s)
	}
	for _, quote := range []string{"'", `"`} {
		if after, ok := strings.CutPrefix(s, "["+quote); ok {
			name, rest, ok := strings.Cut(after, quote+"]")
			if !ok || name == "" || strings.Contains(name, `\`) {
				return step{}, "", fmt.Errorf("this is no name in quotes: %q", s)
			}
			return step{name: name}, rest, nil
		}
	}
	if after, ok := strings.CutPrefix(s, "["); ok {
		digits, rest, ok := strings.Cut(after, "]")
		n, err := strconv.ParseUint(digits, 10, 31)
		if !ok || err != nil {
			return step{}, "", fmt.Errorf("this is no index: %q", s)
		}
		return step{index: int(n)}, rest, nil
	}
	return step{}, "", fmt.Errorf("expected a dot or a bracket: %q", s)
}

// String is the path as it was given.
func (p Path) String() string { return p.text }

// topic is the topic of an event: the prefix, and the value that the path leads to
// in it, which must be a string, a number or a boolean.
func (p Path) topic(prefix string, event []byte) (string, error) {
	v, ok := p.find(event)
	var value string
	switch {
	case !ok:
		return "", schemas.Problemf("name", "The event has nothing at %s, from which its topic is to be made.", p.text)
	case v.Kind() == '"':
		text, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			return "", schemas.Problemf("event", "The text at %s can't be read.", p.text)
		}
		value = string(text)
	case v.Kind() == '0', v.Kind() == 't', v.Kind() == 'f':
		value = string(v)
	default:
		return "", schemas.Problemf("name", "The value at %s is no text, from which the event's topic is to be made.", p.text)
	}
	topic, err := schemas.ParseTopic(prefix + "/" + value)
	return string(topic), err
}

// find walks down to the value.
func (p Path) find(event []byte) (jsontext.Value, bool) {
	v := jsontext.Value(event)
	for _, s := range p.steps {
		var ok bool
		if v, ok = s.into(v); !ok {
			return nil, false
		}
	}
	return v, true
}

func (s step) into(v jsontext.Value) (jsontext.Value, bool) {
	want := jsontext.Kind('{')
	if s.name == "" {
		want = '['
	}
	d := jsontext.NewDecoder(bytes.NewReader(v))
	if d.PeekKind() != want {
		return nil, false
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, false
	}
	for n := 0; d.PeekKind() != '}' && d.PeekKind() != ']'; n++ {
		found := s.name == "" && n == s.index
		if s.name != "" {
			name, err := d.ReadToken()
			if err != nil {
				return nil, false
			}
			found = name.String() == s.name
		}
		value, err := d.ReadValue()
		if err != nil {
			return nil, false
		}
		if found {
			return bytes.Clone(value), true
		}
	}
	return nil, false
}
