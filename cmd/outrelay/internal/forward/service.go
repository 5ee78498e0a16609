package forward

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"
)

// farewell is how long requests under way may take to finish once a service is to
// stop.
const farewell = 10 * time.Second

// A Service hands what comes for a hybrid connection to a local service.
type Service struct {
	// Name is the hybrid connection's.
	Name string
	// Target is the local service.
	Target Target
	// Scheme is that of the gateway, which an HTTP service finds in X-Forwarded-Proto.
	Scheme string
	// Connections is how many streams and requests are open at once.
	Connections int
	// Report is told what became of each request and stream.
	Report func(Report)
}

// Run serves what l accepts until ctx ends, which is no error, or l does. Requests
// under way have 10 seconds to finish; streams are cut. It closes l.
func (s *Service) Run(ctx context.Context, l net.Listener) error {
	if s.Target.URL == nil {
		return serveStreams(ctx, l, streams{s.Name, s.Target.dial, s.Connections, s.Report})
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		MaxIdleConnsPerHost: s.Connections,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
	}
	defer transport.CloseIdleConnections()
	cutting, cut := context.WithCancel(context.WithoutCancel(ctx)) // of what the server doesn't know any more
	defer cut()
	var handling sync.WaitGroup // which a server does not wait for once it is a WebSocket's
	defer handling.Wait()
	server := &http.Server{
		Handler:           s.handler(transport, &handling),
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       5 * time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0),
		BaseContext:       func(net.Listener) context.Context { return cutting },
	}
	var stopping sync.WaitGroup
	defer stopping.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopping.Go(func() {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.Background(), farewell)
		defer cancel()
		_ = server.Shutdown(late)
		cut()
		server.Close()
	})
	err := server.Serve(limit(l, s.Connections))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// handler passes requests on to the service, WebSockets too.
func (s *Service) handler(transport http.RoundTripper, handling *sync.WaitGroup) http.Handler {
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(s.Target.URL)
			r.SetXForwarded()
			r.Out.Header.Set("X-Forwarded-Proto", s.Scheme)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if seen, ok := w.(*watched); ok {
				seen.err = err
			}
			if r.Context().Err() == nil {
				http.Error(w, "The service behind this address does not answer.", http.StatusBadGateway)
			}
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handling.Add(1)
		defer handling.Done()
		seen := &watched{ResponseWriter: w, status: http.StatusOK}
		body := &counted{ReadCloser: r.Body}
		if r.Body != http.NoBody {
			r.Body = body
		}
		began := time.Now()
		defer func() {
			report := Report{
				Kind: "request", Name: s.Name, From: r.RemoteAddr, Method: r.Method, Path: r.URL.Path, Status: seen.status,
				Received: body.n, Sent: seen.n, Seconds: since(began),
			}
			if seen.err != nil {
				report.Error = seen.err.Error()
			} else if r.Context().Err() != nil {
				report.Error = "the sender has gone"
			}
			s.Report(report)
		}()
		proxy.ServeHTTP(seen, r)
	})
}

// A watched answer knows what it was.
type watched struct {
	http.ResponseWriter
	status int
	n      int64
	err    error
}

func (w *watched) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.n += int64(n)
	return n, err
}

// Unwrap is for [http.ResponseController].
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// A counted body knows how much of it was read.
type counted struct {
	io.ReadCloser
	n int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n += int64(n)
	return n, err
}

// streams is what becomes of the connections of a listener.
type streams struct {
	name   string // of the hybrid connection
	dial   func(context.Context) (net.Conn, error)
	most   int // at once; what comes meanwhile waits in the listener's backlog
	report func(Report)
}

// serveStreams joins each connection of l to one that is dialed, until ctx or l ends,
// and then cuts them. It closes l.
func serveStreams(ctx context.Context, l net.Listener, s streams) error {
	var open sync.WaitGroup
	defer open.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	places := make(chan struct{}, s.most)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil && err == nil:
			conn.Close()
			return nil
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		open.Go(func() {
			defer func() { <-places }()
			s.report(s.join(ctx, conn))
		})
	}
}

// join joins a connection that was accepted to one that is dialed.
func (s streams) join(ctx context.Context, conn net.Conn) Report {
	began := time.Now()
	report := Report{Kind: "stream", Name: s.name, From: conn.RemoteAddr().String()}
	other, err := s.dial(ctx)
	if err != nil {
		abort(conn)
		report.Error, report.Seconds = err.Error(), since(began)
		return report
	}
	stop := context.AfterFunc(ctx, func() {
		abort(conn)
		abort(other)
	})
	report.Received, report.Sent, err = Join(conn, other)
	stop()
	if err != nil {
		report.Error = err.Error()
	}
	report.Seconds = since(began)
	return report
}
