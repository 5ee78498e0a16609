package e2e

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// A connectProxy is the HTTP proxy of a company: it opens connections by CONNECT to
// port 443, for those who know the password, and nothing else.
type connectProxy struct {
	opened  atomic.Int32
	refused atomic.Int32 // for want of the password
}

const (
	proxyUser     = "ann"
	proxyPassword = "s3cret"
)

// newConnectProxy serves on a listener and dials as it is told, until the test is over.
func newConnectProxy(t *testing.T, l net.Listener, dial func(address string) (net.Conn, error)) *connectProxy {
	p := &connectProxy{}
	var passing sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	track := func(c net.Conn, there bool) {
		mu.Lock()
		defer mu.Unlock()
		open[c] = there
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header["Authorization"] = r.Header["Proxy-Authorization"]
		user, password, _ := r.BasicAuth()
		if user != proxyUser || password != proxyPassword {
			p.refused.Add(1)
			w.Header().Set("Proxy-Authenticate", `Basic realm="company"`)
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		_, port, _ := net.SplitHostPort(r.Host)
		if r.Method != http.MethodConnect || port != "443" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		far, err := dial(r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		near, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			far.Close()
			t.Error(err)
			return
		}
		p.opened.Add(1)
		track(near, true)
		track(far, true)
		passing.Add(1)
		defer passing.Done()
		defer near.Close()
		defer far.Close()
		io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
		var up sync.WaitGroup
		up.Go(func() {
			_, _ = io.Copy(far, in.Reader)
			_ = far.(*net.TCPConn).CloseWrite()
		})
		_, _ = io.Copy(near, far)
		_ = near.(*net.TCPConn).CloseWrite()
		near.Close()
		up.Wait()
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		passing.Wait()
	})
	return p
}
