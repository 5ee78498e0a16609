package relay_test

import (
	"strings"
	"testing"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

// gateways runs two relays that meet on one NATS, as two gateways do.
func gateways(t testing.TB, change func(*relay.Config, *access.Config)) (one, two *world) {
	t.Helper()
	named := func(rc *relay.Config, ac *access.Config) {
		rc.Rules["default"] = []relay.Rule{{Name: "app"}, {Name: "**"}}
		if change != nil {
			change(rc, ac)
		}
	}
	one = start(t, named)
	two = &world{broker: one.broker}
	two.serve(t, named)
	return one, two
}

// A request finds a listener on another gateway, and its answer on the control channel
// comes back: in pieces, if it is long.
func TestRequestToAnotherGateway(t *testing.T) {
	one, two := gateways(t, func(rc *relay.Config, _ *access.Config) { rc.Limits.RelayInlineBytes = 1 << 20 })
	control := two.listen(t, "app")
	for _, n := range []int{0, 1, 65536, 256 << 10, 256<<10 + 1, 1 << 20} {
		body := strings.Repeat("x", min(n, 65536))
		replies := one.asking(t, "POST", "/app", body)
		q := control.request()
		if n > 0 {
			control.expect(0x82, body)
		}
		answer := strings.Repeat("y", n)
		control.reply(q.ID, `"statusCode":201,"responseHeaders":{"X-A":"b"},"body":true`, answer)
		if r := await(t, replies); r.StatusCode != 201 || r.body != answer || r.Header.Get("X-A") != "b" {
			t.Errorf("%d bytes: got %s with %d", n, r.Status, len(r.body))
		}
	}
	replies := one.asking(t, "POST", "/app", "")
	q := control.request()
	control.reply(q.ID, `"statusCode":200,"body":true`, strings.Repeat("y", 1<<20+1))
	r := await(t, replies)
	refused(t, r.Response, r.body, 502, "listener-failed", "BadGateway", "longer than the limit")

	replies = one.asking(t, "POST", "/app", "")
	q = control.request()
	control.text(answerText(q.ID, `"statusCode":"what","body":false`))
	r = await(t, replies)
	refused(t, r.Response, r.body, 502, "listener-failed", "BadGateway", "status")

	// The listener is lost: known at once there too.
	replies = one.asking(t, "POST", "/app", "")
	control.request()
	control.conn.Close()
	r = await(t, replies)
	refused(t, r.Response, r.body, 502, "listener-failed", "BadGateway", "lost")
}

// A sender that goes away is told to a listener of another gateway that has asked for it.
func TestSenderGoneAtAnotherGateway(t *testing.T) {
	one, two := gateways(t, nil)
	control := two.listen(t, "app", "&sb-hc-cancels=true")
	s := one.sender(t, one.http("GET", "/app"))
	q := control.request()
	s.conn.Close()
	control.expect(0x81, `{"cancel":{"id":"`+q.ID+`"}}`)
}
