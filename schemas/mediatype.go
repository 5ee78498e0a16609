package schemas

import "strings"

// A mediaType is what is needed of one: type and subtype, and the parameter
// charset, in lower case. The zero value is none.
type mediaType struct {
	kind, subtype, charset string
}

// parseMediaType checks s against the grammar of RFC 2046, with the blanks and
// empty parameters that RFC 9110 section 5.6.6 takes around a semicolon. There is
// nothing around it and nothing outside ASCII in it.
func parseMediaType(s string) (mediaType, bool) {
	if s == "application/json" { // as most are
		return mediaType{kind: "application", subtype: "json"}, true
	}
	end := strings.IndexAny(s, "; \t")
	if end < 0 {
		end = len(s)
	}
	kind, subtype, _ := strings.Cut(strings.ToLower(s[:end]), "/")
	if !token(kind) || !token(subtype) {
		return mediaType{}, false
	}
	m := mediaType{kind: kind, subtype: subtype}
	for rest := s[end:]; rest != ""; {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" || rest[0] != ';' {
			return mediaType{}, false
		}
		rest = strings.TrimLeft(rest[1:], " \t")
		if rest == "" && s[len(s)-1] == ';' || rest != "" && rest[0] == ';' {
			continue
		}
		name, after, _ := strings.Cut(rest, "=")
		if !token(name) {
			return mediaType{}, false
		}
		value, behind, ok := parameterValue(after)
		if !ok {
			return mediaType{}, false
		}
		if strings.EqualFold(name, "charset") {
			m.charset = strings.ToLower(value)
		}
		rest = behind
	}
	return m, true
}

// parameterValue reads a token or a quoted string at the start of s.
func parameterValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, "; \t")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:], token(s[:end])
	}
	var out []byte
	for i := 1; i < len(s) && s[i] < 0x80; i++ {
		switch c := s[i]; {
		case c == '"':
			return string(out), s[i+1:], true
		case c == '\\' && i+1 < len(s) && s[i+1] < 0x80:
			i++
			out = append(out, s[i])
		default:
			out = append(out, c)
		}
	}
	return "", "", false
}

func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// json says whether the type is */json or */*+json (JSON event format 1.0.2,
// section 3.1).
func (m mediaType) json() bool {
	return m.subtype == "json" || strings.HasSuffix(m.subtype, "+json")
}

// text says whether the type's bytes are text in UTF-8: text/* and XML, in no
// other character set.
func (m mediaType) text() bool {
	switch m.charset {
	case "", "utf-8", "utf8", "us-ascii":
	default:
		return false
	}
	return m.kind == "text" || m.kind == "application" && m.subtype == "xml" || strings.HasSuffix(m.subtype, "+xml")
}
