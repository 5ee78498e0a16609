package filter

import (
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/schemas"
)

// attributes holds when every attribute that it names is there and its text
// passes: the dialects exact, prefix and suffix.
type attributes struct {
	passes func(value, want string) bool
	tests  []test // by name
	json   string
}

type test struct{ name, want string }

func (a *attributes) key() string { return a.json }

func (a *attributes) match(e *schemas.Event) bool {
	for i := range a.tests {
		attribute, ok := e.Attribute(a.tests[i].name)
		if !ok || !a.passes(attribute.Value, a.tests[i].want) {
			return false
		}
	}
	return true
}

func newAttributes(dialect string, tests []test) *attributes {
	a := &attributes{tests: tests}
	switch dialect {
	case "exact":
		a.passes = func(value, want string) bool { return value == want }
	case "prefix":
		a.passes = strings.HasPrefix
	case "suffix":
		a.passes = strings.HasSuffix
	}
	slices.SortFunc(a.tests, func(s, t test) int { return strings.Compare(s.name, t.name) })
	b := []byte(`{"` + dialect + `":{`)
	for i, t := range a.tests {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, t.name...)
		b = append(b, `":`...)
		b, _ = jsontext.AppendQuote(b, t.want) // valid UTF-8: the decoder saw to it
	}
	a.json = string(append(b, "}}"...))
	return a
}

// decoder reads the JSON of the parameter "filter".
type decoder struct {
	jsontext.Decoder
	limits Limits
	nodes  int
}

// parseDialects reads one filter, or an array of any number.
func parseDialects(text string, l Limits) ([]node, error) {
	if len(text) > l.Text {
		return nil, problemf("The filter has %d bytes; at most %d are allowed. Join tests of one attribute with the SQL operator IN, or subscribe several times.", len(text), l.Text)
	}
	d := &decoder{limits: l}
	d.Reset(strings.NewReader(text))
	var nodes []node
	var err error
	switch d.PeekKind() {
	case '{':
		nodes = make([]node, 1)
		nodes[0], err = d.filter(1)
	case '[':
		nodes, err = d.array(1)
	default:
		if _, err := d.ReadValue(); err != nil {
			return nil, d.syntax(err)
		}
		err = problemf(`A filter is a JSON object such as {"exact":{"type":"com.example.paid"}}, or an array of them.`)
	}
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); err == nil {
		return nil, problemf("There is something after the filter's JSON; to use several filters put them into an array.")
	} else if !errors.Is(err, io.EOF) {
		return nil, d.syntax(err)
	}
	return nodes, nil
}

// filter reads one object with one dialect.
func (d *decoder) filter(depth int) (node, error) {
	if k := d.PeekKind(); k != '{' {
		return nil, d.unexpected(`Each filter is a JSON object with one dialect, such as {"exact":{"type":"com.example.paid"}}.`)
	}
	if depth > d.limits.Depth {
		return nil, problemf("Filters stand within filters more than %d deep; write it flatter, or in SQL.", d.limits.Depth)
	}
	if d.nodes++; d.nodes > d.limits.Nodes {
		return nil, problemf("There are more than %d filters in the filter; join tests of one attribute with the SQL operator IN.", d.limits.Nodes)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, d.syntax(err)
	}
	if d.PeekKind() == '}' {
		return nil, problemf("A filter is empty; name a dialect, one of " + dialectNames + ".")
	}
	dialect, err := d.text()
	if err != nil {
		return nil, err
	}
	var n node
	switch dialect {
	case "exact", "prefix", "suffix":
		n, err = d.attributes(dialect)
	case "all", "any":
		var nodes []node
		if nodes, err = d.array(depth + 1); err != nil {
			return nil, err
		}
		if len(nodes) == 0 {
			return nil, problemf("The array of the dialect %q is empty; put at least one filter into it.", dialect)
		}
		if dialect == "all" {
			n = newAll(nodes)
		} else {
			n = newEither(nodes)
		}
	case "not":
		if n, err = d.filter(depth + 1); err == nil {
			n = not{n}
		}
	case "sql":
		n, err = d.sql()
	default:
		return nil, problemf("The dialect %q is not known; use one of "+dialectNames+".", clip(dialect))
	}
	if err != nil {
		return nil, err
	}
	if d.PeekKind() != '}' {
		if _, err := d.ReadToken(); err != nil {
			return nil, d.syntax(err)
		}
		return nil, problemf("A filter has more than one dialect; give each an object of its own, in an array or in %q.", "all")
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, d.syntax(err)
	}
	return n, nil
}

