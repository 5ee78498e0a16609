package filter

import (
	"strconv"
	"strings"
	"unicode/utf8"

	cesql "github.com/cloudevents/sdk-go/sql/v2"
	"github.com/cloudevents/sdk-go/sql/v2/expression"
)

// parseSQL compiles a CloudEvents SQL expression (CESQL 1.0).
func parseSQL(text string, l Limits) (*sql, error) {
	switch {
	case len(text) > l.SQL:
		return nil, problemf("The SQL expression has %d bytes; at most %d are allowed. Subscribe several times, each with a part of it.", len(text), l.SQL)
	case !utf8.ValidString(text):
		return nil, problemf("The SQL expression is no valid UTF-8.")
	}
	tokens, err := scan(text)
	if err != nil {
		return nil, err
	}
	p := &parser{text: text, tokens: tokens, limit: l.Depth}
	root, err := p.expression(lowest)
	if err != nil {
		return nil, err
	}
	if t := p.next(); t.kind != end {
		return nil, p.wrong(t, "an operator or the end is expected here")
	}
	return newSQL(root, strings.Join(p.canonical, " "), l.Steps), nil
}

// precedence of the operators between and after values (CESQL 1.0, section 3.6).
// NOT, - and EXISTS, which stand before one, bind tighter than all of them but
// parentheses and calls.
const (
	lowest = iota
	logic
	comparison
	sum
	product
	membership
	pattern
)

type operator struct {
	precedence int
	make       func(left, right cesql.Expression) cesql.Expression // nil for LIKE and IN
}

var operators = map[string]operator{
	"AND":  {logic, expression.NewAndExpression},
	"OR":   {logic, expression.NewOrExpression},
	"XOR":  {logic, expression.NewXorExpression},
	"=":    {comparison, expression.NewEqualExpression},
	"!=":   {comparison, expression.NewNotEqualExpression},
	"<>":   {comparison, expression.NewNotEqualExpression},
	"<":    {comparison, expression.NewLessExpression},
	"<=":   {comparison, expression.NewLessOrEqualExpression},
	">":    {comparison, expression.NewGreaterExpression},
	">=":   {comparison, expression.NewGreaterOrEqualExpression},
	"+":    {sum, expression.NewSumExpression},
	"-":    {sum, expression.NewDifferenceExpression},
	"*":    {product, expression.NewMultiplicationExpression},
	"/":    {product, expression.NewDivisionExpression},
	"%":    {product, expression.NewModuleExpression},
	"IN":   {precedence: membership},
	"LIKE": {precedence: pattern},
}

// parser climbs precedences over the tokens. Its recursion is as deep as limit
// allows and no deeper.
type parser struct {
	text         string
	tokens       []token
	i            int
	depth, limit int
	// canonical are the tokens taken, in the form that equal expressions share.
	canonical []string
}

func (p *parser) peek() token { return p.tokens[p.i] }

func (p *parser) next() token {
	t := p.tokens[p.i]
	if t.kind != end {
		p.i++
	}
	return t
}

// take takes the next token if it is the symbol or keyword s.
func (p *parser) take(s string) bool {
	if t := p.peek(); t.kind != symbol || t.text != s {
		return false
	}
	p.i++
	p.canonical = append(p.canonical, s)
	return true
}

func (p *parser) need(s string) error {
	if !p.take(s) {
		return p.wrong(p.peek(), "%q is missing here", s)
	}
	return nil
}

func (p *parser) wrong(t token, format string, args ...any) error {
	return wrong(p.text, t.at, format, args...)
}

// down enters what the limit of depth counts; the caller leaves it with p.depth--.
func (p *parser) down(t token) error {
	if p.depth++; p.depth > p.limit {
		return p.wrong(t, "parentheses, calls, lists, NOT and - stand within one another more than %d deep; write it flatter", p.limit)
	}
	return nil
}

// expression reads a value and the operators after it that bind tighter than outer.
func (p *parser) expression(outer int) (cesql.Expression, error) {
	left, err := p.value()
	if err != nil {
		return nil, err
	}
	for {
		t := p.peek()
		if t.kind != symbol {
			return left, nil
		}
		negated := t.text == "NOT"
		if negated {
			t = p.tokens[p.i+1]
			if t.kind != symbol || t.text != "IN" && t.text != "LIKE" {
				return nil, p.wrong(t, "after a value NOT goes with LIKE or IN; an operator is expected here")
			}
		}
		o, ok := operators[t.text]
		if !ok || o.precedence <= outer {
			return left, nil
		}
		if negated {
			p.take("NOT")
		}
		p.take(t.text)
		switch t.text {
		case "LIKE":
			left, err = p.like(left)
		case "IN":
			left, err = p.in(left, t)
		default:
			var right cesql.Expression
			if right, err = p.expression(o.precedence); err == nil {
				left = o.make(left, right)
			}
		}
		if err != nil {
			return nil, err
		}
		if negated {
			left = expression.NewNotExpression(left)
		}
	}
}

