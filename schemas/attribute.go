package schemas

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Kind is the type of an attribute's value, as far as it is known: a value
// that came in a header is a String whatever it was meant to be.
type Kind uint8

// The kinds that JSON tells apart.
const (
	String Kind = iota
	Integer
	Boolean
)

// An Attribute is a context attribute in its canonical text.
type Attribute struct {
	Name, Value string
	Kind        Kind
}

// A rank is an attribute's place in the JSON form.
type rank uint8

const (
	rankSpecVersion rank = iota
	rankID
	rankSource
	rankType // the last one that is required
	rankSubject
	rankTime
	rankContentType
	rankSchema // the last one of the specification
	rankExtension
)

// coreNames are the names of the specification's own attributes by rank.
var coreNames = [rankExtension]string{
	"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema",
}

func rankOf(name []byte) rank {
	switch string(name) {
	case "specversion":
		return rankSpecVersion
	case "id":
		return rankID
	case "source":
		return rankSource
	case "type":
		return rankType
	case "subject":
		return rankSubject
	case "time":
		return rankTime
	case "datacontenttype":
		return rankContentType
	case "dataschema":
		return rankSchema
	}
	return rankExtension
}

// brokers says whether the attribute is the broker's own to set.
func brokers(name []byte) bool {
	return len(name) > len("relay") && string(name[:len("relay")]) == "relay" &&
		(string(name) == AttributeTopic || string(name) == AttributeCursor ||
			strings.HasPrefix(string(name), AttributeDeadPrefix))
}

// fault is a problem of one attribute. What of the stranger's text is in it is kept
// short: a name may be of any length.
func fault(attribute, format string, args ...any) *Problem {
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = clip(s)
		}
	}
	p := Problemf("event", format, args...)
	p.Attribute = clip(attribute)
	return p
}

// checkName checks the name of an attribute (CloudEvents 1.0.2, "Naming
// Conventions"). It may be of any length.
func checkName(name []byte) *Problem {
	ok := len(name) > 0 && string(name) != "data"
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
	}
	if ok {
		return nil
	}
	return fault(clip(string(name)), "The attribute name %q is not allowed; names are made of a-z and 0-9, and not \"data\".", clip(string(name)))
}

// clip keeps a stranger's text short enough for an answer.
func clip(s string) string {
	if len(s) <= 64 {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.ToValidUTF8(s[:64], "") + "..."
}

// check checks the value of an attribute whose name is good. Of a common one the
// characters are.
func (a *Attribute) check(r rank, common bool) *Problem {
	if r < rankExtension {
		if a.Kind != String {
			return fault(a.Name, "The attribute %q must be a string.", a.Name)
		}
		if a.Value == "" {
			return fault(a.Name, "The attribute %q must not be empty.", a.Name)
		}
	}
	if a.Kind == String && !common {
		if p := a.checkText(); p != nil {
			return p
		}
	}
	switch r {
	case rankSpecVersion:
		if a.Value != SpecVersion {
			return fault(a.Name, "The specversion %q is not known; only %q is taken.", clip(a.Value), SpecVersion)
		}
	case rankSource:
		if !validURIReference(a.Value, false) {
			return fault(a.Name, "The source %q is no URI-reference (RFC 3986); percent-encode what is not allowed in one.", clip(a.Value))
		}
	case rankSchema:
		if !validURIReference(a.Value, true) {
			return fault(a.Name, "The dataschema %q is no absolute URI (RFC 3986).", clip(a.Value))
		}
	case rankContentType:
		if _, ok := parseMediaType(a.Value); !ok {
			return fault(a.Name, "The datacontenttype %q is no media type, such as application/json.", clip(a.Value))
		}
	case rankTime:
		return a.checkTimestamp()
	case rankExtension:
		if a.Name == "expirytime" {
			return a.checkTimestamp()
		}
	}
	return nil
}

func (a *Attribute) checkTimestamp() *Problem {
	if _, err := ParseTimestamp(a.Value); err != nil || a.Kind != String {
		return fault(a.Name, "The attribute %q is no RFC 3339 timestamp, such as 2026-01-31T12:00:00Z.", a.Name)
	}
	return nil
}

// checkText checks the characters of a String (CloudEvents 1.0.2, "Type System").
func (a *Attribute) checkText() *Problem {
	for i := 0; i < len(a.Value); {
		if c := a.Value[i]; c >= 0x20 && c < 0x7F {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(a.Value[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return fault(a.Name, "The attribute %q is not UTF-8.", a.Name)
		case r < 0x20 || r >= 0x7F && r <= 0x9F || r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE:
			return fault(a.Name, "The attribute %q has the character U+%04X, which is not allowed in one.", a.Name, r)
		}
		i += n
	}
	return nil
}

// validInteger says whether a JSON number is one of the type Integer.
func validInteger(number []byte) bool {
	_, err := strconv.ParseInt(string(number), 10, 32)
	return err == nil
}
