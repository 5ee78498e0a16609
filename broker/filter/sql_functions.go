package filter

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	cesql "github.com/cloudevents/sdk-go/sql/v2"
	sqlerrors "github.com/cloudevents/sdk-go/sql/v2/errors"
	"github.com/cloudevents/sdk-go/sql/v2/function"
	"github.com/cloudevents/sdk-go/sql/v2/utils"
	"github.com/cloudevents/sdk-go/v2/event"
)

// functions are the functions of CESQL 1.0, section 3.5, with what each name is
// overloaded with. Those that count characters, which the module does in bytes,
// and those that join texts are ours.
var functions = map[string][]cesql.Function{
	"INT":     {function.IntFunction},
	"BOOL":    {function.BoolFunction},
	"STRING":  {function.StringFunction},
	"IS_INT":  {function.IsIntFunction},
	"IS_BOOL": {function.IsBoolFunction},
	"ABS":     {function.AbsFunction},
	"LOWER":   {function.LowerFunction},
	"UPPER":   {function.UpperFunction},
	"TRIM":    {function.TrimFunction},

	"LENGTH":    {characters("LENGTH", cesql.IntegerType, length)},
	"LEFT":      {characters("LEFT", cesql.StringType, left, cesql.IntegerType)},
	"RIGHT":     {characters("RIGHT", cesql.StringType, right, cesql.IntegerType)},
	"SUBSTRING": {characters("SUBSTRING", cesql.StringType, substring, cesql.IntegerType), characters("SUBSTRING", cesql.StringType, substring, cesql.IntegerType, cesql.IntegerType)},
	"CONCAT":    {function.NewFunction("CONCAT", nil, cesql.TypePtr(cesql.StringType), cesql.StringType, concat)},
	"CONCAT_WS": {function.NewFunction("CONCAT_WS", []cesql.Type{cesql.StringType}, cesql.TypePtr(cesql.StringType), cesql.StringType, concatWith)},
}

var functionNames = strings.Join(slices.Sorted(maps.Keys(functions)), ", ")

// call is a function with its arguments.
type call struct {
	function  cesql.Function
	arguments []cesql.Expression
}

func (c call) Evaluate(e event.Event) (any, error) {
	v := viewOf(e)
	values := make([]any, len(c.arguments))
	for i, x := range c.arguments {
		value, err := x.Evaluate(e)
		if err != nil {
			return nil, err
		}
		if values[i], err = utils.Cast(value, *c.function.ArgType(i)); err != nil {
			return nil, err
		}
		if text, ok := values[i].(string); ok {
			if err := v.spend(len(text)); err != nil {
				return nil, err
			}
		}
	}
	return c.function.Run(e, values)
}

// characters makes a function of a text and of integers.
func characters(name string, returns cesql.Type, f func(text string, n []int) (any, error), more ...cesql.Type) cesql.Function {
	return function.NewFunction(name, append([]cesql.Type{cesql.StringType}, more...), nil, returns, func(_ event.Event, values []any) (any, error) {
		n := make([]int, len(more))
		for i := range n {
			n[i] = int(values[i+1].(int32))
		}
		return f(values[0].(string), n)
	})
}

func length(text string, _ []int) (any, error) {
	return int32(utf8.RuneCountInString(text)), nil
}

var (
	errNegative = sqlerrors.NewFunctionEvaluationError(errors.New("the number of characters is negative"))
	errPosition = sqlerrors.NewFunctionEvaluationError(errors.New("the position lies outside the text"))
)

func left(text string, n []int) (any, error) {
	if n[0] < 0 {
		return text, errNegative
	}
	return text[:offset(text, n[0])], nil
}

func right(text string, n []int) (any, error) {
	if n[0] < 0 {
		return text, errNegative
	}
	return text[offset(text, utf8.RuneCountInString(text)-n[0]):], nil
}

// substring takes the position, from 1 or from the end if negative, and perhaps
// the number of characters.
func substring(text string, n []int) (any, error) {
	position, count := n[0], utf8.RuneCountInString(text)
	switch {
	case position < -count || position > count:
		return "", errPosition
	case len(n) > 1 && n[1] < 0:
		return "", errNegative
	case position == 0:
		return "", nil
	case position < 0:
		position += count + 1
	}
	text = text[offset(text, position-1):]
	if len(n) > 1 {
		text = text[:offset(text, n[1])]
	}
	return text, nil
}

// offset is the byte where the character n begins, counted from 0; those outside
// the text begin at its ends.
func offset(text string, n int) int {
	if n <= 0 {
		return 0
	}
	for i := range text {
		if n == 0 {
			return i
		}
		n--
	}
	return len(text)
}

func concat(e event.Event, values []any) (any, error) { return join(e, values, "") }

func concatWith(e event.Event, values []any) (any, error) {
	return join(e, values[1:], values[0].(string))
}

func join(e event.Event, values []any, delimiter string) (any, error) {
	if err := viewOf(e).spend(len(values) * len(delimiter)); err != nil {
		return "", err
	}
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.(string)
	}
	return strings.Join(texts, delimiter), nil
}