// value reads what an operator takes.
func (p *parser) value() (cesql.Expression, error) {
	t := p.next()
	switch t.kind {
	case digits:
		return p.integer(t, "")
	case literal:
		return expression.NewLiteralExpression(p.quoted(t)), nil
	case word:
		if p.peek().kind == symbol && p.peek().text == "(" {
			return p.call(t)
		}
		name, err := p.attribute(t)
		if err != nil {
			return nil, err
		}
		return newIdentifier(name), nil
	case symbol:
		if next := p.peek(); (t.text == "-" || t.text == "+") && next.kind == digits && next.at == t.to {
			p.next()
			return p.integer(next, t.text)
		}
		switch t.text {
		case "TRUE", "FALSE":
			p.canonical = append(p.canonical, t.text)
			return expression.NewLiteralExpression(t.text == "TRUE"), nil
		case "NOT":
			return p.unary(t, expression.NewNotExpression)
		case "-":
			return p.unary(t, expression.NewNegateExpression)
		case "EXISTS":
			p.canonical = append(p.canonical, t.text)
			name, err := p.attribute(p.next())
			if err != nil {
				return nil, err
			}
			return exists(name), nil
		case "(":
			p.canonical = append(p.canonical, t.text)
			if err := p.down(t); err != nil {
				return nil, err
			}
			x, err := p.expression(lowest)
			if err != nil {
				return nil, err
			}
			p.depth--
			return x, p.need(")")
		}
	}
	return nil, p.wrong(t, "a value is expected here: an attribute, a text in quotes, a whole number, TRUE, FALSE, a function or a parenthesis")
}

func (p *parser) unary(t token, operator func(cesql.Expression) cesql.Expression) (cesql.Expression, error) {
	p.canonical = append(p.canonical, t.text)
	if err := p.down(t); err != nil {
		return nil, err
	}
	x, err := p.value()
	if err != nil {
		return nil, err
	}
	p.depth--
	return operator(x), nil
}

func (p *parser) integer(t token, sign string) (cesql.Expression, error) {
	n, err := strconv.ParseInt(sign+t.text, 10, 32)
	if err != nil {
		return nil, p.wrong(t, "the number is outside the Integers, which go from -2147483648 to 2147483647")
	}
	p.canonical = append(p.canonical, strconv.FormatInt(n, 10))
	return expression.NewLiteralExpression(int32(n)), nil
}

// quoted is the value of a literal. Only one that holds no quote of either kind
// has a canonical form other than itself: others may not be writable with the
// other quote.
func (p *parser) quoted(t token) string {
	value := unquote(t.text)
	text := t.text
	if !strings.ContainsAny(value, `'"`) {
		text = "'" + value + "'"
	}
	p.canonical = append(p.canonical, text)
	return value
}

// attribute is the name of an attribute, folded to lower case.
func (p *parser) attribute(t token) (string, error) {
	name := strings.ToLower(t.text)
	switch {
	case t.kind != word:
		return "", p.wrong(t, "the name of an attribute is expected here")
	case strings.Contains(name, "_"):
		return "", p.wrong(t, "names of attributes are made of letters and digits, and a function is followed by a parenthesis")
	}
	if problem := checkName(name); problem != nil {
		return "", problem
	}
	p.canonical = append(p.canonical, name)
	return name, nil
}

func (p *parser) call(t token) (cesql.Expression, error) {
	name := strings.ToUpper(t.text)
	overloads, ok := functions[name]
	if !ok {
		return nil, p.wrong(t, "the function is not known; there are %s", functionNames)
	}
	p.canonical = append(p.canonical, name)
	p.take("(")
	if err := p.down(t); err != nil {
		return nil, err
	}
	var arguments []cesql.Expression
	if !p.take(")") {
		var err error
		if arguments, err = p.list(); err != nil {
			return nil, err
		}
	}
	p.depth--
	for _, f := range overloads {
		if len(arguments) == f.Arity() || len(arguments) > f.Arity() && f.IsVariadic() {
			return call{f, arguments}, nil
		}
	}
	return nil, p.wrong(t, "the function %s does not take %d values", name, len(arguments))
}

func (p *parser) in(left cesql.Expression, t token) (cesql.Expression, error) {
	if err := p.need("("); err != nil {
		return nil, err
	}
	if err := p.down(t); err != nil {
		return nil, err
	}
	set, err := p.list()
	if err != nil {
		return nil, err
	}
	p.depth--
	return expression.NewInExpression(left, set), nil
}

// list reads expressions with commas between them, and the parenthesis after them.
func (p *parser) list() ([]cesql.Expression, error) {
	var list []cesql.Expression
	for {
		x, err := p.expression(lowest)
		if err != nil {
			return nil, err
		}
		list = append(list, x)
		if !p.take(",") {
			return list, p.need(")")
		}
	}
}

func (p *parser) like(left cesql.Expression) (cesql.Expression, error) {
	t := p.next()
	if t.kind != literal {
		return nil, p.wrong(t, "LIKE takes a pattern in quotes, such as 'com.example.%%'")
	}
	return newLike(left, p.quoted(t)), nil
}
