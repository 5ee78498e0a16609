package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
)

// guarded starts a gateway, built without the race detector, that lets nobody in
// without a token, and returns a maker of tokens of its keys "one" and "two".
func guarded(t *testing.T, more string) (g *gateway, token func(key string, expires time.Time) string) {
	t.Helper()
	dir := t.TempDir()
	config := "tls: off\nhttps: \"\"\nhosts: [127.0.0.1]\nrelay: [{name: \"**\"}]\ntopics: [{filter: live/**, stored: false}]\nkeys:\n"
	for _, key := range []string{"one", "two"} {
		config += fmt.Sprintf("  - {name: %s, primaryfile: %s, rights: [send, listen]}\n", key, file(t, dir, key, "the secret of the key "+key))
	}
	g = launch(t, &gateway{config: file(t, dir, "outrelay.yaml", config+more), plain: true, bare: bare(t)})
	return g, func(key string, expires time.Time) string {
		return schemas.SignSAS(g.HTTP+"/", key, "the secret of the key "+key, expires)
	}
}

// some is a number in full with OUTRELAY_SOAK, else a tenth of it.
func some(n int) int {
	if soak() {
		return n
	}
	return n / 10
}

// A live connection of one of the kinds that a token opens.
type live struct {
	kind   string
	ended  time.Time
	code   websocket.StatusCode // of the Close frame; 0 without one
	newest time.Time            // when the newest event that it brought was published
}

// What a token opened ends with it, within five seconds, and no event comes after.
func TestExpiryEndsWhatItOpened(t *testing.T) {
	g, token := guarded(t, "limits: {pinginterval: 5s}\n")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	n := some(1000)
	expires := time.Now().Add(time.Duration(8+n/100) * time.Second).Truncate(time.Second)
	header := http.Header{"Authorization": {token("one", expires)}}
	transport := &http.Transport{MaxIdleConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	all := make([]live, n)
	var opened, ended sync.WaitGroup
	ready := make(chan struct{}, 64) // so many handshakes at once
	for i := range all {
		l := &all[i]
		l.kind = []string{"stream", "session", "sse", "listener"}[i%4]
		opened.Add(1)
		ended.Go(func() {
			once := sync.OnceFunc(opened.Done)
			defer once()
			ready <- struct{}{}
			err := l.follow(ctx, g, client, header, fmt.Sprint("listener/", i/4/20), func() { <-ready; once() })
			if err != nil {
				t.Errorf("%s %d: %v", l.kind, i, err)
			}
			l.ended = time.Now()
		})
	}
	opened.Wait()
	if time.Now().After(expires.Add(-time.Second)) {
		t.Fatalf("the token expired before all %d were open", n)
	}
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() {
		later := token("two", time.Now().Add(time.Hour))
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.topics("live/tick"), strings.NewReader(
				fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/s","type":"t","time":%q}`, i, time.Now().UTC().Format(time.RFC3339Nano))))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Authorization", later)
			req.Header.Set("Content-Type", schemas.MediaTypeEvent)
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		}
	})
	ended.Wait()
	close(stop)
	publishing.Wait()
	var last time.Duration
	got := 0
	for i, l := range all {
		after := l.ended.Sub(expires)
		last = max(last, after)
		if after > 5*time.Second || after < -100*time.Millisecond {
			t.Errorf("%s %d ended %v after its token", l.kind, i, after)
		}
		if want := websocket.StatusPolicyViolation; l.kind != "sse" && l.code != want {
			t.Errorf("%s %d was closed with %d, want %d", l.kind, i, l.code, want)
		}
		if l.newest.After(expires.Add(time.Second)) {
			t.Errorf("%s %d got an event that was published %v after its token expired", l.kind, i, l.newest.Sub(expires))
		}
		if !l.newest.IsZero() {
			got++
		}
	}
	if want := n / 4 * 3; got < want {
		t.Errorf("%d of %d connections got events before; want all but the listeners, %d", got, n, want)
	}
	t.Logf("%d connections, the last ended %v after the token", n, last.Round(time.Millisecond))
}

