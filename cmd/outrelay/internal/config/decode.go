package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A scalar is a value of one word.
type scalar interface {
	parse(string) error
	String() string
}

// A decoder reads YAML into the structs of this package and keeps where each value
// stood.
type decoder struct {
	file   string // as it was named, for faults
	dir    string // what paths of files are relative to
	at     map[string]*yaml.Node
	silent map[string]bool // paths whose faults are consequences of another
	faults Faults
}

func newDecoder(file string) decoder {
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil { // there is no working folder any more
		dir = filepath.Dir(file)
	}
	return decoder{file: file, dir: dir, at: map[string]*yaml.Node{}, silent: map[string]bool{}}
}

// fault adds a mistake at a path of the config. Only the first one at a path, or
// at what it is in, is kept: the others would be its consequences.
func (d *decoder) fault(path, format string, args ...any) {
	for at := path; ; {
		if d.silent[at] {
			return
		}
		end := strings.LastIndexAny(at, ".[")
		if end < 0 {
			break
		}
		at = at[:end]
	}
	d.silent[path] = true
	d.faults = append(d.faults, Fault{d.file, d.line(path), path, fmt.Sprintf(format, args...)})
}

// line is where a path stands, or what it is in.
func (d *decoder) line(path string) int {
	for {
		if n, ok := d.at[path]; ok {
			return n.Line
		}
		end := strings.LastIndexAny(path, ".[")
		if end < 0 {
			return 1
		}
		path = path[:end]
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// value reads n into v.
func (d *decoder) value(path string, n *yaml.Node, v reflect.Value) {
	d.at[path] = n
	if n.Kind == yaml.AliasNode {
		line := n.Line
		n = n.Alias
		copied := *n
		copied.Line = line // where the mistake is to be mended
		d.at[path] = &copied
	}
	null := n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
	switch p := v.Addr().Interface().(type) {
	case scalar:
		if text, ok := d.word(path, n); ok {
			if err := p.parse(text); err != nil {
				d.fault(path, "%v", err)
			}
		}
		return
	case *TLS:
		if n.Kind == yaml.ScalarNode && !null {
			if n.Value != "off" {
				d.fault(path, "%q is not what tls may be; write {cert: FILE, key: FILE}, or off", n.Value)
			}
			p.Off = n.Value == "off"
			return
		}
	case *Limits:
		d.limits(path, n, null, p)
		return
	}
	switch v.Kind() {
	case reflect.String:
		if text, ok := d.word(path, n); ok {
			v.SetString(text)
		}
	case reflect.Int:
		if text, ok := d.word(path, n); ok {
			i, err := strconv.Atoi(text)
			if err != nil {
				d.fault(path, "%q is no whole number", text)
			}
			v.SetInt(int64(i))
		}
	case reflect.Bool:
		if text, ok := d.word(path, n); ok {
			if text != "true" && text != "false" {
				d.fault(path, "%q is neither true nor false; write one of them", text)
			}
			v.SetBool(text == "true")
		}
	case reflect.Slice:
		d.list(path, n, null, v)
	case reflect.Map:
		d.names(path, n, null, v)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(path, n, v.Elem())
	case reflect.Struct:
		if !null && d.mapping(path, n) {
			d.structure(path, n, v)
		}
	default:
		panic("config: no way to read " + v.Type().String())
	}
}

// word is the text of a value that is one word.
func (d *decoder) word(path string, n *yaml.Node) (string, bool) {
	switch {
	case n.Kind == yaml.SequenceNode:
		d.fault(path, "this is a list; write one value")
	case n.Kind == yaml.MappingNode:
		d.fault(path, "this is a map with keys; write one value")
	case n.ShortTag() == "!!null":
		d.fault(path, "the value is missing; write one (\"\" for none), or remove the line for the default")
	default:
		return n.Value, true
	}
	return "", false
}

func (d *decoder) mapping(path string, n *yaml.Node) bool {
	switch n.Kind {
	case yaml.MappingNode:
		return true
	case yaml.SequenceNode:
		d.fault(path, "this is a list; write keys with values")
	default:
		d.fault(path, "%q is one value; write keys with values", n.Value)
	}
	return false
}

func (d *decoder) list(path string, n *yaml.Node, null bool, v reflect.Value) {
	v.Set(reflect.MakeSlice(v.Type(), 0, len(n.Content)))
	switch {
	case null:
		return
	case n.Kind == yaml.ScalarNode:
		d.fault(path, "this is one value; write a list: [%q]", n.Value)
		return
	case n.Kind != yaml.SequenceNode:
		d.fault(path, "this is a map with keys; write a list: a line for each, beginning with \"- \"")
		return
	}
	for i, item := range n.Content {
		e := reflect.New(v.Type().Elem())
		if p, ok := e.Interface().(interface{ setDefaults() }); ok {
			p.setDefaults()
		}
		at := fmt.Sprintf("%s[%d]", path, i)
		d.value(at, item, e.Elem())
		if item.ShortTag() == "!!null" {
			d.fault(at, "the entry is empty; write it, or remove its \"-\"")
		}
		v.Set(reflect.Append(v, e.Elem()))
	}
}

// names reads a map whose keys are the user's.
func (d *decoder) names(path string, n *yaml.Node, null bool, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	if null || !d.mapping(path, n) {
		return
	}
	d.keys(path, n, func(name string, _, value *yaml.Node) {
		e := reflect.New(v.Type().Elem().Elem())
		if p, ok := e.Interface().(interface{ setDefaults() }); ok {
			p.setDefaults()
		}
		d.value(join(path, name), value, e.Elem())
		v.SetMapIndex(reflect.ValueOf(name), e)
	})
}

// keys calls f for each key of a mapping, once each.
func (d *decoder) keys(path string, n *yaml.Node, f func(name string, key, value *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch before, twice := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			d.faults = append(d.faults, Fault{d.file, key.Line, path, "a key must be one word"})
		case key.ShortTag() == "!!merge":
			d.faults = append(d.faults, Fault{d.file, key.Line, path, "<< is not read; write the keys out"})
		case twice:
			d.faults = append(d.faults, Fault{d.file, key.Line, join(path, key.Value),
				fmt.Sprintf("the key is there twice, first in line %d; remove one of them", before)})
		default:
			seen[key.Value] = key.Line
			f(key.Value, key, value)
		}
	}
}

// A field is a key of a struct.
type field struct {
	key, doc               string
	enum                   []string
	required, file, reload bool
	index                  []int
	of                     reflect.Type
}

// fieldsOf lists the keys of a struct, inlined structs' too, in their order.
func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		key, tagged := f.Tag.Lookup("key")
		switch {
		case !tagged:
		case key == ",inline":
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				all = append(all, inner)
			}
		default:
			all = append(all, field{
				key: key, doc: f.Tag.Get("doc"), enum: strings.Fields(f.Tag.Get("enum")),
				required: f.Tag.Get("required") != "", file: f.Tag.Get("file") != "",
				reload: f.Tag.Get("reload") != "", index: []int{i}, of: f.Type,
			})
		}
	}
	return all
}

