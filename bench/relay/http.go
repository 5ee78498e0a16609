package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

// serveProxy is a plain reverse proxy of net/http in front of the sink.
func serveProxy(ready, sink string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := announce(ready, l); err != nil {
		return err
	}
	target := &url.URL{Scheme: "http", Host: sink}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport: &http.Transport{MaxIdleConnsPerHost: 100}, // as its documentation advises for many requests to one host
	}
	return http.Serve(l, proxy)
}

// announce writes the ready file of a server that is not outrelay.
func announce(ready string, l net.Listener) error {
	text, err := json.Marshal(map[string]string{"http": "http://" + l.Addr().String()})
	if err != nil {
		return err
	}
	if err := os.WriteFile(ready+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(ready+".new", ready)
}

// serveSink is the service behind the reverse proxy: it answers with what it was sent.
func (w *world) serveSink() error {
	l, err := net.Listen("tcp", w.Sink)
	if err != nil {
		return err
	}
	w.close = func() { l.Close() }
	go http.Serve(l, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { //nolint:errcheck // it ends with the listener
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.fail(err)
		}
		rw.Header().Set("Content-Type", "application/octet-stream")
		rw.Write(body) //nolint:errcheck // the sender notices
	}))
	return nil
}

// respond is the same for a listener of outrelay: it answers a request of the control
// channel there, whose body follows in a message of its own.
func (w *world) respond(control net.Conn, in *bufio.Reader, message []byte) error {
	var m struct {
		Request struct {
			ID   string
			Body bool
		}
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return err
	}
	var body []byte
	if m.Request.Body {
		var err error
		if _, body, err = readFrame(in); err != nil {
			return err
		}
	}
	text := fmt.Appendf(nil, `{"response":{"requestId":%q,"statusCode":"200","responseHeaders":{"Content-Type":"application/octet-stream"},"body":true}}`, m.Request.ID)
	_, err := control.Write(appendFrame(appendFrame(nil, 0x81, text), 0x82, body))
	return err
}

// requests measures HTTP requests with their answers, eight at a time, each on a
// connection that stays.
func (w *world) requests(r *run) error {
	return w.parallel(8, r, func() (func(message, back []byte) error, func(), error) {
		c, err := net.Dial("tcp", w.Address)
		if err != nil {
			return nil, nil, err
		}
		in := bufio.NewReader(c)
		do := func(message, back []byte) error {
			head := fmt.Appendf(nil, "POST /bench/echo HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", w.Address, len(message))
			if _, err := c.Write(append(head, message...)); err != nil {
				return err
			}
			answer, err := http.ReadResponse(in, nil)
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				return errors.New(answer.Status)
			}
			if _, err := io.ReadFull(answer.Body, back); err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, answer.Body)
			return err
		}
		return do, func() { c.Close() }, nil
	})
}
