package demo

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/outrelay/outrelay/subscriber/js"
)

//go:embed page
var pageFiles embed.FS

// Page serves the demo's page, which listens to the gateway at the address
// (such as "http://127.0.0.1:8080") with WebSockets of its own: from the oldest
// event on, and after a lost connection from where it was. It does so with the
// JavaScript client.
//
// The page may load nothing but its own files and connect to nothing but that
// gateway. The gateway must allow the page's origin; "outrelay serve --dev" allows
// every origin on loopback.
func Page(gateway string, week []Quake) (http.Handler, error) {
	sockets, err := socketOrigin(gateway)
	if err != nil {
		return nil, err
	}
	var s struct {
		Gateway string    `json:"gateway"` // beginning of every WebSocket address
		From    time.Time `json:"from"`    // of the first event
		To      time.Time `json:"to"`      // of the last
		Events  int       `json:"events"`  // of the whole week
	}
	s.Gateway, s.Events = sockets, len(week)
	if len(week) > 0 {
		s.From, s.To = week[0].Time, week[len(week)-1].Time
	}
	settings, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("the page's settings: %w", err)
	}
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		return nil, fmt.Errorf("the page's files: %w", err)
	}
	mux := http.NewServeMux()
	served := http.FileServerFS(files)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		if t := mediaTypes[path.Ext(r.URL.Path)]; t != "" {
			w.Header().Set("Content-Type", t)
		}
		served.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /outrelay.js", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", mediaTypes[".js"])
		http.ServeContent(w, r, "outrelay.js", time.Time{}, bytes.NewReader(js.Module))
	})
	mux.HandleFunc("GET /settings.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		http.ServeContent(w, r, "settings.json", time.Time{}, bytes.NewReader(settings))
	})
	policy := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' " + sockets + " " + strings.Replace(sockets, "ws", "http", 1) +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // another demo may have the same port later
		mux.ServeHTTP(w, r)
	}), nil
}

// mediaTypes are those of the page's files, by the ends of their names. With nosniff
// a script of another type doesn't run, and what a machine's own tables say varies.
var mediaTypes = map[string]string{
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".json": "application/json",
	".svg":  "image/svg+xml",
}

// socketOrigin is a gateway's address with the scheme of its WebSockets. It goes
// into a header, so nothing but a scheme and a host is let through.
func socketOrigin(gateway string) (string, error) {
	u, err := url.Parse(gateway)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return "", fmt.Errorf("the gateway's address %q is not of the form http://host:port", gateway)
	}
	for _, c := range u.Host {
		if c <= ' ' || c == ';' || c == ',' || c == '\'' || c == '"' || c > '~' {
			return "", fmt.Errorf("the gateway's address %q has a host that no policy can name", gateway)
		}
	}
	switch u.Scheme {
	case "http":
		return "ws://" + u.Host, nil
	case "https":
		return "wss://" + u.Host, nil
	}
	return "", fmt.Errorf("the gateway's address %q has another scheme than http or https", gateway)
}

// A pageServer serves the page on a port of its own.
type pageServer struct {
	address string // such as "http://127.0.0.1:40000/"
	server  *http.Server
	ended   chan error // the answer of Serve, once
}

// servePage starts a server on a free port of loopback. The caller must call stop.
func servePage(ctx context.Context, handler http.Handler) (*pageServer, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve the page: %w", err)
	}
	p := &pageServer{
		address: "http://" + listener.Addr().String() + "/",
		server: &http.Server{
			Handler:        handler,
			ReadTimeout:    10 * time.Second,
			WriteTimeout:   30 * time.Second,
			IdleTimeout:    time.Minute,
			MaxHeaderBytes: 16 << 10,
		},
		ended: make(chan error, 1),
	}
	go func() { p.ended <- p.server.Serve(listener) }() // ends with stop
	return p, nil
}

// stop closes the server and its connections and waits for it.
func (p *pageServer) stop() error {
	err := p.server.Close()
	if served := <-p.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
