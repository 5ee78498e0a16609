package config_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
)

// node is what a schema says about one value.
type node struct {
	Type                 any              `json:"type"`
	Description          string           `json:"description"`
	Properties           map[string]*node `json:"properties"`
	AdditionalProperties json.RawMessage  `json:"additionalProperties"`
	Items                *node            `json:"items"`
	OneOf                []*node          `json:"oneOf"`
	Const                string           `json:"const"`
	Enum                 []string         `json:"enum"`
	Required             []string         `json:"required"`
}

func (n *node) allows(kind string) bool {
	switch x := n.Type.(type) {
	case string:
		return x == kind
	case []any:
		return slices.Contains(x, any(kind))
	}
	return false
}

// takes says why the schema does not take a value; "" if it does.
func (n *node) takes(path string, v any) string {
	if n.OneOf != nil {
		var whys []string
		for _, one := range n.OneOf {
			why := one.takes(path, v)
			if why == "" {
				return ""
			}
			whys = append(whys, why)
		}
		return strings.Join(whys, "; ")
	}
	if n.Const != "" {
		if v != n.Const {
			return path + " is not " + n.Const
		}
		return ""
	}
	kind := map[reflect.Kind]string{
		reflect.String: "string", reflect.Int: "integer", reflect.Bool: "boolean", reflect.Slice: "array", reflect.Map: "object",
	}[reflect.ValueOf(v).Kind()]
	if !n.allows(kind) {
		return path + " may not be " + kind
	}
	switch v := v.(type) {
	case string:
		if n.Enum != nil && !slices.Contains(n.Enum, v) {
			return path + " may not be " + v
		}
	case []any:
		for _, item := range v {
			if why := n.Items.takes(path+"[]", item); why != "" {
				return why
			}
		}
	case map[string]any:
		for _, key := range n.Required {
			if _, ok := v[key]; !ok {
				return path + "." + key + " is missing"
			}
		}
		for key, item := range v {
			member := n.Properties[key]
			if member == nil {
				if err := json.Unmarshal(n.AdditionalProperties, &member); err != nil {
					return path + "." + key + " is unknown"
				}
			}
			if why := member.takes(path+"."+key, item); why != "" {
				return why
			}
		}
	}
	return ""
}

// The schema takes what Load takes, knows every key that config print prints, and
// says a word about each.
func TestSchemaKnowsEveryKey(t *testing.T) {
	var schema node
	if err := json.Unmarshal(config.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	dir := folder(t)
	for name, text := range map[string]string{"whole": whole, "least": base} {
		var printed strings.Builder
		if err := load(t, config.Options{File: write(t, dir, "c.yaml", text)}).Print(&printed); err != nil {
			t.Fatal(err)
		}
		for what, text := range map[string]string{"as written": text, "as printed": printed.String()} {
			var v map[string]any
			if err := yaml.Unmarshal([]byte(text), &v); err != nil {
				t.Fatal(err)
			}
			if why := schema.takes("", v); why != "" {
				t.Errorf("%s, %s: the schema refuses it: %s", name, what, why)
			}
		}
	}
	for _, bad := range []string{"orgins: []", "log: {storage: disk}", "keys: [{name: a}]", "topics: {}", "tls: on", "limits: {max: 1}"} {
		var v map[string]any
		if err := yaml.Unmarshal([]byte(bad), &v); err != nil {
			t.Fatal(err)
		}
		if schema.takes("", v) == "" {
			t.Errorf("the schema takes %s", bad)
		}
	}
	var described func(path string, n *node)
	described = func(path string, n *node) {
		if n == nil {
			return
		}
		for key, member := range n.Properties {
			if member.Description == "" {
				t.Errorf("%s.%s has no description", path, key)
			}
			described(path+"."+key, member)
		}
		described(path+"[]", n.Items)
		for _, one := range n.OneOf {
			described(path, one)
		}
	}
	described("", &schema)
}