// follow opens the connection, says so, and reads until it ends.
func (l *live) follow(ctx context.Context, g *gateway, client *http.Client, header http.Header, name string, open func()) error {
	see := func(raw []byte) {
		_, rest, ok := strings.Cut(string(raw), `"time":"`)
		when, _, _ := strings.Cut(rest, `"`)
		if at, err := time.Parse(time.RFC3339Nano, when); ok && err == nil && at.After(l.newest) {
			l.newest = at
		}
	}
	if l.kind == "sse" {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.topics("live/**"), nil)
		if err != nil {
			return err
		}
		req.Header = header.Clone()
		req.Header.Set("Accept", "text/event-stream")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", resp.Status)
		}
		open()
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			see(s.Bytes())
		}
		return nil
	}
	address, protocol := g.ws("live/**"), schemas.SubprotocolCloudEvents
	switch l.kind {
	case "session":
		address, protocol = "ws"+strings.TrimPrefix(g.HTTP, "http")+"/connect", schemas.SubprotocolSession
	case "listener":
		address, protocol = "ws"+strings.TrimPrefix(g.HTTP, "http")+"/$hc/"+name+"?sb-hc-action=listen", ""
	}
	o := &websocket.DialOptions{HTTPHeader: header}
	if protocol != "" {
		o.Subprotocols = []string{protocol}
	}
	conn, _, err := websocket.Dial(ctx, address, o)
	if err != nil {
		return err
	}
	defer conn.CloseNow() //nolint:errcheck // it has ended
	if l.kind == "session" {
		if err := conn.Write(ctx, websocket.MessageText, []byte(`{"op":"subscribe","id":"s","topic":"live/**"}`)); err != nil {
			return err
		}
		for range 2 { // welcome and subscribed
			if _, _, err := conn.Read(ctx); err != nil {
				return err
			}
		}
	}
	open()
	for {
		_, raw, err := conn.Read(ctx)
		if err != nil {
			l.code = websocket.CloseStatus(err)
			return ctx.Err()
		}
		see(raw)
	}
}

// A session's token is renewed on the socket that it opened; one of somebody else is
// refused, and then the session ends with the old one.
func TestRenewalKeepsASession(t *testing.T) {
	g, token := guarded(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	n := some(1000)
	first := time.Now().Add(time.Duration(5+n/200) * time.Second).Truncate(time.Second)
	second := first.Add(5 * time.Second)
	type answer struct {
		Op      string
		ID      string
		Problem *schemas.Problem
	}
	var kept atomic.Int32
	var sessions sync.WaitGroup
	ready := make(chan struct{}, 64)
	for i := range n {
		stranger := i%10 == 0
		sessions.Go(func() {
			ready <- struct{}{}
			conn, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(g.HTTP, "http")+"/connect", &websocket.DialOptions{
				HTTPHeader: http.Header{"Authorization": {token("one", first)}}, Subprotocols: []string{schemas.SubprotocolSession},
			})
			<-ready
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.CloseNow() //nolint:errcheck // it has ended, or the test has
			ask := func(op, more string) (a answer, err error) {
				if err := conn.Write(ctx, websocket.MessageText, []byte(`{"op":"`+op+`","id":"`+op+`"`+more+`}`)); err != nil {
					return a, err
				}
				for a.ID != op {
					_, raw, err := conn.Read(ctx)
					if err == nil {
						err = json.Unmarshal(raw, &a)
					}
					if err != nil {
						return a, err
					}
				}
				return a, nil
			}
			who := "one"
			if stranger {
				who = "two"
			}
			a, err := ask("token", `,"token":"`+token(who, second)+`"`)
			switch {
			case err != nil:
				t.Errorf("token: %v", err)
				return
			case stranger && (a.Op != schemas.OpError || a.Problem == nil):
				t.Errorf("a token of somebody else was answered %+v, want an error", a)
			case !stranger && a.Op != schemas.OpOK:
				t.Errorf("a token of the same was answered %+v, want ok", a)
			}
			time.Sleep(time.Until(first.Add(2 * time.Second))) // nothing but time ends a token
			_, err = ask("ping", "")
			if stranger {
				if code := websocket.CloseStatus(err); code != websocket.StatusPolicyViolation {
					t.Errorf("after a refused renewal the session ended with %d (%v), want 1008 with its token", code, err)
				}
				return
			}
			if err != nil {
				t.Errorf("two seconds after the first token the renewed session: %v", err)
				return
			}
			kept.Add(1)
			for err == nil {
				_, _, err = conn.Read(ctx)
			}
			if code := websocket.CloseStatus(err); code != websocket.StatusPolicyViolation || time.Since(second) > 5*time.Second {
				t.Errorf("the renewed session ended with %d, %v after its token", code, time.Since(second))
			}
		})
	}
	sessions.Wait()
	if want := n - (n+9)/10; int(kept.Load()) != want {
		t.Errorf("%d sessions outlived their first token, want %d", kept.Load(), want)
	}
}

