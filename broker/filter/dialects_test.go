package filter_test

import (
	"strings"
	"testing"
)

func TestDialects(t *testing.T) {
	e := event(t, paid)
	tests := []struct {
		dialects string
		want     bool
	}{
		{`{"exact":{"type":"com.example.order.paid"}}`, true},
		{`{"exact":{"type":"com.example.order.paid","id":"A-17"}}`, true},
		{`{"exact":{"type":"com.example.order.paid","id":"A-18"}}`, false},
		{`{"exact":{"type":"com.example.order.PAID"}}`, false},
		{`{"exact":{"type":"com.example.order"}}`, false},
		{`{"exact":{"subject":"Z\u00fcrich/Stra\u00dfe"}}`, true},
		{`{"\u0065xact":{"i\u0064":"A-17"}}`, true},
		{`{"prefix":{"type":"com.example."}}`, true},
		{`{"prefix":{"type":"com.example.order.paid"}}`, true},
		{`{"prefix":{"type":"com.example.order.paid."}}`, false},
		{`{"prefix":{"type":"com.","id":"B"}}`, false},
		{`{"suffix":{"type":".paid"}}`, true},
		{`{"suffix":{"type":".PAID"}}`, false},
		{`{"suffix":{"subject":"ße"}}`, true},

		// Every attribute is compared in its canonical text.
		{`{"exact":{"specversion":"1.0"}}`, true},
		{`{"exact":{"amount":"1250"}}`, true},
		{`{"exact":{"amount":"1250.0"}}`, false},
		{`{"exact":{"below":"-3"}}`, true},
		{`{"prefix":{"amount":"12"}}`, true},
		{`{"exact":{"digits":"42"}}`, false},
		{`{"exact":{"paid":"true"}}`, true},
		{`{"exact":{"open":"false"}}`, true},
		{`{"exact":{"yes":"true"}}`, false},
		{`{"exact":{"time":"2026-11-23t10:11:12.500+01:00"}}`, true},
		{`{"exact":{"time":"2026-11-23T09:11:12.5Z"}}`, false},
		{`{"exact":{"source":"/shop/eu?x=%7e"}}`, true},
		{`{"exact":{"source":"/shop/eu?x=~"}}`, false},
		{`{"exact":{"dataschema":"https://example.com/a%2fb"}}`, true},
		{`{"exact":{"datacontenttype":"application/json"}}`, true},

		// An attribute that is not there makes all three false.
		{`{"exact":{"nothing":"x"}}`, false},
		{`{"prefix":{"nothing":"x"}}`, false},
		{`{"suffix":{"nothing":"x"}}`, false},
		{`{"exact":{"relaytopic":"x"}}`, false},
		{`{"not":{"exact":{"nothing":"x"}}}`, true},

		{`{"all":[{"exact":{"id":"A-17"}}]}`, true},
		{`{"all":[{"exact":{"id":"A-17"}},{"prefix":{"type":"com."}}]}`, true},
		{`{"all":[{"exact":{"id":"A-17"}},{"prefix":{"type":"org."}}]}`, false},
		{`{"any":[{"exact":{"id":"A-18"}},{"prefix":{"type":"com."}}]}`, true},
		{`{"any":[{"exact":{"id":"A-18"}},{"prefix":{"type":"org."}}]}`, false},
		{`{"any":[{"exact":{"id":"A-17"}}]}`, true},
		{`{"not":{"exact":{"id":"A-17"}}}`, false},
		{`{"not":{"not":{"exact":{"id":"A-17"}}}}`, true},
		{`{"not":{"any":[{"exact":{"id":"1"}},{"all":[{"exact":{"id":"2"}},{"exact":{"id":"A-17"}}]}]}}`, true},
		{`[{"exact":{"id":"A-17"}},{"prefix":{"type":"com."}}]`, true},
		{`[{"exact":{"id":"A-17"}},{"prefix":{"type":"org."}}]`, false},

		{`{"sql":"id = 'A-17'"}`, true},
		{`{"sql":"id = \"A-17\" AND amount > 1000"}`, true},
		{`{"sql":"nothing = 'A-17'"}`, false},
		{`{"not":{"sql":"nothing = 'A-17'"}}`, true}, // the dialect is false on an error
		{`{"not":{"sql":"amount"}}`, true},           // and on what is no boolean
		{`[{"sql":"id = 'A-17'"},{"not":{"sql":"paid"}}]`, false},
		{" \n{ \"exact\" : { \"id\" : \"A-17\" } } \t", true},
	}
	for _, tt := range tests {
		if got := parse(t, tt.dialects, "").Match(e); got != tt.want {
			t.Errorf("Parse(%s).Match = %v, want %v", tt.dialects, got, tt.want)
		}
	}
}

