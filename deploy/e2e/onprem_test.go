package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// The addresses of the hosts: the one behind the firewall, the proxy beside it, and the
// gateway, which has one on the cable to each.
const (
	onpremAddress = "10.77.0.1"
	proxyAddress  = "10.77.0.2"
	cloudAddress  = "10.78.0.2"
)

// onpremRules lets nothing in, and out only what goes to one address and port.
const onpremRules = `
table inet firewall {
	counter dropped {}
	chain input {
		type filter hook input priority 0; policy drop;
		iif lo accept
		ct state established,related accept
		counter name dropped
	}
	chain output {
		type filter hook output priority 0; policy drop;
		oif lo accept
		ct state established,related accept
		ip daddr %s tcp dport %s accept
	}
}`

// A site is a host behind a firewall, and a gateway on another that it reaches by
// outbound connections to port 443 alone, if need be through the company's proxy.
type site struct {
	onprem, cloud *namespace
	gateway       *gateway
	proxy         *connectProxy // nil without
	address       string        // the gateway's
	rules         string        // of the firewall
}

func newSite(t *testing.T, proxied bool) *site {
	s := &site{onprem: newNamespace(t), cloud: newNamespace(t), address: "https://" + cloudAddress}
	if proxied {
		between := newNamespace(t)
		s.onprem.wire(onpremAddress+"/24", between, proxyAddress+"/24")
		between.wire("10.78.0.1/24", s.cloud, cloudAddress+"/24")
		s.rules = fmt.Sprintf(onpremRules, proxyAddress, "3128")
		s.proxy = newConnectProxy(t, between.listen(proxyAddress+":3128"), func(address string) (net.Conn, error) {
			return between.dial(net.Dialer{Timeout: patience}, address)
		})
	} else {
		s.onprem.wire("10.78.0.1/24", s.cloud, cloudAddress+"/24")
		s.rules = fmt.Sprintf(onpremRules, cloudAddress, "443")
	}
	s.onprem.firewall(s.rules)
	dir := t.TempDir()
	certificate, key := selfSigned(t, cloudAddress)
	for name, content := range map[string]string{"cert.pem": certificate, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "outrelay.yaml")
	text := fmt.Sprintf("hosts: [%s]\ntls: {cert: %[2]s/cert.pem, key: %[2]s/key.pem}\nlog: {flush: 1s}\nrelay: [{name: '**'}]\n", cloudAddress, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.gateway = &gateway{
		under: s.cloud.in(), config: config, data: t.TempDir(),
		HTTP: "http://127.0.0.1:0", HTTPS: s.address + ":443", Admin: "http://127.0.0.1:0",
	}
	s.gateway.run(t)
	s.gateway.CA = filepath.Join(dir, "cert.pem")
	t.Cleanup(func() { s.gateway.stop(t) })
	return s
}

// command is how to run a command of outrelay on one of the hosts.
func (s *site) command(on *namespace, args ...string) (name string, all []string) {
	all = append(on.in(), "env")
	if on == s.onprem && s.proxy != nil {
		all = append(all, "HTTPS_PROXY="+s.proxyURL())
	}
	all = append(all, outrelay)
	all = append(all, args...)
	all = append(all, "--gateway", s.address, "--ca", s.gateway.CA, "--key-name", s.gateway.KeyName, "--key-file", s.gateway.KeyFile)
	return all[0], all[1:]
}

func (s *site) client(t *testing.T, on *namespace, args ...string) *process {
	t.Helper()
	name, args := s.command(on, args...)
	return client(t, name, args...)
}

func (s *site) publish(t *testing.T, on *namespace, topic, id string) {
	t.Helper()
	name, args := s.command(on, "publish", topic)
	output(t, "", sample(id), name, args...)
}

func (s *site) proxyURL() string {
	return fmt.Sprintf("http://%s:%s@%s:3128", proxyUser, proxyPassword, proxyAddress)
}

// token is one with all rights, for an hour.
func (s *site) token(t *testing.T) string {
	t.Helper()
	key, err := os.ReadFile(s.gateway.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	return schemas.SignSAS(s.address+"/", s.gateway.KeyName, strings.TrimSpace(string(key)), time.Now().Add(time.Hour))
}

// curl makes a request from one of the hosts and returns the body of its answer.
func (s *site) curl(t *testing.T, on *namespace, path string, more ...string) string {
	t.Helper()
	args := append(on.in()[1:], "curl", "-sS", "--fail-with-body", "--max-time", "60", "--cacert", s.gateway.CA, "-H", "ServiceBusAuthorization: "+s.token(t))
	if on == s.onprem && s.proxy != nil {
		args = append(args, "--proxy", s.proxyURL())
	}
	return output(t, "", "", on.in()[0], append(append(args, more...), s.address+path)...)
}

// A host that lets nothing in, and nothing out but connections to port 443, publishes,
// subscribes, serves and is reached; the same where these go through a proxy that wants
// a password.
func TestBehindAFirewall(t *testing.T) {
	for name, proxied := range map[string]bool{"port 443 alone": false, "a proxy alone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, proxied)
			t.Run("events", s.checkEvents)
			t.Run("durable subscription", s.checkDurable)
			t.Run("deliver", s.checkDeliver)
			t.Run("JavaScript", s.checkJavaScript)
			t.Run("listen", s.checkListen)
			t.Run("bridge to the host", func(t *testing.T) { s.checkBridge(t, s.onprem, s.cloud) })
			t.Run("bridge from the host", func(t *testing.T) { s.checkBridge(t, s.cloud, s.onprem) })
			t.Run("the network test", s.checkNetworkTest)
			t.Run("nothing else passes", s.checkFirewall)
			if proxied && s.proxy.opened.Load() < 5 {
				t.Errorf("the proxy opened %d connections; what passed went elsewhere", s.proxy.opened.Load())
			}
		})
	}
}