func (d *decoder) structure(path string, n *yaml.Node, v reflect.Value) {
	fields := fieldsOf(v.Type())
	var known []string
	for _, f := range fields {
		known = append(known, f.key)
	}
	d.keys(path, n, func(name string, key, value *yaml.Node) {
		i := slices.Index(known, name)
		if i < 0 {
			if meant := d.unknown(path, key, known); meant != "" {
				d.silent[join(path, meant)] = true
			}
			return
		}
		f := fields[i]
		target := v.FieldByIndex(f.index)
		d.value(join(path, name), value, target)
		if len(f.enum) > 0 {
			d.words(join(path, name), target, f.enum)
		}
		if f.file && target.String() != "" && !filepath.IsAbs(target.String()) {
			target.SetString(filepath.Join(d.dir, target.String()))
		}
	})
	for _, f := range fields {
		if at := join(path, f.key); f.required && d.at[at] == nil {
			d.fault(at, "%s is missing; write it: %s", f.key, f.doc)
		}
	}
}

// words checks a value, or each of a list, against the words that it may be.
func (d *decoder) words(path string, v reflect.Value, words []string) {
	if v.Kind() == reflect.Slice {
		for i := range v.Len() {
			d.words(fmt.Sprintf("%s[%d]", path, i), v.Index(i), words)
		}
		return
	}
	if !slices.Contains(words, v.String()) {
		d.fault(path, "%q is not what it may be; write %s", v.String(), oneOf(words))
	}
}

// oneOf is "a, b or c".
func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func (d *decoder) limits(path string, n *yaml.Node, null bool, l *Limits) {
	if null || !d.mapping(path, n) {
		return
	}
	all := l.list()
	var known []string
	for _, limit := range all {
		known = append(known, limit.key)
	}
	d.keys(path, n, func(name string, key, value *yaml.Node) {
		i := slices.Index(known, name)
		if i < 0 {
			d.unknown(path, key, known)
			return
		}
		at := join(path, name)
		d.at[at] = value
		if text, ok := d.word(at, value); ok {
			if err := all[i].set(text); err != nil {
				d.fault(at, "%v", err)
			}
		}
	})
}

// unknown adds the fault of a key that is not known here, and returns the one that
// was probably meant, "" if none is near.
func (d *decoder) unknown(path string, key *yaml.Node, known []string) string {
	text := fmt.Sprintf("there is no key %q here", key.Value)
	word, near := nearest(key.Value, known)
	places := placesOf(key.Value)
	switch {
	case near:
		text += "; did you mean " + word + "?"
	case len(places) == 0:
		text += fmt.Sprintf("; the nearest is %s. Keys here: %s", word, strings.Join(known, ", "))
		word = ""
	default:
		word = ""
	}
	if len(places) > 0 {
		text += fmt.Sprintf("; %s stands under %s", key.Value, oneOf(places))
	}
	d.faults = append(d.faults, Fault{d.file, key.Line, join(path, key.Value), text})
	return word
}

// placesOf names the keys under which the config has the key.
func placesOf(key string) []string {
	var places []string
	var walk func(path string, t reflect.Type)
	walk = func(path string, t reflect.Type) {
		for t.Kind() == reflect.Slice || t.Kind() == reflect.Map || t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return
		}
		if t == reflect.TypeFor[Limits]() {
			if limitDocs[key] != "" {
				places = append(places, path)
			}
			return
		}
		for _, f := range fieldsOf(t) {
			switch {
			case f.key == key && path == "":
				places = append(places, "the top, without indent")
			case f.key == key:
				places = append(places, path)
			}
			if f.key != "namespaces" { // the same once more
				walk(join(path, f.key), f.of)
			}
		}
	}
	walk("", reflect.TypeFor[Config]())
	return places
}
