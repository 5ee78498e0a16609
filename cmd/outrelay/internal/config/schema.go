package config

import (
	"encoding/json"
	"reflect"
)

// object is a JSON object, its members printed in the order of their names.
type object map[string]any

// Schema is a JSON Schema (2020-12) of the config, for editors and checks. What
// takes more than the text to see, such as whether a file is there, only [Load] knows.
func Schema() []byte {
	root := schemaOf(reflect.ValueOf(defaults(false)).Elem())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "The config of outrelay serve"
	b, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // maps of strings
	}
	return append(b, '\n')
}

// schemaOf describes a value, whose content is the default.
func schemaOf(v reflect.Value) object {
	switch p := v.Addr().Interface().(type) {
	case *Duration:
		return withDefault(object{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(h|m|s|ms|us|ns))+$`}, p.String(), *p == 0)
	case *Size:
		return withDefault(object{"type": []string{"string", "integer"}, "pattern": `^[0-9]+ ?(B|KiB|MiB|GiB|TiB)?$`, "minimum": 0}, p.String(), *p == 0)
	case *count:
		return object{"type": "integer", "minimum": 1, "default": *p}
	case *Limits:
		members := object{}
		for _, l := range p.list() {
			member := schemaOf(reflect.ValueOf(l.scalar()).Elem())
			member["description"] = l.doc
			members[l.key] = member
		}
		return object{"type": []string{"object", "null"}, "properties": members, "additionalProperties": false}
	case *TLS:
		return object{"oneOf": []object{{"const": "off"}, structure(v)}}
	}
	switch v.Kind() {
	case reflect.String:
		return withDefault(object{"type": "string"}, v.String(), v.String() == "")
	case reflect.Int:
		return withDefault(object{"type": "integer"}, v.Int(), v.Int() == 0)
	case reflect.Bool:
		return object{"type": "boolean", "default": v.Bool()}
	case reflect.Slice:
		return object{"type": []string{"array", "null"}, "items": schemaOf(fresh(v.Type().Elem()))}
	case reflect.Map:
		return object{"type": []string{"object", "null"}, "additionalProperties": schemaOf(fresh(v.Type().Elem().Elem()))}
	case reflect.Pointer:
		return schemaOf(fresh(v.Type().Elem()))
	}
	return structure(v)
}

// fresh is a value of the type with its defaults.
func fresh(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	if p, ok := v.Interface().(interface{ setDefaults() }); ok {
		p.setDefaults()
	}
	return v.Elem()
}

func withDefault(o object, value any, none bool) object {
	if !none {
		o["default"] = value
	}
	return o
}

func structure(v reflect.Value) object {
	members := object{}
	var required []string
	for _, f := range fieldsOf(v.Type()) {
		member := schemaOf(v.FieldByIndex(f.index))
		member["description"] = f.doc
		if len(f.enum) > 0 {
			at := member
			if items, ok := member["items"].(object); ok {
				at = items
			}
			at["enum"] = f.enum
		}
		if f.required {
			required = append(required, f.key)
		}
		members[f.key] = member
	}
	o := object{"type": "object", "properties": members, "additionalProperties": false}
	if required != nil {
		o["required"] = required
	}
	return o
}