func TestDialectsRefused(t *testing.T) {
	tests := []struct{ name, dialects, want string }{
		{"blank", " ", "ends too early"},
		{"no JSON", "type=x", "valid JSON"},
		{"single quotes", `{'exact':{}}`, "double quotes"},
		{"cut", `{"exact":{"type":"x"}`, "ends too early"},
		{"text", `"exact"`, "JSON object"},
		{"number", `1`, "JSON object"},
		{"null", `null`, "JSON object"},
		{"null in the array", `[null]`, "JSON object"},
		{"array in the array", `[[{"exact":{"id":"x"}}]]`, "JSON object"},
		{"something after it", `{"exact":{"id":"x"}} {"exact":{"id":"y"}}`, "after"},
		{"a bracket after it", `{"exact":{"id":"x"}}]`, "valid JSON"},
		{"a comma after it", `{"exact":{"id":"x"}},`, "valid JSON"},
		{"a comma in the array", `[{"exact":{"id":"x"}},]`, "valid JSON"},
		{"byte order mark", "\ufeff" + `{"exact":{"id":"x"}}`, "valid JSON"},
		{"bad UTF-8", "{\"exact\":{\"id\":\"\xff\"}}", "valid JSON"},
		{"lone surrogate", `{"exact":{"id":"\ud800"}}`, "valid JSON"},
		{"control character", "{\"exact\":{\"id\":\"\n\"}}", "valid JSON"},
		{"empty object", `{}`, "name a dialect"},
		{"unknown dialect", `{"regex":{"id":"x"}}`, `"regex" is not known`},
		{"long dialect", `{"` + strings.Repeat("x", 4000) + `":1}`, "is not known"},
		{"dialect in upper case", `{"Exact":{"id":"x"}}`, "is not known"},
		{"empty dialect", `{"":{"id":"x"}}`, "is not known"},
		{"unknown dialect within", `{"all":[{"exact":{"id":"x"}},{"not":{"like":{"id":"x"}}}]}`, `"like" is not known`},
		{"two dialects", `{"exact":{"id":"x"},"prefix":{"id":"x"}}`, "more than one dialect"},
		{"two dialects, bad JSON", `{"exact":{"id":"x"},,}`, "valid JSON"},
		{"the same dialect twice", `{"exact":{"id":"x"},"exact":{"id":"y"}}`, "stands twice"},
		{"twice through an escape", `{"exact":{"id":"x","i\u0064":"y"}}`, "stands twice"},
		{"the same attribute twice", `{"exact":{"id":"x","id":"x"}}`, "stands twice"},
		{"no attribute", `{"exact":{}}`, "no attribute"},
		{"attributes as array", `{"exact":["id","x"]}`, "an object of attribute names"},
		{"attributes as text", `{"prefix":"id"}`, "an object of attribute names"},
		{"attributes as null", `{"suffix":null}`, "an object of attribute names"},
		{"empty name", `{"exact":{"":"x"}}`, "attribute name"},
		{"upper-case name", `{"exact":{"Type":"x"}}`, "attribute name"},
		{"name with a dot", `{"exact":{"data.type":"x"}}`, "attribute name"},
		{"name with an underscore", `{"exact":{"data_base64":"x"}}`, "attribute name"},
		{"name beyond ASCII", `{"exact":{"größe":"x"}}`, "attribute name"},
		{"the data", `{"exact":{"data":"x"}}`, "not its data"},
		{"empty value", `{"exact":{"id":""}}`, "is empty"},
		{"empty prefix", `{"prefix":{"id":""}}`, "is empty"},
		{"empty suffix", `{"suffix":{"id":""}}`, "is empty"},
		{"number as value", `{"exact":{"amount":5}}`, "JSON string"},
		{"boolean as value", `{"exact":{"paid":true}}`, "JSON string"},
		{"null as value", `{"exact":{"id":null}}`, "JSON string"},
		{"array as value", `{"exact":{"id":["x","y"]}}`, "JSON string"},
		{"empty all", `{"all":[]}`, "is empty"},
		{"empty any", `{"any":[]}`, "is empty"},
		{"empty all within", `{"not":{"all":[]}}`, "is empty"},
		{"all of an object", `{"all":{"exact":{"id":"x"}}}`, "an array"},
		{"any of a text", `{"any":"x"}`, "an array"},
		{"all of texts", `{"all":["x"]}`, "JSON object"},
		{"not of an array", `{"not":[{"exact":{"id":"x"}}]}`, "JSON object"},
		{"not of nothing", `{"not":{}}`, "name a dialect"},
		{"not of null", `{"not":null}`, "JSON object"},
		{"sql of an object", `{"sql":{"expression":"TRUE"}}`, "JSON string"},
		{"empty sql", `{"sql":""}`, "a value is expected"},
		{"bad sql", `{"sql":"id ="}`, "SQL expression is wrong at character 5"},
		{"cut within", `{"all":[{"exact":{"id":"x"`, "ends too early"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { refused(t, tt.dialects, "", tt.want) })
	}
}
