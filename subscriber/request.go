package subscriber

import (
	"net/http"
	"strconv"
	"strings"
)

// A requestOffer is an HTTP request of a sender, or says where it is.
type requestOffer struct {
	Address        string            `json:"address"`
	ID             string            `json:"id"`
	RequestTarget  string            `json:"requestTarget"`
	Method         string            `json:"method"`
	RemoteEndpoint remoteEndpoint    `json:"remoteEndpoint"`
	RequestHeaders map[string]string `json:"requestHeaders"`
	Body           *bool             `json:"body"`
}

// pointer says that the request itself is to be read at its address.
func (o *requestOffer) pointer() bool { return o.Method == "" || o.Body == nil }

// hasBody says that a message with the body is behind the request.
func (o *requestOffer) hasBody() bool { return o.Body != nil && *o.Body }

// head is the request as HTTP/1.1 has it, up to its body, whose length is given: -1
// where it is not known. False: it can't be put so.
func (o *requestOffer) head(target string, length int) ([]byte, bool) {
	if !token(o.Method) || target == "" || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, false
	}
	b := make([]byte, 0, 512)
	b = append(b, o.Method+" "+target+" HTTP/1.1\r\n"...)
	host := ""
	for name, value := range o.RequestHeaders {
		if strings.EqualFold(name, "Host") {
			host = value
		}
	}
	b = appendHeader(b, "Host", host)
	for name, value := range o.RequestHeaders {
		switch http.CanonicalHeaderKey(name) {
		case "Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "Te", "Trailer",
			"Expect": // the gateway has answered that
			continue
		}
		b = appendHeader(b, name, value)
	}
	b = appendHeader(b, "Connection", "close")
	switch {
	case length < 0:
		b = appendHeader(b, "Transfer-Encoding", "chunked")
	case length > 0, o.hasBody():
		b = appendHeader(b, "Content-Length", strconv.Itoa(length))
	}
	return append(b, "\r\n"...), true
}

// appendHeader appends a header's line; one that can't stand in one is left out.
func appendHeader(b []byte, name, value string) []byte {
	if !token(name) || strings.ContainsAny(value, "\r\n\x00") {
		return b
	}
	return append(b, name+": "+strings.TrimSpace(value)+"\r\n"...)
}

// token says whether s is a token (RFC 9110 section 5.6.2).
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// A responseMessage is the answer to a request.
type responseMessage struct {
	RequestID         string         `json:"requestId"`
	StatusCode        int            `json:"statusCode"`
	StatusDescription string         `json:"statusDescription,omitempty"`
	ResponseHeaders   map[string]any `json:"responseHeaders"` // texts, or arrays of them
	Body              bool           `json:"body"`
}

// answerTo puts an HTTP answer into the words of the relay.
func answerTo(id string, resp *http.Response) responseMessage {
	m := responseMessage{RequestID: id, StatusCode: resp.StatusCode, ResponseHeaders: map[string]any{}}
	if _, text, ok := strings.Cut(resp.Status, " "); ok && text != http.StatusText(resp.StatusCode) {
		m.StatusDescription = text
	}
	for name, values := range resp.Header {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Te", "Trailer", "Upgrade":
			continue
		}
		if name == "Set-Cookie" && len(values) > 1 { // whose commas are no separators
			m.ResponseHeaders[name] = values
			continue
		}
		m.ResponseHeaders[name] = strings.Join(values, ", ")
	}
	return m
}
