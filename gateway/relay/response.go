package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// A response is a listener's answer to an HTTP request but for its body, ready to be
// sent on.
type response struct {
	id     string // the request's
	status int
	reason string // of the status line; "" for the usual one
	header http.Header
	body   bool // a body follows as a message of its own
}

// parseResponse reads the member "response" of a listener's message. Where the error
// says what is wrong with it, id and body are as far as they could be read.
func parseResponse(text []byte) (response, error) {
	var raw struct {
		RequestID         json.RawMessage `json:"requestId"`
		StatusCode        json.RawMessage `json:"statusCode"`
		StatusDescription json.RawMessage `json:"statusDescription"`
		ResponseHeaders   json.RawMessage `json:"responseHeaders"`
		Body              json.RawMessage `json:"body"`
	}
	var r response
	if err := json.Unmarshal(text, &raw); err != nil {
		return r, errors.New("it is no object")
	}
	r.id, _ = jsonString(raw.RequestID)
	r.body = string(raw.Body) == "true"
	if !r.body && len(raw.Body) > 0 && string(raw.Body) != "false" && string(raw.Body) != "null" {
		return r, errors.New(`its member "body" is neither true nor false`)
	}
	status := string(raw.StatusCode)
	if s, ok := jsonString(raw.StatusCode); ok {
		status = s
	}
	var err error
	// A status below 200 is no answer: HTTP would go on waiting for one.
	if r.status, err = strconv.Atoi(status); err != nil || r.status < 200 || r.status > 999 {
		return r, errors.New("its status is no number from 200 to 999")
	}
	if reason, ok := jsonString(raw.StatusDescription); ok {
		r.reason = strings.TrimSpace(reasonPhrase(reason))
	}
	if r.header, err = parseHeaders(raw.ResponseHeaders); err != nil {
		return r, err
	}
	return r, nil
}

// jsonString is a JSON string's text; false if it is something else.
func jsonString(raw json.RawMessage) (s string, ok bool) {
	ok = len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &s) == nil
	return s, ok
}

// hopByHop are the headers that are about one connection (RFC 9110 section 7.6.1), and
// those that say how a body is framed, which each hop does for itself.
var hopByHop = map[string]bool{
	"Connection": true, "Close": true, "Content-Length": true, "Keep-Alive": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// connectionTokens are the headers that a Connection header names as its own.
func connectionTokens(values []string) map[string]bool {
	var named map[string]bool
	for _, value := range values {
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.Trim(item, " \t"); item != "" {
				if named == nil {
					named = map[string]bool{}
				}
				named[textproto.CanonicalMIMEHeaderKey(item)] = true
			}
		}
	}
	return named
}

// parseHeaders reads the headers of an answer: an object of texts, numbers, truth
// values, or arrays of them. What can't stand in a header is left out.
func parseHeaders(text json.RawMessage) (http.Header, error) {
	header := http.Header{}
	if len(text) == 0 || string(text) == "null" {
		return header, nil
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(text, &members) != nil {
		return nil, errors.New(`its member "responseHeaders" is no object`)
	}
	for name, raw := range members {
		values := []json.RawMessage{raw}
		if raw[0] == '[' {
			if err := json.Unmarshal(raw, &values); err != nil {
				return nil, fmt.Errorf("a header: %w", err)
			}
		}
		if !isToken(name) {
			continue
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		for _, raw := range values {
			value, ok := headerValue(raw)
			switch {
			case !ok:
			case name == "Set-Cookie":
				header[name] = append(header[name], splitCookies(value)...)
			default:
				header[name] = append(header[name], value)
			}
		}
	}
	return header, nil
}

// isToken says whether s can be a header's name (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool { return !isTokenRune(c) }) < 0
}

func isTokenRune(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", c)
}

// headerValue is a JSON text, number or truth value as a header's value.
func headerValue(raw json.RawMessage) (value string, ok bool) {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 {
		return "", false
	}
	switch c := raw[0]; {
	case c == '"':
		if value, ok = jsonString(raw); !ok {
			return "", false
		}
	case c == '-' || '0' <= c && c <= '9' || c == 't' || c == 'f':
		value = string(raw)
	default: // null, or something nested
		return "", false
	}
	value = strings.Map(func(c rune) rune {
		if c < ' ' && c != '\t' || c == 0x7f {
			return ' '
		}
		return c
	}, value)
	return strings.Trim(value, " \t"), true
}

// splitCookies takes several cookies apart that a client library has joined with
// commas. A date in a cookie has a comma too; a new cookie begins with a name and "=".
func splitCookies(value string) []string {
	var cookies []string
	begin := 0
	for i := 0; i < len(value); i++ {
		if value[i] != ',' {
			continue
		}
		rest := strings.TrimLeft(value[i+1:], " \t")
		name := rest
		if end := strings.IndexFunc(rest, func(c rune) bool { return !isTokenRune(c) }); end >= 0 {
			name = rest[:end]
			if name == "" || rest[end] != '=' {
				continue
			}
			cookies = append(cookies, strings.Trim(value[begin:i], " \t"))
			begin = len(value) - len(rest)
		}
	}
	return append(cookies, strings.Trim(value[begin:], " \t"))
}

// relayed takes out of the answer's headers what is not for the sender, and adds what
// says that it was relayed. Only an answer without a body keeps its Content-Length,
// which says how long the body would be.
func (r *response) relayed(host string, bodyless bool) {
	named := connectionTokens(r.header["Connection"])
	length := r.header["Content-Length"]
	for name := range r.header {
		if hopByHop[name] || named[name] {
			delete(r.header, name)
		}
	}
	if bodyless && r.status != http.StatusNoContent && len(length) == 1 {
		if n, err := strconv.ParseUint(length[0], 10, 63); err == nil {
			r.header["Content-Length"] = []string{strconv.FormatUint(n, 10)}
		}
	}
	r.header["Via"] = []string{strings.Join(append(r.header["Via"], "1.1 "+host), ", ")}
	if r.header["Content-Type"] == nil {
		r.header["Content-Type"] = nil // so that net/http does not guess
	}
}
