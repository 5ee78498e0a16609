package config_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/relay"
)

// limitStructs are where the parts keep their bounds.
var limitStructs = []reflect.Type{reflect.TypeFor[gateway.Limits](), reflect.TypeFor[broker.Limits](), reflect.TypeFor[relay.Limits]()}

// Every bound of every part has a key of its own, is printed with its default and
// a line that says what it is, and takes the value that is written.
func TestEveryLimitHasItsKey(t *testing.T) {
	dir := folder(t)
	var printed strings.Builder
	if err := load(t, config.Options{File: write(t, dir, "c.yaml", base)}).Print(&printed); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, part := range limitStructs {
		for i := range part.NumField() {
			f := part.Field(i)
			key := strings.ToLower(f.Name)
			if seen[key] {
				t.Errorf("two limits have the key %s; rename one of the fields", key)
			}
			seen[key] = true
			var line string
			for l := range strings.Lines(printed.String()) {
				if strings.HasPrefix(l, "  "+key+": ") {
					line = l
				}
			}
			value, doc, _ := strings.Cut(strings.TrimPrefix(line, "  "+key+": "), "#")
			if strings.TrimSpace(value) == "" || strings.HasPrefix(value, "0") {
				t.Errorf("limits.%s: config print has the line %q, want a default", key, line)
			}
			if strings.TrimSpace(doc) == "" {
				t.Errorf("limits.%s: write a line about %s.%s into limitDocs", key, part, f.Name)
			}

			// 12,345,678 is enough for every limit and not too much for one.
			text, want := "12345678", int64(12345678)
			if f.Type == reflect.TypeFor[time.Duration]() {
				text, want = "3h", int64(3*time.Hour)
			}
			if key == "maxsubscriptions" {
				text, want = "500", 500
			}
			if f.Type.Kind() == reflect.Bool {
				text, want = "true", 1
			}
			c := load(t, config.Options{File: write(t, dir, "c.yaml", fmt.Sprintf("%slimits: {%s: %s}", base, key, text))})
			for _, v := range []reflect.Value{reflect.ValueOf(c.Limits.Gateway), reflect.ValueOf(c.Broker().Limits)} {
				if v.Type() == part && number(v.Field(i)) != want {
					t.Errorf("limits.%s: %s sets %d, want %d", key, text, number(v.Field(i)), want)
				}
			}
		}
	}
}

func number(v reflect.Value) int64 {
	if v.Kind() == reflect.Bool {
		if v.Bool() {
			return 1
		}
		return 0
	}
	return v.Int()
}