func (s *site) checkEvents(t *testing.T) {
	subscriber := s.client(t, s.onprem, "subscribe", "orders/**", "--from", "earliest")
	s.publish(t, s.cloud, "orders/eu", "from-the-cloud")
	s.publish(t, s.onprem, "orders/us", "from-the-host")
	for _, want := range []string{"from-the-cloud", "from-the-host"} {
		if got := member(t, subscriber.line(t), "id"); got != want {
			t.Errorf("got event %q, want %q", got, want)
		}
	}
}

func (s *site) checkDurable(t *testing.T) {
	s.curl(t, s.onprem, "/subscriptions/office", "-X", "PUT", "-H", "Content-Type: application/json", "-d", `{"topic":"durable/**"}`)
	s.publish(t, s.cloud, "durable/one", "kept")
	var got struct {
		Deliveries []struct {
			Delivery string
			Event    struct{ ID string }
		}
	}
	if err := json.Unmarshal([]byte(s.curl(t, s.onprem, "/subscriptions/office/receive?wait=30s", "-X", "POST")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Deliveries) != 1 || got.Deliveries[0].Event.ID != "kept" {
		t.Fatalf("got %+v, want the event", got)
	}
	tag, err := json.Marshal(map[string][]string{"deliveries": {got.Deliveries[0].Delivery}})
	if err != nil {
		t.Fatal(err)
	}
	answer := s.curl(t, s.onprem, "/subscriptions/office/ack", "-X", "POST", "-H", "Content-Type: application/json", "-d", string(tag))
	if !strings.Contains(answer, got.Deliveries[0].Delivery) {
		t.Errorf("the ack was answered %s", answer)
	}
	// And with the command, over a session.
	s.publish(t, s.cloud, "durable/two", "kept-too")
	name, args := s.command(s.onprem, "subscribe", "--subscription", "office", "-n", "1")
	var line struct{ Event struct{ ID string } }
	if err := json.Unmarshal([]byte(output(t, "", "", name, args...)), &line); err != nil || line.Event.ID != "kept-too" {
		t.Errorf("subscribe --subscription printed %+v, %v; want the event", line, err)
	}
}

// checkDeliver hands an event to a web service on the host, which answers the second time.
func (s *site) checkDeliver(t *testing.T) {
	l := s.onprem.listen("127.0.0.1:8001")
	failed := false
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !failed {
			failed = true
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "thanks for %s", r.Header.Get("Ce-Id"))
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	defer serving.Wait()
	defer server.Close()
	agent := s.client(t, s.onprem, "deliver", "web", "--topic", "web/*", "--from", "earliest", "--to", "http://127.0.0.1:8001")
	s.publish(t, s.cloud, "web/one", "for-the-web")
	for attempt, want := range []string{"released", "acked"} {
		line := agent.line(t)
		if member(t, line, "id") != "for-the-web" || member(t, line, "outcome") != want {
			t.Errorf("attempt %d: deliver printed %s, want it %s", attempt+1, line, want)
		}
	}
}

// checkJavaScript takes events and acks them with the JavaScript client in Node.
func (s *site) checkJavaScript(t *testing.T) {
	under, mode := s.onprem.in(), ""
	if s.proxy != nil {
		under, mode = append(under, "env", "HTTPS_PROXY="+s.proxyURL()), "proxy"
	}
	h := startNodeWith(t, under, s.gateway.CA, nil, mode)
	js[any](t, h, `(() => {
		globalThis.ids = []; globalThis.acked = []; globalThis.s = outrelay.session(%q, { ...given, token: %q, onState: (state) => { globalThis.why = String(state.why); } });
		s.subscribe('js/*', { from: 'earliest', onEvent: (e) => ids.push(e.id) });
		s.subscribe('js/*', { subscription: 'js', from: 'earliest', onEvent: async (d) => { if (await d.ack()) acked.push(d.event.id); } });
	})()`, s.address, s.token(t))
	s.publish(t, s.cloud, "js/one", "from-the-cloud")
	jsWait(t, h, "ids.length === 1 && acked.length === 1", "({ ids, acked, why })")
	if n := js[int](t, h, "s.publish('js/two', { id: 'from-the-host', source: '/host', type: 't' }).then((receipt) => receipt.accepted)"); n != 1 {
		t.Errorf("%d events were accepted, want 1", n)
	}
	jsWait(t, h, "ids.length === 2 && acked.length === 2", "({ ids, acked, why })")
	js[any](t, h, "(s.close(), null)")
}

func (s *site) checkListen(t *testing.T) {
	l := s.onprem.listen("127.0.0.1:8000")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from behind the firewall: %s", r.URL.Path)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	defer serving.Wait()
	defer server.Close()
	listening := s.client(t, s.onprem, "listen", "shop", "--to", "http://127.0.0.1:8000")
	listening.line(t)
	if got := s.curl(t, s.cloud, "/shop/page"); got != "hello from behind the firewall: /page" {
		t.Errorf("got %q", got)
	}
	if got := member(t, listening.line(t), "path"); got != "/page" {
		t.Errorf("listen tells of %q", got)
	}
}

// checkBridge carries a stream from a client on one host to a service on another.
func (s *site) checkBridge(t *testing.T, service, user *namespace) {
	const size = 1 << 20
	server := newSumServer(t, service.listen("127.0.0.1:0"), 1, size)
	s.client(t, service, "bridge", "-R", "files:"+server.address).line(t)
	address := bridged(t, s.client(t, user, "bridge", "-L", "0:files"))
	conn, err := user.dial(net.Dialer{Timeout: patience}, address)
	if err != nil {
		t.Fatal(err)
	}
	exchangeSums(t, conn, 2, size, server)
}

// checkFirewall tries what the firewall is to stop, and then takes the firewall away
// and tries again, so that it is known to have been the reason.
func (s *site) checkFirewall(t *testing.T) {
	own, outside, beside := "10.78.0.1", cloudAddress+":80", s.cloud
	if s.proxy != nil {
		own, outside, beside = "10.79.0.1", "10.79.0.2:80", newNamespace(t) // another host of the company
		s.onprem.wire(own+"/24", beside, "10.79.0.2/24")
	}
	target := s.onprem.listen(own + ":8443")
	var accepting sync.WaitGroup
	accepting.Go(func() { acceptAll(target) })
	defer accepting.Wait()
	defer target.Close()
	elsewhere := beside.listen(outside)
	accepting.Go(func() { acceptAll(elsewhere) })
	defer elsewhere.Close()

	short := net.Dialer{Timeout: time.Second}
	before := s.onprem.counter("dropped")
	if conn, err := beside.dial(short, own+":8443"); err == nil {
		conn.Close()
		t.Error("the host is reached from outside")
	} else if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a connection from outside gave %v, want silence", err)
	}
	if after := s.onprem.counter("dropped"); after == before {
		t.Errorf("the firewall has dropped %s packets before and after", after)
	}
	if conn, err := s.onprem.dial(short, outside); err == nil {
		conn.Close()
		t.Error("the host reaches a port that is not allowed")
	}

	s.onprem.run("nft", "flush", "ruleset")
	patient := net.Dialer{Timeout: patience}
	if conn, err := beside.dial(patient, own+":8443"); err != nil {
		t.Errorf("without the firewall the host is not reached either: %v", err)
	} else {
		conn.Close()
	}
	if conn, err := s.onprem.dial(patient, outside); err != nil {
		t.Errorf("without the firewall the host does not reach others either: %v", err)
	} else {
		conn.Close()
	}
}

// acceptAll accepts and closes connections until the listener is closed.
func acceptAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "hello")
		conn.Close()
	}
}
