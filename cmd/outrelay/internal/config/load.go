package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/outrelay/outrelay/broker"
)

// maxFile is the longest config file in bytes.
const maxFile = 1 << 20

// Options say what to load.
type Options struct {
	// File is the config file; "" for the defaults alone.
	File string
	// Dev makes the config that of outrelay serve --dev.
	Dev bool
	// HTTPS, HTTP, Admin and Data are flags, which win over the file; nil where
	// they are not given. Data is relative to the working folder.
	HTTPS, HTTP, Admin, Data *string
}

// Load reads and checks a config, and the files that it names. The error is of type
// [Faults] and has all mistakes.
func Load(o Options) (*Config, error) {
	c := defaults(o.Dev)
	l := &loader{
		decoder: newDecoder(o.File), Config: c,
		flags: map[string]bool{}, prefix: map[string]string{},
	}
	if o.File != "" {
		document := l.parse()
		if len(l.faults) > 0 {
			return nil, l.faults
		}
		if document != nil {
			l.value("", document, reflect.ValueOf(c).Elem())
		}
	}
	for _, flag := range []struct {
		key   string
		given *string
		to    *string
	}{
		{"https", o.HTTPS, &c.HTTPS}, {"http", o.HTTP, &c.HTTP}, {"admin", o.Admin, &c.Admin}, {"data", o.Data, &c.Data},
	} {
		if flag.given != nil {
			*flag.to = *flag.given
			l.flags[flag.key] = true
		}
	}
	l.settle()
	l.check()
	if len(l.faults) > 0 {
		l.faults.sort()
		return nil, l.faults
	}
	return c, nil
}

// A loader is a config that is being loaded.
type loader struct {
	decoder
	*Config
	flags  map[string]bool   // keys that a flag gave
	prefix map[string]string // of the paths of a namespace's keys
}

// fault adds a mistake to those of the file, or of the command line.
func (l *loader) fault(path, format string, args ...any) {
	if l.flags[path] {
		l.faults = append(l.faults, Fault{Path: "--" + path, Text: fmt.Sprintf(format, args...)})
		return
	}
	if l.file == "" { // a default, which no line holds
		l.faults = append(l.faults, Fault{Path: path, Text: fmt.Sprintf(format, args...)})
		return
	}
	l.decoder.fault(path, format, args...)
}

// parse reads the file; nil if there is nothing in it, or nothing that can be read.
func (l *loader) parse() *yaml.Node {
	f, err := os.Open(l.file)
	if err != nil {
		l.faults = append(l.faults, Fault{File: l.file, Text: fileFault(err)})
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		l.faults = append(l.faults, Fault{File: l.file, Text: fileFault(err)})
		return nil
	case len(text) > maxFile:
		l.faults = append(l.faults, Fault{File: l.file, Text: "the file is longer than 1 MiB; it is hardly a config"})
		return nil
	}
	documents := yaml.NewDecoder(bytes.NewReader(text))
	var first, second yaml.Node
	if err := documents.Decode(&first); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		l.faults = append(l.faults, l.syntax(err, text))
		return nil
	}
	switch err := documents.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		l.faults = append(l.faults, l.syntax(err, text))
	default:
		l.faults = append(l.faults, Fault{File: l.file, Line: second.Line, Text: "a second document begins here; write all in one, without ---"})
	}
	root := first.Content[0]
	if root.Kind != yaml.MappingNode && root.ShortTag() != "!!null" {
		l.faults = append(l.faults, Fault{File: l.file, Line: root.Line, Text: "this is no config; write keys with values, such as https: \":443\""})
	}
	return root
}

// fileFault is why a file can't be read, and what to do.
func fileFault(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such file; write the path of one that is there"
	case errors.Is(err, fs.ErrPermission):
		return "the file may not be read by this user; change its owner or mode"
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return "the file can't be read: " + err.Error()
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntax is the fault of text that is no YAML. Its parser knows the line, not the
// cause; those that we have met are told in words.
func (l *loader) syntax(err error, text []byte) Fault {
	f := Fault{File: l.file, Line: 1, Text: err.Error()}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		f.Line, _ = strconv.Atoi(m[1])
		f.Line = max(f.Line, 1)
		f.Text = m[2]
	}
	var here string
	if lines := strings.Split(string(text), "\n"); f.Line <= len(lines) {
		here = lines[f.Line-1]
	}
	switch {
	case strings.Contains(f.Text, "did not find expected alphabetic"):
		f.Text = "a * or & begins a word here; write it in quotes, such as \"**\""
	case strings.Contains(f.Text, "cannot start any token") && strings.Contains(here, "\t"):
		f.Text = "there is a tab here; indent with blanks"
	case strings.Contains(f.Text, "mapping values are not allowed"):
		f.Text = "a key with a value can't stand here; check the indent, and write a value that holds \": \" in quotes"
	default:
		f.Text += "; check the indent, brackets and quotes here and in the line before"
	}
	return f
}

// settle brings what was read into its place.
func (l *loader) settle() {
	data, err := filepath.Abs(l.Data)
	if err != nil {
		l.fault("data", "%v", err)
	}
	l.Data = data
	if ns, ok := l.Namespaces[broker.DefaultNamespace]; ok {
		l.prefix[broker.DefaultNamespace] = "namespaces." + broker.DefaultNamespace + "."
		for _, f := range fieldsOf(reflect.TypeFor[Namespace]()) {
			if l.at[f.key] != nil {
				l.fault(f.key, "namespace default stands at the top and under namespaces.default; write it in one place")
			}
		}
		l.Namespace = *ns
		delete(l.Namespaces, broker.DefaultNamespace)
	}
	for name := range l.Namespaces {
		l.prefix[name] = "namespaces." + name + "."
	}
	for _, ns := range l.All() {
		for i := range ns.Topics {
			if r := &ns.Topics[i]; r.Stored && r.MaxAge == 0 {
				r.MaxAge = ns.Retention.MaxAge
			}
		}
	}
}
