package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// detour VAR KIND URL starts a proxy before the gateway at URL and puts its address, host
// and port, in VAR. KIND is what it does: "late" says that it is ten minutes earlier,
// "strips" takes Upgrade off, and "password" is a forward proxy that opens connections to
// the gateway, whatever its name, for ann, whose password is s3cret. It ends with the
// script.
func detour(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: detour VAR late|strips|password URL")
	}
	target, err := url.Parse(args[2])
	ts.Check(err)
	transport := &http.Transport{}
	reverse := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	server := &http.Server{Handler: reverse, ErrorLog: log.New(io.Discard, "", 0)}
	var passing sync.WaitGroup
	switch args[1] {
	case "late":
		reverse.ModifyResponse = func(r *http.Response) error {
			r.Header.Set("Date", time.Now().Add(-10*time.Minute).UTC().Format(http.TimeFormat))
			return nil
		}
	case "strips":
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Upgrade")
			r.Header.Del("Connection")
			reverse.ServeHTTP(w, r)
		})
	case "password":
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
			if user != "ann" || password != "s3cret" {
				w.WriteHeader(http.StatusProxyAuthRequired)
				return
			}
			passing.Add(1)
			defer passing.Done()
			tunnel(w, target.Host)
		})
	default:
		ts.Fatalf("detour: there is no kind %q", args[1])
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	ts.Defer(func() {
		server.Close()
		serving.Wait()
		passing.Wait()
		transport.CloseIdleConnections()
	})
}

// tunnel answers CONNECT with a connection to an address.
func tunnel(w http.ResponseWriter, address string) {
	far, err := net.Dial("tcp", address)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer far.Close()
	near, in, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer near.Close()
	_, _ = io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
	var up sync.WaitGroup
	up.Go(func() {
		defer far.Close()
		_, _ = io.Copy(far, in.Reader)
	})
	_, _ = io.Copy(near, far)
	near.Close()
	up.Wait()
}
