package gateway_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

const testKey = "dGVzdC1rZXktb2YtdGhlLWdhdGV3YXktMDAwMDE="

// signature is a shared access signature of testKey's for a resource.
func signature(resource string, life time.Duration) string {
	sr := url.QueryEscape(resource)
	expires := fmt.Sprint(time.Now().Add(life).Unix())
	mac := hmac.New(sha256.New, []byte(testKey))
	mac.Write([]byte(sr + "\n" + expires))
	sig := url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return "SharedAccessSignature sr=" + sr + "&sig=" + sig + "&se=" + expires + "&skn=Root"
}

func base64URL(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestTokenExpiryEndsStreams(t *testing.T) {
	t.Parallel()
	w := start(t, func(_ *gateway.Config, a *access.Config, _ *broker.Config) {
		a.Namespaces["default"] = access.Namespace{Dev: true, Keys: []access.Key{{Name: "Root", Primary: testKey, Rights: []string{"send", "listen"}}}}
	})
	token := signature("http://127.0.0.1/", 2*time.Second)
	c := w.dial(t, "/topics/a", "Authorization: "+token)
	defer c.CloseNow()
	stays := w.dial(t, "/topics/a", "Authorization: "+signature("http://127.0.0.1/", time.Hour))
	defer stays.CloseNow()
	began := time.Now()
	wantClose(t, c, schemas.CloseTokenExpired)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("closed after %v, want within 5 s of the end of a token of 2 s", took)
	}
	w.publish(t, "a", "1")
	if got := next(t, stays); got.ID != "1" {
		t.Errorf("the other stream got %s", got.raw)
	}
	if metrics := w.do(t, "GET", w.admin+"/metrics", "").body; !strings.Contains(metrics, `outrelay_stream_closes_total{kind="websocket",namespace="default",reason="token-expired"} 1`) {
		t.Error("the metrics do not count it")
	}
}

func TestLostRightEndsStreams(t *testing.T) {
	open := func(subscribe, publish string) access.Config {
		return access.Config{Namespaces: map[string]access.Namespace{"default": {
			Anonymous: access.Anonymous{Subscribe: []string{subscribe}, Publish: []string{publish}},
		}}}
	}
	w := start(t, func(_ *gateway.Config, a *access.Config, _ *broker.Config) { *a = open("**", "**") })
	a, b := w.dial(t, "/topics/a"), w.dial(t, "/topics/b")
	defer a.CloseNow()
	defer b.CloseNow()
	if err := w.policy.Reload(open("b", "a")); err != nil {
		t.Fatal(err)
	}
	wantClose(t, a, schemas.CloseRightLost)
	send(t, b, websocket.MessageText, event("1"))
	if got := next(t, b); got.Type != "dev.outrelay.rejected" {
		t.Errorf("published without the right: %s", got.raw)
	}
}
