package gateway

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/outrelay/outrelay/schemas"
)

// Bounds of the admin listener, which is for a few who may stop the gateway anyway.
const (
	maxAdminConnections = 100
	adminTimeout        = 10 * time.Second
)

// newAdminServer makes the server of the admin listener: metrics and profiles. It
// shares nothing with the public one.
func (g *Gateway) newAdminServer() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.config.Metrics, promhttp.HandlerOpts{
		Registry: g.config.Metrics, MaxRequestsInFlight: 4, Timeout: adminTimeout,
	}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return &http.Server{
		Handler:           g.guardAdmin(mux),
		ReadHeaderTimeout: adminTimeout,
		ReadTimeout:       adminTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(g.config.Logger.Handler(), slog.LevelDebug),
	}
}

// guardAdmin keeps web pages out. A page can point a name of its own at loopback
// (DNS rebinding), so there only loopback's names are served; and no page reads
// what it did not come from.
func (g *Gateway) guardAdmin(next http.Handler) http.Handler {
	loopback := false
	if a, ok := address(g.admin).(*net.TCPAddr); ok {
		loopback = a.IP.IsLoopback()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var p *schemas.Problem
		switch origin := r.Header.Get("Origin"); {
		case loopback && !loopbackHost(hostName(r.Host)):
			p = schemas.Problemf("misdirected", "The admin listener is served under loopback's names only, such as localhost.")
		case origin != "" && !strings.EqualFold(origin, "http://"+r.Host):
			p = schemas.Problemf("forbidden", "Pages of other origins may not use the admin listener.")
		}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if p == nil {
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Content-Type", schemas.MediaTypeProblem)
		w.WriteHeader(p.Status())
		b, _ := json.Marshal(p)
		_, _ = w.Write(b)
	})
}
