package filter_test

import (
	"fmt"

	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

func ExampleParse() {
	f, err := filter.Parse(
		`{"any":[{"prefix":{"type":"com.example.order."}},{"exact":{"type":"com.example.refund"}}]}`,
		"amount >= 1000 AND EXISTS subject",
	)
	if err != nil {
		panic(err)
	}
	for _, text := range []string{
		`{"specversion":"1.0","id":"1","source":"/shop","type":"com.example.order.paid","subject":"A-17","amount":1250}`,
		`{"specversion":"1.0","id":"2","source":"/shop","type":"com.example.order.paid","subject":"A-18","amount":20}`,
		`{"specversion":"1.0","id":"3","source":"/shop","type":"com.example.refund","subject":"A-19"}`,
	} {
		e, err := schemas.ParseEvent([]byte(text))
		if err != nil {
			panic(err)
		}
		fmt.Println(e.ID(), f.Match(e))
	}
	// Output:
	// 1 true
	// 2 false
	// 3 false
}

func ExampleParse_refused() {
	_, err := filter.Parse("", "type = 'com.example.paid' AND amount =")
	fmt.Println(err)
	_, err = filter.Parse(`{"regex":{"type":".*"}}`, "")
	fmt.Println(err)
	// Output:
	// The filter can't be used: The SQL expression is wrong at character 39: a value is expected here: an attribute, a text in quotes, a whole number, TRUE, FALSE, a function or a parenthesis.
	// The filter can't be used: The dialect "regex" is not known; use one of exact, prefix, suffix, all, any, not, sql.
}

func ExampleFilter_Key() {
	a, _ := filter.Parse(`[{"exact":{"type":"paid"}},{"prefix":{"source":"/eu"}}]`, "")
	b, _ := filter.Parse(` { "all" : [ {"prefix":{"source":"/eu"}}, {"exact":{"type":"paid"}} ] } `, "")
	fmt.Println(a.Key() == b.Key())
	fmt.Println(a.Key())
	// Output:
	// true
	// {"all":[{"exact":{"type":"paid"}},{"prefix":{"source":"/eu"}}]}
}
