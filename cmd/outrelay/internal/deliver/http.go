package deliver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// A Mode is one of the content modes of the HTTP binding.
type Mode string

// The modes.
const (
	Binary     Mode = "binary"
	Structured Mode = "structured"
)

const (
	// dialTimeout bounds the connecting to the service.
	dialTimeout = 10 * time.Second
	// maxAnswer is how much of an answer's body is read, in bytes, so that the connection
	// can be used again.
	maxAnswer = 1 << 20
	// maxHeaders bounds a file of headers, in bytes.
	maxHeaders = 64 << 10
)

// HeaderAttempt is a header of each request: the number of the attempt, from 1.
const HeaderAttempt = "Outrelay-Attempt"

// An HTTP is a service that gets each event as a POST.
type HTTP struct {
	url     *url.URL
	mode    Mode
	timeout time.Duration
	headers string // a file of them; "" is none
	client  *http.Client
}

// HTTPConfig says which service it is.
type HTTPConfig struct {
	// To is its address, http or https.
	To string
	// Mode is the content mode; empty is Binary.
	Mode Mode
	// Timeout bounds a request, its answer included.
	Timeout time.Duration
	// Headers is a file of further headers, "Name: value" a line. It is read for each
	// request, so that a token in it may change. Empty is none.
	Headers string
	// TLS is used for https; nil trusts what the system trusts.
	TLS *tls.Config
	// Connections is how many are kept for the next request.
	Connections int
}

// NewHTTP checks the configuration. It opens no connection.
func NewHTTP(c HTTPConfig) (*HTTP, error) {
	u, err := url.Parse(c.To)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("--to is no address of a web service; give one such as http://localhost:3000/events")
	case u.User != nil:
		return nil, errors.New("--to holds a user name, and everybody on this machine could read a password in it; put an Authorization line into a file and give --header-file")
	case u.Fragment != "":
		return nil, errors.New("--to has a fragment (#), which no service ever sees")
	case c.Mode != "" && c.Mode != Binary && c.Mode != Structured:
		return nil, fmt.Errorf("there is no mode %q; give binary or structured", c.Mode)
	}
	h := &HTTP{url: u, mode: c.Mode, timeout: c.Timeout, headers: c.Headers}
	if _, err := h.extra(); err != nil {
		return nil, fmt.Errorf("--header-file: %w", err)
	}
	h.client = &http.Client{
		// Beside the machine, not behind the proxy that leads to the gateway.
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:     c.TLS,
			TLSHandshakeTimeout: dialTimeout,
			MaxIdleConnsPerHost: max(c.Connections, 1),
			IdleConnTimeout:     30 * time.Second,
			DisableCompression:  true,
			ForceAttemptHTTP2:   true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return h, nil
}

// Close closes the connections that are kept.
func (h *HTTP) Close() { h.client.CloseIdleConnections() }

// String is the service's address without its query, which may hold a secret.
func (h *HTTP) String() string {
	u := *h.url
	u.RawQuery = ""
	return u.String()
}

// Deliver makes the request and waits for the whole answer.
func (h *HTTP) Deliver(parent context.Context, e *Event, attempt int) Answer {
	ctx, cancel := context.WithTimeout(parent, h.timeout)
	defer cancel()
	var reached atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { reached.Store(true) }})
	r, err := h.request(traced, e, attempt)
	if err != nil {
		return Answer{Outcome: Released, Why: printable(err.Error(), maxWhy), health: down}
	}
	resp, err := h.client.Do(r)
	if err != nil {
		return noAnswer(ctx, err, h.timeout, reached.Load())
	}
	defer resp.Body.Close()
	var start bytes.Buffer
	_, err = io.CopyN(&start, resp.Body, 4*maxWhy)
	if err == nil {
		_, err = io.CopyN(io.Discard, resp.Body, maxAnswer)
	}
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		a := noAnswer(ctx, fmt.Errorf("the answer was cut: %w", err), h.timeout, true)
		a.Status = &resp.StatusCode
		return a
	}
	return answerTo(resp.StatusCode, resp.Header, start.Bytes(), time.Now())
}

// request is the event as a request.
func (h *HTTP) request(ctx context.Context, e *Event, attempt int) (*http.Request, error) {
	header, err := h.extra()
	if err != nil {
		return nil, err
	}
	body := e.Raw
	if h.mode == Structured {
		header.Set("Content-Type", schemas.MediaTypeEvent)
	} else {
		body = binary(header, e.Event)
	}
	header.Set("User-Agent", "outrelay-deliver")
	header.Set(HeaderAttempt, strconv.Itoa(attempt))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = header
	if host := header.Get("Host"); host != "" {
		r.Host = host
		header.Del("Host")
	}
	return r, nil
}

// binary puts an event's attributes into headers and returns its data (HTTP binding 1.0.2,
// section 3.1).
func binary(header http.Header, e *schemas.Event) []byte {
	data, ok := e.Data()
	contentType := ""
	for _, a := range e.Attributes() {
		if a.Name == "datacontenttype" {
			contentType = a.Value
			continue
		}
		header.Set("ce-"+a.Name, schemas.EncodeHeader(a.Value))
	}
	if contentType == "" && ok && e.JSONData() {
		contentType = "application/json" // what its JSON form left unsaid
	}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return data
}

// extra reads the file of headers.
func (h *HTTP) extra() (http.Header, error) {
	header := http.Header{}
	if h.headers == "" {
		return header, nil
	}
	f, err := os.Open(h.headers)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxHeaders+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxHeaders {
		return nil, fmt.Errorf("%s is longer than %d bytes", h.headers, maxHeaders)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		// Not a word of the line: it may be a secret.
		if !ok || !fieldName(name) || !fieldValue(value) {
			return nil, fmt.Errorf("%s:%d: write a header as \"Name: value\"", h.headers, n)
		}
		if reserved(name) {
			return nil, fmt.Errorf("%s:%d: %s is the agent's to set", h.headers, n, http.CanonicalHeaderKey(name))
		}
		header.Add(name, value)
	}
	return header, nil
}

// reserved says whether a header belongs to the event or the connection.
func reserved(name string) bool {
	switch name = strings.ToLower(name); name {
	case "content-type", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", strings.ToLower(HeaderAttempt):
		return true
	}
	return strings.HasPrefix(name, "ce-")
}

// cause is an error of a request without the method and address, which everybody knows.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// fieldName and fieldValue check a header (RFC 9110 section 5).
func fieldName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7F || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	}) < 0
}

func fieldValue(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7F }) < 0
}