const dialectNames = "exact, prefix, suffix, all, any, not, sql"

// array reads an array of filters that stand at depth.
func (d *decoder) array(depth int) ([]node, error) {
	if d.PeekKind() != '[' {
		return nil, d.unexpected(`The dialects "all" and "any" take an array of filters.`)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, d.syntax(err)
	}
	nodes := []node{}
	for d.PeekKind() != ']' {
		n, err := d.filter(depth)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, d.syntax(err)
	}
	return nodes, nil
}

// attributes reads the object of attributes and texts.
func (d *decoder) attributes(dialect string) (node, error) {
	if d.PeekKind() != '{' {
		return nil, d.unexpected(`The dialect "` + dialect + `" takes an object of attribute names and texts, such as {"type":"com.example.paid"}.`)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, d.syntax(err)
	}
	var tests []test
	for d.PeekKind() != '}' {
		name, err := d.text()
		if err != nil {
			return nil, err
		}
		if p := checkName(name); p != nil {
			return nil, p
		}
		if d.PeekKind() != '"' {
			p := problemf("The value for the attribute %q in the dialect %q must be a JSON string; write numbers and booleans as one too, such as %q.", name, dialect, "5")
			return nil, d.unexpectedOr(p, name)
		}
		want, err := d.text()
		if err != nil {
			return nil, err
		}
		if want == "" {
			p := problemf("The value for the attribute %q in the dialect %q is empty; give a text, or test with the SQL expression EXISTS %s whether it is there.", name, dialect, name)
			p.Attribute = name
			return nil, p
		}
		tests = append(tests, test{name, want})
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, d.syntax(err)
	}
	if len(tests) == 0 {
		return nil, problemf("The dialect %q has no attribute; name at least one.", dialect)
	}
	return newAttributes(dialect, tests), nil
}

func (d *decoder) sql() (node, error) {
	if d.PeekKind() != '"' {
		return nil, d.unexpected(`The dialect "sql" takes a JSON string, a CloudEvents SQL expression.`)
	}
	text, err := d.text()
	if err != nil {
		return nil, err
	}
	x, err := parseSQL(text, d.limits)
	if err != nil {
		return nil, err
	}
	return x, nil
}

// text reads a string, or the name of a member.
func (d *decoder) text() (string, error) {
	t, err := d.ReadToken()
	if err != nil {
		return "", d.syntax(err)
	}
	return t.String(), nil
}

// unexpected is the error where another kind of value was expected.
func (d *decoder) unexpected(detail string) error {
	return d.unexpectedOr(problemf("%s", detail), "")
}

// unexpectedOr is p for the attribute, unless what comes is no JSON at all.
func (d *decoder) unexpectedOr(p *schemas.Problem, attribute string) error {
	if _, err := d.ReadToken(); err != nil {
		return d.syntax(err)
	}
	p.Attribute = attribute
	return p
}

// syntax puts a fault of the JSON into words.
func (d *decoder) syntax(err error) *schemas.Problem {
	var s *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return problemf("The filter's JSON ends too early; is a bracket or a quote missing, or was the parameter not percent-encoded?")
	case !errors.As(err, &s):
		return problemf("The filter's JSON can't be read.")
	case errors.Is(s.Err, jsontext.ErrDuplicateName):
		return problemf("A member stands twice in one object of the filter's JSON, at byte %d; put the filters into an array.", s.ByteOffset)
	}
	return problemf("The filter is no valid JSON at byte %d; JSON has double quotes, and no comma after the last item.", s.ByteOffset)
}

// checkName checks the name of an attribute (CloudEvents 1.0, "Naming Conventions").
func checkName(name string) *schemas.Problem {
	ok := name != ""
	for i := 0; ok && i < len(name); i++ {
		ok = 'a' <= name[i] && name[i] <= 'z' || '0' <= name[i] && name[i] <= '9'
	}
	switch {
	case !ok:
		p := problemf("%q is no attribute name; names are made of a-z and 0-9.", clip(name))
		p.Attribute = clip(name)
		return p
	case name == "data":
		p := problemf("Filters see an event's attributes, not its data; let the publisher put what is filtered by into an extension attribute.")
		p.Attribute = name
		return p
	}
	return nil
}

func problemf(format string, args ...any) *schemas.Problem {
	return schemas.Problemf("filter", format, args...)
}

// clip keeps a stranger's text short enough for an answer.
func clip(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return strings.ToValidUTF8(s, "")
}