// Certificates are rotated and the config is reloaded under load, and no connection
// notices.
func TestRotationAndReloadDropNothing(t *testing.T) {
	dir := t.TempDir()
	rotate := func() {
		t.Helper()
		certificate, key := selfSigned(t, "relay.example.com")
		file(t, dir, "tls.crt", certificate)
		file(t, dir, "tls.key", key)
	}
	configured := func(n int) string {
		return fmt.Sprintf("tls: {cert: %s/tls.crt, key: %s/tls.key}\nhosts: [relay.example.com, 127.0.0.1]\nanonymous: {publish: [\"**\"], subscribe: [\"**\"]}\norigins: [https://%d.example.com]\n", dir, dir, n)
	}
	rotate()
	config := file(t, dir, "outrelay.yaml", configured(0))
	g := launch(t, &gateway{config: config, bare: bare(t)})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	insecure := &tls.Config{InsecureSkipVerify: true, ServerName: "relay.example.com"} // the certificate is what changes
	transport := &http.Transport{TLSClientConfig: insecure}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	address := "wss" + strings.TrimPrefix(g.HTTPS, "https") + "/topics/load/**"

	connections := some(500)
	var counts sync.WaitGroup
	received := make([]int, connections)
	done := make(chan struct{})
	for i := range connections {
		conn, _, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPClient: client})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow() //nolint:errcheck // the test is over
		counts.Go(func() {
			for {
				_, raw, err := conn.Read(ctx)
				if err != nil {
					select {
					case <-done:
					default:
						t.Errorf("connection %d was dropped after %d events: %v", i, received[i], err)
					}
					return
				}
				if strings.Contains(string(raw), `"id":"last"`) {
					return
				}
				received[i]++
			}
		})
	}
	published := 0
	stop := make(chan struct{})
	var load sync.WaitGroup
	send := func(id string) error {
		_, err := tryPost(ctx, g.topics("load/x"), schemas.MediaTypeEvent, sample(id), http.StatusOK)
		return err
	}
	load.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := send(fmt.Sprint("load-", published)); err != nil {
				t.Error(err)
				return
			}
			published++
		}
	})
	serial := func() string {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(g.HTTPS, "https://"), insecure)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return string(conn.ConnectionState().PeerCertificates[0].Signature)
	}
	hangup := func() {
		t.Helper()
		if err := syscall.Kill(g.PID, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	for range some(100) {
		before := serial()
		rotate()
		hangup()
		for deadline := time.Now().Add(5 * time.Second); serial() == before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the new certificate is not served within 5 s:\n%s", g.output)
			}
		}
	}
	for n := range some(50) {
		if err := os.WriteFile(config, []byte(configured(n+1)), 0o600); err != nil {
			t.Fatal(err)
		}
		hangup()
		allowed := func() bool {
			req, err := http.NewRequestWithContext(ctx, http.MethodOptions, g.HTTP+"/topics/load/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			origin := fmt.Sprintf("https://%d.example.com", n+1)
			req.Header.Set("Origin", origin)
			req.Header.Set("Access-Control-Request-Method", http.MethodPost)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.Header.Get("Access-Control-Allow-Origin") == origin
		}
		for deadline := time.Now().Add(5 * time.Second); !allowed(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("reload %d is not taken over within 5 s:\n%s", n+1, g.output)
			}
		}
	}
	// A bad certificate is refused, and the old one stays.
	before := serial()
	file(t, dir, "tls.crt", "no certificate")
	hangup()
	for deadline := time.Now().Add(patience); !strings.Contains(g.output.String(), "not reloaded"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing was said of a bad certificate:\n%s", g.output)
		}
	}
	if serial() != before {
		t.Error("after a bad certificate another one is served")
	}
	close(stop)
	load.Wait()
	if err := send("last"); err != nil {
		t.Fatal(err)
	}
	counts.Wait()
	close(done)
	for i, n := range received {
		if n != published {
			t.Errorf("connection %d got %d events of %d", i, n, published)
		}
	}
	t.Logf("%d connections, %d rotations, %d reloads, %d events", connections, some(100), some(50), published)
}

