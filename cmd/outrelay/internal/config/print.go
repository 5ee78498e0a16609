package config

import (
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Print writes the config as YAML that [Load] reads, with every key and the value
// that holds. Secrets are in files, so only their paths are there.
func (c *Config) Print(w io.Writer) error {
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(nodeOf(reflect.ValueOf(c).Elem())); err != nil {
		return err
	}
	return e.Close()
}

// nodeOf makes a node of a value.
func nodeOf(v reflect.Value) *yaml.Node {
	if v.CanAddr() {
		switch p := v.Addr().Interface().(type) {
		case scalar:
			return word(p.String(), yaml.ScalarNode, 0)
		case *Limits:
			m := &yaml.Node{Kind: yaml.MappingNode}
			for _, l := range p.list() {
				value := word(l.scalar().String(), yaml.ScalarNode, 0)
				value.LineComment = l.doc
				m.Content = append(m.Content, word(l.key, yaml.ScalarNode, 0), value)
			}
			return m
		case *TLS:
			if p.Off {
				return word("off", yaml.ScalarNode, 0)
			}
		}
	}
	switch v.Kind() {
	case reflect.String:
		n := &yaml.Node{}
		n.SetString(v.String())
		if v.String() == "" {
			n.Style = yaml.DoubleQuotedStyle
		}
		return n
	case reflect.Int:
		return word(strconv.FormatInt(v.Int(), 10), yaml.ScalarNode, 0)
	case reflect.Bool:
		return word(strconv.FormatBool(v.Bool()), yaml.ScalarNode, 0)
	case reflect.Slice:
		list := &yaml.Node{Kind: yaml.SequenceNode}
		if v.Len() == 0 || v.Index(0).Kind() == reflect.String {
			list.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			list.Content = append(list.Content, nodeOf(v.Index(i)))
		}
		return list
	case reflect.Map:
		m := &yaml.Node{Kind: yaml.MappingNode}
		names := v.Interface().(map[string]*Namespace)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			m.Content = append(m.Content, nodeOf(reflect.ValueOf(name)), nodeOf(reflect.ValueOf(names[name]).Elem()))
		}
		if len(names) == 0 {
			m.Style = yaml.FlowStyle
		}
		return m
	case reflect.Struct:
		m := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range fieldsOf(v.Type()) {
			value := v.FieldByIndex(f.index)
			if unwritten(f.key, value) {
				continue
			}
			m.Content = append(m.Content, word(f.key, yaml.ScalarNode, 0), nodeOf(value))
		}
		return m
	}
	panic(fmt.Sprintf("config: no way to print %s", v.Type()))
}

// unwritten says whether a key has no value that stands for its absence, so that
// it is left out.
func unwritten(key string, v reflect.Value) bool {
	switch x := v.Interface().(type) {
	case TLS:
		return x == TLS{}
	case *ACME:
		return x == nil
	case Duration:
		return key == "maxage" && x == 0 // of topics that are not stored
	case []string:
		return key == "algorithms" && len(x) == 0
	}
	return false
}

func word(s string, kind yaml.Kind, style yaml.Style) *yaml.Node {
	return &yaml.Node{Kind: kind, Value: s, Style: style}
}
