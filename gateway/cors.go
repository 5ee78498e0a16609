package gateway

import (
	"net/http"
	"strconv"
	"strings"
)

// exposed are the headers of an answer that a page's script may read.
const exposed = "Link, Outrelay-Cursor, Retry-After, WWW-Authenticate, Allow"

// allowOrigin lets a page of an allowed origin read the answer. A page of another
// origin gets the answer all the same, but its browser keeps it from the script.
func (c *call) allowOrigin() {
	c.w.Header().Add("Vary", "Origin")
	if origin := c.r.Header.Get("Origin"); origin != "" && c.gateway.config.Access.RequestAllowed(c.namespace, c.r) {
		c.w.Header().Set("Access-Control-Allow-Origin", origin)
		c.w.Header().Set("Access-Control-Expose-Headers", exposed)
	}
}

// options answers OPTIONS with the methods of the path, and a CORS preflight with
// what a script may send. The headers that it asks for are named one by one,
// because a wildcard would not cover Authorization.
func (c *call) options(allow []string) {
	h := c.w.Header()
	methods := strings.Join(allow, ", ")
	h.Set("Allow", methods)
	if h.Get("Access-Control-Allow-Origin") != "" && c.r.Header.Get("Access-Control-Request-Method") != "" {
		h.Del("Access-Control-Expose-Headers")
		h.Set("Access-Control-Allow-Methods", methods)
		if names := headerNames(c.r.Header); names != "" {
			h.Set("Access-Control-Allow-Headers", names)
		}
		h.Set("Access-Control-Max-Age", strconv.Itoa(int(c.gateway.config.Limits.PreflightAge.Seconds())))
		h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	}
	c.answer(http.StatusNoContent, "", nil)
}

// headerNames lists the header names that a preflight asks for; "" if one is no name.
func headerNames(header http.Header) string {
	var names []string
	for _, value := range header.Values("Access-Control-Request-Headers") {
		for name := range strings.SplitSeq(value, ",") {
			if name = strings.Trim(name, " \t"); name == "" {
				continue
			}
			for i := range len(name) {
				if !tokenByte(name[i]) {
					return ""
				}
			}
			names = append(names, strings.ToLower(name))
		}
	}
	return strings.Join(names, ", ")
}

// tokenByte is tchar of RFC 9110 section 5.6.2.
func tokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