// No token, whole or broken, from wherever a client can put one, is found in what the
// gateway writes or shows.
func TestTokensAppearNowhere(t *testing.T) {
	g := launch(t, &gateway{})
	const mark = "canary"
	n := 0
	canary := func() string { n++; return fmt.Sprintf("%s%04d%s", mark, n, "QmFzZTY0dXJs") }
	shapes := func() []string {
		c := canary()
		return []string{
			c, c + "." + c + "." + c, "eyJhbGciOiJub25lIn0." + c + ".", "SharedAccessSignature sr=http%3A%2F%2F127.0.0.1%2F&sig=" + c + "&se=9999999999&skn=" + c,
			"SharedAccessSignature " + c, strings.Repeat(c, 600),
		}
	}
	var bodies strings.Builder
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	ask := func(method, path string, header http.Header, body string) {
		req, err := http.NewRequestWithContext(t.Context(), method, g.HTTP+path, strings.NewReader(body))
		if err != nil {
			return // no request at all
		}
		for k, v := range header {
			req.Header[k] = v
		}
		resp, err := client.Do(req)
		if err != nil {
			return // the gateway hung up, as it may
		}
		defer resp.Body.Close()
		var b strings.Builder
		_ = resp.Header.Write(&b)
		bodies.WriteString(b.String() + resp.Status)
		s := bufio.NewScanner(resp.Body)
		s.Buffer(nil, 4<<20)
		for s.Scan() {
			bodies.Write(s.Bytes())
		}
	}
	escape := func(s string) string { return strings.NewReplacer(" ", "%20", "&", "%26", "=", "%3D").Replace(s) }
	for _, path := range []string{"/topics/a/b", "/topics/a/**", "/connect", "/subscriptions", "/subscriptions/x", "/some/relay/name", "/$hc/some/name", "/healthz", "/.well-known/outrelay", "/none"} {
		for _, method := range []string{"GET", "POST", "PUT", "OPTIONS"} {
			for _, s := range shapes() {
				ask(method, path, http.Header{"Authorization": {"Bearer " + s}}, "")
				ask(method, path, http.Header{"Authorization": {s}}, "")
				ask(method, path, http.Header{"ServiceBusAuthorization": {s}}, "")
				ask(method, path+"?access_token="+escape(s)+"&sb-hc-token="+escape(s), nil, "")
				ask(method, path+"?sb-hc-action=listen&sb-hc-token="+escape(s), http.Header{
					"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
				}, "")
				ask(method, path, http.Header{
					"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
					"Sec-Websocket-Protocol": {"cloudevents.json, outrelay.bearer." + strings.ReplaceAll(s, " ", "")},
				}, "")
				ask("POST", "/subscriptions/x/ack", http.Header{"Authorization": {s}}, `{"deliveries":["`+s+`"]}`)
			}
		}
	}
	// in a session that stands, where the tokens in messages are refused
	conn, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(g.HTTP, "http")+"/connect", &websocket.DialOptions{Subprotocols: []string{schemas.SubprotocolSession}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow() //nolint:errcheck // the test is over
	for i, s := range shapes() {
		message, _ := json.Marshal(map[string]string{"op": "token", "id": fmt.Sprint(i), "token": s})
		if err := conn.Write(t.Context(), websocket.MessageText, message); err != nil {
			t.Fatal(err)
		}
	}
	for range len(shapes()) { // the welcome, and an answer to all but the last
		_, raw, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		bodies.Write(raw)
	}
	// and on a control channel
	listener, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(g.HTTP, "http")+"/$hc/some/name?sb-hc-action=listen", nil)
	if err != nil {
		t.Fatal(err)
	}
	message, _ := json.Marshal(map[string]any{"renewToken": map[string]string{"token": "SharedAccessSignature sr=x&sig=" + canary() + "&se=1&skn=x"}})
	if err := listener.Write(t.Context(), websocket.MessageText, message); err != nil {
		t.Fatal(err)
	}
	_, _, err = listener.Read(t.Context()) // it is closed
	bodies.WriteString(fmt.Sprint(err))
	listener.CloseNow() //nolint:errcheck // it is closed

	shown := map[string]string{"log": g.output.String(), "answers": bodies.String()}
	for _, path := range []string{"/metrics", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/cmdline", "/debug/vars", "/"} {
		resp, err := http.Get(g.Admin + path)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		s := bufio.NewScanner(resp.Body)
		s.Buffer(nil, 64<<20)
		for s.Scan() {
			b.Write(s.Bytes())
		}
		resp.Body.Close()
		shown[path] = b.String()
	}
	for _, name := range []string{"cmdline", "environ", "comm"} {
		b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(g.PID), name))
		if err != nil {
			t.Fatal(err)
		}
		shown["/proc/"+name] = string(b)
	}
	if len(shown["/metrics"]) < 1000 || len(shown["/debug/pprof/goroutine?debug=2"]) < 1000 || len(shown["answers"]) < 100_000 {
		t.Errorf("metrics %d bytes, goroutines %d, answers %d: this test looks in the wrong place", len(shown["/metrics"]), len(shown["/debug/pprof/goroutine?debug=2"]), len(shown["answers"]))
	}
	found := 0
	for where, text := range shown {
		if i := strings.Index(text, mark); i >= 0 {
			found++
			t.Errorf("%s has a client's token: ...%.120s", where, text[max(0, i-60):])
		}
	}
	t.Logf("%d canaries, %d found", n, found)
	var closed *net.OpError
	if errors.As(err, &closed) {
		t.Errorf("the control channel was cut, not closed: %v", err)
	}
}
