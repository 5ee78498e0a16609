package relay_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
	"github.com/outrelay/outrelay/schemas"
)

// serveNames answers offers on a control channel with the name, until it ends.
func (p *peer) serveNames(name string) {
	done := make(chan struct{})
	p.t.Cleanup(func() { p.conn.Close(); <-done })
	go func() {
		defer close(done)
		for {
			f, b, err := p.frame()
			if err != nil {
				return
			}
			if m, err := parseMessage(b); f == 0x81 && err == nil && m.Accept != nil {
				if c, err := answerOffer(m.Accept); err == nil {
					c.Write(clientFrame(0x81, []byte(name)))
					c.Close()
				}
			}
		}
	}()
}

// name connects a sender and returns the name of the listener that it got.
func (w *world) name(t testing.TB, from net.IP, path string, headers ...string) (string, *http.Response) {
	t.Helper()
	p := handshakeFrom(t, from, w.host+"/$hc/"+path, headers...)
	if p.answer.StatusCode != 101 {
		return p.answer.Status, p.answer
	}
	_, b := p.next()
	p.conn.Close()
	return string(b), p.answer
}

// A listener that gives itself an id is addressed by it; several may share one. Senders
// who name none are spread over all, and who names one that is not there gets 404.
func TestListenerByID(t *testing.T) {
	w := start(t, nil)
	for _, id := range []string{"one", "two", "three"} {
		w.listen(t, "name", "&sb-hc-listener="+id).serveNames(id)
	}
	w.listen(t, "other", "&sb-hc-listener=one").serveNames("another's one")
	from := net.IPv4(127, 0, 0, 1)
	for range 5 {
		for _, id := range []string{"one", "two", "three"} {
			if got, _ := w.name(t, from, "name?sb-hc-listener="+id); got != id {
				t.Fatalf("for the listener %s a sender got %s", id, got)
			}
		}
	}
	handshake(t, w.host+"/$hc/name?sb-hc-listener=four").refused(404, "no listeners")
	handshake(t, w.host+"/$hc/name?sb-hc-listener=").refused(400, "listener id")
	handshake(t, w.host+"/$hc/name?sb-hc-listener=a%2Fb").refused(400, "listener id")
	handshake(t, w.host+"/$hc/name?sb-hc-action=listen&sb-hc-listener=a%3Eb").refused(400, "listener id")
	got := map[string]bool{}
	for range 100 {
		name, _ := w.name(t, from, "name")
		got[name] = true
	}
	if len(got) != 3 {
		t.Errorf("senders without an id got %v", got)
	}
}

// Where the rule is sticky a session stays with its listener: by the cookie that it was
// given, else by its address, as long as the listener is there. The listener never sees
// the cookie.
func TestStickySessions(t *testing.T) {
	w := start(t, func(rc *relay.Config, _ *access.Config) {
		rc.Rules["default"] = []relay.Rule{{Name: "name", Sticky: true}}
	})
	controls := map[string]*peer{}
	for n := range 4 {
		id := fmt.Sprint("listener", n)
		controls[id] = w.listen(t, "name", "&sb-hc-listener="+id)
		controls[id].serveNames(id)
	}
	home := net.IPv4(127, 0, 0, 1)
	first, answer := w.name(t, home, "Name/x?a=1")
	cookies := answer.Cookies()
	if len(cookies) != 1 || cookies[0].Name != "outrelay-listener" || cookies[0].Value != first || !cookies[0].HttpOnly || cookies[0].Path != "/Name" {
		t.Fatalf("the sender of %s got the cookies %v", first, cookies)
	}
	cookie := "Cookie: theirs=1; " + cookies[0].Name + "=" + cookies[0].Value
	for n := range 20 {
		if got, _ := w.name(t, home, "name"); got != first {
			t.Fatalf("the same address got %s, then %s", first, got)
		}
		if got, _ := w.name(t, net.IPv4(127, 0, 1, byte(n+1)), "name", cookie); got != first {
			t.Fatalf("the same session got %s, then %s", first, got)
		}
	}
	got := map[string]bool{}
	for n := range 60 {
		name, _ := w.name(t, net.IPv4(127, 0, 2, byte(n+1)), "name")
		got[name] = true
	}
	if len(got) != 4 {
		t.Errorf("60 addresses got %v", got)
	}
	// another listener where its own is gone
	controls[first].close(1000, "")
	var second string
	within(t, "another listener", func() bool {
		second, answer = w.name(t, home, "name", cookie)
		return strings.HasPrefix(second, "listener") && second != first
	})
	if c := answer.Cookies(); len(c) != 1 || c[0].Value != second {
		t.Errorf("the sender of %s got the cookies %v", second, c)
	}
	// the application's cookies only
	for id, c := range controls {
		if id != first {
			c.conn.Close()
		}
	}
	within(t, "no listener", func() bool { s, _ := w.name(t, home, "name"); return strings.HasPrefix(s, "404") })
	control := w.listen(t, "name")
	if o := w.offer(t, control, "name", cookie); o.ConnectHeaders["Cookie"] != "theirs=1" {
		t.Errorf("the listener gets the cookies %q", o.ConnectHeaders["Cookie"])
	}
}

