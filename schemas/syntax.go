package schemas

import (
	"errors"
	"net/netip"
	"strings"
	"time"
)

// validURIReference says whether s is a URI-reference, or with absolute a URI
// that has a scheme, by the grammar of RFC 3986.
func validURIReference(s string, absolute bool) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) || unhex(s[i+1]) > 15 || unhex(s[i+2]) > 15 {
				return false
			}
			i += 2
		case !uriByte(c):
			return false
		}
	}
	s, fragment, _ := strings.Cut(s, "#")
	s, query, _ := strings.Cut(s, "?")
	if strings.ContainsAny(fragment, "#[]") || strings.ContainsAny(query, "[]") {
		return false
	}
	scheme, rest, colon := strings.Cut(s, ":")
	if colon && !strings.Contains(scheme, "/") {
		if !validScheme(scheme) {
			return false // neither a scheme nor a first segment, which may hold no colon
		}
		s = rest
	} else if absolute {
		return false
	}
	if authority, ok := strings.CutPrefix(s, "//"); ok {
		authority, path, slash := strings.Cut(authority, "/")
		if !validAuthority(authority) {
			return false
		}
		s = ""
		if slash {
			s = "/" + path
		}
	}
	return !strings.ContainsAny(s, "[]")
}

func uriByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("-._~:/?#[]@!$&'()*+,;=", c) >= 0
}

func validScheme(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || !('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.')) {
			return false
		}
	}
	return s != ""
}

func validAuthority(s string) bool {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		if strings.ContainsAny(s[:i], "@[]") {
			return false
		}
		s = s[i+1:]
	}
	port := ""
	if literal, ok := strings.CutPrefix(s, "["); ok {
		host, after, closed := strings.Cut(literal, "]")
		if !closed || !validLiteral(host) || after != "" && after[0] != ':' {
			return false
		}
		port = strings.TrimPrefix(after, ":")
	} else {
		host, p, _ := strings.Cut(s, ":")
		if strings.ContainsAny(host, "[]") {
			return false
		}
		port = p
	}
	return strings.Trim(port, "0123456789") == ""
}

func validLiteral(host string) bool {
	if len(host) > 0 && (host[0] == 'v' || host[0] == 'V') {
		version, rest, dot := strings.Cut(host[1:], ".")
		return dot && version != "" && rest != "" && strings.Trim(version, "0123456789abcdefABCDEF") == "" &&
			!strings.ContainsAny(rest, "/?#[]@%")
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Is6() && a.Zone() == ""
}

var errTimestamp = errors.New("no RFC 3339 timestamp")

// ParseTimestamp reads an RFC 3339 timestamp: any offset, a fraction of any
// length, lower-case t and z, and the leap second, which counts as the next one.
func ParseTimestamp(s string) (time.Time, error) {
	number := func(from, to int) (n int) {
		if to > len(s) {
			return -1
		}
		for _, c := range []byte(s[from:to]) {
			if c < '0' || c > '9' {
				return -1
			}
			n = n*10 + int(c-'0')
		}
		return n
	}
	if len(s) < len("2006-01-02T15:04:05Z") || s[4] != '-' || s[7] != '-' || s[10]|0x20 != 't' || s[13] != ':' || s[16] != ':' {
		return time.Time{}, errTimestamp
	}
	year, month, day := number(0, 4), number(5, 7), number(8, 10)
	hour, minute, second := number(11, 13), number(14, 16), number(17, 19)
	if year < 0 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) ||
		hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60 {
		return time.Time{}, errTimestamp
	}
	i, nanos := 19, 0
	if s[i] == '.' {
		i++
		start, unit := i, 100_000_000
		for ; i < len(s) && '0' <= s[i] && s[i] <= '9'; i++ {
			nanos += int(s[i]-'0') * unit
			unit /= 10
		}
		if i == start {
			return time.Time{}, errTimestamp
		}
	}
	offset := 0
	switch rest := s[i:]; {
	case len(rest) == 1 && rest[0]|0x20 == 'z':
	case len(rest) == 6 && (rest[0] == '+' || rest[0] == '-') && rest[3] == ':':
		h, m := number(i+1, i+3), number(i+4, i+6)
		if h < 0 || h > 23 || m < 0 || m > 59 {
			return time.Time{}, errTimestamp
		}
		offset = h*3600 + m*60
		if rest[0] == '-' {
			offset = -offset
		}
	default:
		return time.Time{}, errTimestamp
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)
	return t.Add(-time.Duration(offset) * time.Second), nil
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// parseMediaType checks s against RFC 9110 section 8.3.1 and returns type/subtype
// in lower case and the value of charset in lower case.
func parseMediaType(s string) (media, charset string, ok bool) {
	rest := strings.Trim(s, " \t")
	end := strings.IndexAny(rest, "; \t")
	if end < 0 {
		end = len(rest)
	}
	media, rest = strings.ToLower(rest[:end]), rest[end:]
	kind, subtype, slash := strings.Cut(media, "/")
	if !slash || !token(kind) || !token(subtype) {
		return "", "", false
	}
	for {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			return media, charset, true
		}
		if rest[0] != ';' {
			return "", "", false
		}
		rest = strings.TrimLeft(rest[1:], " \t")
		if rest == "" || rest[0] == ';' {
			continue
		}
		name, after, equals := strings.Cut(rest, "=")
		if !equals || !token(name) {
			return "", "", false
		}
		var value string
		if value, rest, ok = parameterValue(after); !ok {
			return "", "", false
		}
		if strings.EqualFold(name, "charset") {
			charset = strings.ToLower(value)
		}
	}
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
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return string(out), s[i+1:], true
		case c == '\\' && i+1 < len(s):
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

// jsonMediaType says whether the type is */json or */*+json (JSON event format,
// section 3.1).
func jsonMediaType(s string) bool {
	media, _, ok := parseMediaType(s)
	_, subtype, _ := strings.Cut(media, "/")
	return ok && (subtype == "json" || strings.HasSuffix(subtype, "+json"))
}

// textMediaType says whether the type's bytes are text in UTF-8: text/* and XML,
// in no other character set.
func textMediaType(s string) bool {
	media, charset, ok := parseMediaType(s)
	if !ok || charset != "" && charset != "utf-8" && charset != "utf8" && charset != "us-ascii" {
		return false
	}
	return strings.HasPrefix(media, "text/") || media == "application/xml" || strings.HasSuffix(media, "+xml")
}
