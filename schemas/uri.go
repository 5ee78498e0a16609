package schemas

import (
	"net/netip"
	"strings"
)

// validURIReference says whether s is a URI-reference, or with absolute a URI,
// which has a scheme, by the grammar of RFC 3986. A URI may have a fragment.
func validURIReference(s string, absolute bool) bool {
	path := !absolute && !strings.HasPrefix(s, "//") // and nothing else, so far
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ':' || c == '?' || c == '#' || c == '[' || c == ']':
			path = false
		case c == '%':
			if i+2 >= len(s) || unhex(s[i+1]) > 15 || unhex(s[i+2]) > 15 {
				return false
			}
			i += 2
		case c >= 0x80 || !uriBytes[c]:
			return false
		}
	}
	if path {
		return true
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
	if path, ok := strings.CutPrefix(s, "//"); ok {
		authority, _, _ := strings.Cut(path, "/")
		if !validAuthority(authority) {
			return false
		}
		s = path[len(authority):]
	}
	return !strings.ContainsAny(s, "[]")
}

// uriBytes are the characters of RFC 3986 section 2.2 and 2.3.
var uriBytes = func() (set [0x80]bool) {
	for _, c := range "-._~:/?#[]@!$&'()*+,;=0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		set[c] = true
	}
	return set
}()

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