// Listeners that come and go are events on the topic of their hybrid connection, which
// nobody else may publish to.
func TestListenerEvents(t *testing.T) {
	w := start(t, nil)
	filter := schemas.TopicFilter("outrelay/listeners/shop/printer")
	stream, err := w.broker.Subscribe(context.Background(), "default", broker.StreamOptions{Topics: filter})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	control := w.listen(t, "Shop/Printer", "&sb-hc-listener=till")
	w.listen(t, "shop/other")
	control.close(1000, "")
	control.expectClose(1000, "")
	for _, want := range []struct{ kind, reason string }{{"dev.outrelay.listener.up", ""}, {"dev.outrelay.listener.down", "done"}} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		events, err := stream.Next(ctx, 1)
		cancel()
		if err != nil || len(events) != 1 {
			t.Fatalf("%s: got %v (%v)", want.kind, events, err)
		}
		var e struct {
			Type, Source, Subject, RelayTopic string
			Data                              struct{ Name, Listener, Reason string }
		}
		if err := json.Unmarshal(events[0].Event, &e); err != nil {
			t.Fatal(err)
		}
		if e.Type != want.kind || e.Source != "/outrelay" || e.Subject != "shop/printer" || e.RelayTopic != string(filter) ||
			e.Data.Name != "shop/printer" || e.Data.Listener != "till" || e.Data.Reason != want.reason {
			t.Errorf("got %s, want %s of the listener till for %q", events[0].Event, want.kind, want.reason)
		}
	}
}

// The relay counts its listeners, pairs, bytes, closes, refusals and what it holds back.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := start(t, func(rc *relay.Config, _ *access.Config) { rc.Metrics = registry })
	control := w.listen(t, "name")
	sender, listener := w.pair(t, control, "name")
	value := func(name string, labels ...string) float64 { return metric(t, registry, name, labels...) }
	if n := value("outrelay_relay_listeners", "namespace", "default"); n != 1 {
		t.Errorf("%v listeners are counted", n)
	}
	// The sender has its answer a moment before the pair is counted.
	within(t, "a pair is counted", func() bool { return value("outrelay_relay_connections", "namespace", "default") == 1 })
	sender.text("four")
	listener.expect(0x81, "four")
	listener.text("sixteen bytes...")
	sender.expect(0x81, "sixteen bytes...")
	sender.close(1000, "")
	listener.expectClose(1000, "")
	listener.close(1000, "")
	sender.expectClose(1000, "")
	sender.conn.Close()
	listener.conn.Close()
	handshake(t, w.host+"/$hc/nobody").refused(404, "")
	handshake(t, w.host+"/$hc/name?sb-hc-action=dance").refused(400, "")
	handshake(t, w.host+"/$hc/name?sb-hc-action=accept").refused(403, "")
	bad := net.IPv4(127, 0, 0, 9)
	for range 4 {
		handshakeFrom(t, bad, w.host+"/$hc/name?sb-hc-action=listen&sb-hc-token=nonsense").refused(401, "")
	}
	control.close(1000, "")
	control.expectClose(1000, "")
	control.conn.Close()
	within(t, "all is over", func() bool {
		return value("outrelay_relay_listeners", "namespace", "default") == 0 && value("outrelay_relay_connections", "namespace", "default") == 0
	})
	for _, want := range []struct {
		n      float64
		name   string
		labels []string
	}{
		{1, "joined_total", nil},
		{1, "connection_closes_total", []string{"reason", "done"}},
		{1, "listener_closes_total", []string{"reason", "done"}},
		{6 + 4, "bytes_total", []string{"direction", "to_listener"}}, // "four" and the Close frame
		{18 + 4, "bytes_total", []string{"direction", "to_sender"}},
		{1, "refusals_total", []string{"action", "connect", "reason", "no-listener"}},
		{1, "refusals_total", []string{"action", "other", "reason", "parameter"}},
		{1, "refusals_total", []string{"action", "accept", "reason", "forbidden"}},
		{4, "refusals_total", []string{"action", "listen", "reason", "unauthorized"}},
		{3, "throttled_total", nil},
		{0, "waiting", []string{"no namespace", ""}},
	} {
		labels := append([]string{"namespace", "default"}, want.labels...)
		if want.name == "waiting" {
			labels = nil
		}
		if n := value("outrelay_relay_"+want.name, labels...); n != want.n {
			t.Errorf("%s%v is %v, want %v", want.name, labels, n, want.n)
		}
	}
}

// metric is the value of a metric with these labels, 0 if it is not there.
func metric(t testing.TB, registry *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			has := map[string]string{}
			for _, l := range m.GetLabel() {
				has[l.GetName()] = l.GetValue()
			}
			same := len(has) == len(labels)/2
			for i := 0; i < len(labels); i += 2 {
				same = same && has[labels[i]] == labels[i+1]
			}
			if same {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// .NET's GetRuntimeInformationAsync is answered by the gateway with the Atom entry that
// it reads; no listener sees it.
func TestRuntimeInformation(t *testing.T) {
	w := start(t, closedNamespace)
	get := func(path, token string) (*http.Response, []byte) {
		q, err := http.NewRequest("GET", "http://"+w.host+"/"+path+"?api-version=2016-07", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("X-PROCESS-AT", "ServiceBus")
		if token != "" {
			q.Header.Set("Authorization", token)
		}
		answer, err := http.DefaultTransport.RoundTrip(q)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer, b
	}
	token := tokenFor("shop/printer", "root", rootKey)
	for range 2 {
		dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+token)
	}
	for _, token := range []string{token, tokenFor("shop/printer", "send", sendKey), tokenFor("shop/printer", "listen", listenKey)} {
		answer, b := get("Shop/Printer", token)
		var entry struct {
			XMLName xml.Name `xml:"http://www.w3.org/2005/Atom entry"`
			Content struct {
				Description struct {
					CreatedAt, UpdatedAt        time.Time
					ListenerCount               int
					RequiresClientAuthorization bool
					UserMetadata                *string
				} `xml:"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect HybridConnectionDescription"`
			} `xml:"content"`
		}
		if err := xml.Unmarshal(b, &entry); err != nil || answer.StatusCode != 200 {
			t.Fatalf("%s: %s (%v)", answer.Status, b, err)
		}
		d := entry.Content.Description
		if d.ListenerCount != 2 || !d.RequiresClientAuthorization || d.CreatedAt.IsZero() || d.UserMetadata == nil {
			t.Errorf("the description is %+v of %s", d, b)
		}
	}
	if _, b := get("open", tokenFor("open", "root", rootKey)); !strings.Contains(string(b), "<RequiresClientAuthorization>false<") {
		t.Errorf("the description of a hybrid connection that is open is %s", b)
	}
	for path, want := range map[string]int{"unknown": 404, "shop/printer/x": 404} {
		if answer, b := get(path, tokenFor("", "root", rootKey)); answer.StatusCode != want {
			t.Errorf("%s: %s %s", path, answer.Status, b)
		}
	}
	if answer, _ := get("shop/printer", ""); answer.StatusCode != 401 {
		t.Errorf("without a token: %s", answer.Status)
	}
}
