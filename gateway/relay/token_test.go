package relay_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

// The keys of a namespace that is closed but to their tokens. The relay's host is
// 127.0.0.1.
const (
	rootKey   = "cm9vdC1rZXktb2YtdGhlLXRlc3RzLTAxMjM0NTY3ODk="
	secondKey = "c2Vjb25kLWtleS1vZi10aGUtdGVzdHMtMDEyMzQ1Njc="
	listenKey = "bGlzdGVuLWtleS1vZi10aGUtdGVzdHMtMDEyMzQ1Njc="
	sendKey   = "c2VuZC1rZXktb2YtdGhlLXRlc3RzLTAxMjM0NTY3ODk="
	entityKey = "ZW50aXR5LWtleS1vZi10aGUtdGVzdHMtMDEyMzQ1Njc="
)

func closedNamespace(rc *relay.Config, ac *access.Config) {
	ac.Namespaces["default"] = access.Namespace{
		Hosts: []string{"127.0.0.1"},
		Keys: []access.Key{
			{Name: "root", Primary: rootKey, Secondary: secondKey, Rights: []string{"send", "listen", "manage"}},
			{Name: "listen", Primary: listenKey, Rights: []string{"listen"}},
			{Name: "send", Primary: sendKey, Rights: []string{"send"}},
			{Name: "own", Primary: entityKey, Rights: []string{"send", "listen"}, Path: "shop/printer"},
		},
	}
	rc.Rules["default"] = []relay.Rule{{Name: "shop/printer"}, {Name: "open", AnonymousSenders: true}, {Name: "shop/*"}}
}

// sign makes a shared access signature over the text of sr as it is given.
func sign(sr, keyName, key string, expires time.Time) string {
	return signed(sr, keyName, key, expires, url.QueryEscape)
}

func signed(sr, keyName, key string, expires time.Time, escape func(string) string) string {
	se := strconv.FormatInt(expires.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(key))
	io.WriteString(mac, sr+"\n"+se)
	sig := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return "SharedAccessSignature sr=" + sr + "&sig=" + escape(sig) + "&se=" + se + "&skn=" + keyName
}

// tokenFor is a good token for a path of the relay at 127.0.0.1.
func tokenFor(path, keyName, key string) string {
	return sign(url.QueryEscape("http://127.0.0.1/"+path), keyName, key, time.Now().Add(time.Hour))
}

func lower(escaped string) string { return strings.ToLower(escaped) }

// slashesStay escapes as Python's urllib.parse.quote does.
func slashesStay(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(url.QueryEscape(s), "%2F", "/"), "+", "%20")
}

// The token of each client is taken as that client writes it: what it escapes, in which
// case, with which scheme, port and slashes.
func TestTokenShapes(t *testing.T) {
	w := start(t, closedNamespace)
	later := time.Now().Add(time.Hour)
	good := tokenFor("shop/printer", "root", rootKey)
	for _, tt := range []struct{ name, token string }{
		{"hyco with its own helper keeps the port", sign("http%3A%2F%2F127.0.0.1%3A443%2Fshop%2Fprinter", "root", rootKey, later)},
		{"hyco as its README has it", sign("http%3A%2F%2F127.0.0.1%2F", "root", rootKey, later)},
		{"NET", sign("http%3A%2F%2F127.0.0.1%3A8443%2Fshop%2Fprinter%2F", "root", rootKey, later)},
		{"NET lower-case hexadecimal", sign(lower("http%3A%2F%2F127.0.0.1%2Fshop%2Fprinter%2F"), "root", rootKey, later)},
		{"Java listener", sign("sb%3A%2F%2F127.0.0.1%2Fshop%2Fprinter", "root", rootKey, later)},
		{"Java with two closing slashes", sign("sb%3A%2F%2F127.0.0.1%2Fshop%2Fprinter%2F%2F", "root", rootKey, later)},
		{"Java without a path", sign("sb%3A%2F%2F127.0.0.1", "root", rootKey, later)},
		{"Python leaves slashes in the signature", signed("http%3A%2F%2F127.0.0.1%2Fshop%2Fprinter", "root", rootKey, later, slashesStay)},
		{"Python leaves slashes in the resource", sign("http%3A//127.0.0.1/shop/printer", "root", rootKey, later)},
		{"path in another case", sign("http%3A%2F%2F127.0.0.1%2FSHOP%2FPrinter", "root", rootKey, later)},
		{"parent of the path", tokenFor("shop", "root", rootKey)},
		{"key name in another case", tokenFor("shop/printer", "ROOT", rootKey)},
		{"secondary key", tokenFor("shop/printer", "root", secondKey)},
		{"key of the hybrid connection", tokenFor("shop/printer", "own", entityKey)},
		{"Python for 48 hours", sign("http%3A%2F%2F127.0.0.1%2Fshop%2Fprinter", "root", rootKey, later.Add(47*time.Hour))},
		{"scheme in another case", strings.Replace(good, "SharedAccessSignature", "sharedaccesssignature", 1)},
		{"fields in another order", reordered(good)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.listen(t, "shop/printer", "&sb-hc-token=", url.QueryEscape(tt.token))
			dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen&sb-hc-id=1", "ServiceBusAuthorization: "+tt.token)
		})
	}
}

func reordered(token string) string {
	scheme, fields, _ := strings.Cut(token, " ")
	parts := strings.Split(fields, "&")
	return scheme + " " + strings.Join([]string{parts[3], parts[2], parts[0], parts[1]}, "&")
}

// A token that is not good enough is 401, and one that is good for something else 403,
// for listeners and senders alike; the reason says what is wrong in Azure's words.
func TestTokenRefusals(t *testing.T) {
	w := start(t, closedNamespace)
	later, earlier := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	const sr = "http%3A%2F%2F127.0.0.1%2Fshop%2Fprinter"
	for _, tt := range []struct {
		name, token string
		status      int
		reason      string
	}{
		{"missing", "", 401, ""},
		{"malformed", "SharedAccessSignature sr=a", 401, ""},
		{"no token at all", "nonsense", 401, ""},
		{"bad signature", sign(sr, "root", "not the key, but long enough", later), 401, "The token has an invalid signature"},
		{"unknown rule", sign(sr, "nobody", rootKey, later), 401, ""},
		{"expired", sign(sr, "root", rootKey, earlier), 401, "ExpiredToken: The token is expired"},
		{"resource written anew after signing", strings.Replace(sign(sr, "root", rootKey, later), "%3A", "%3a", 1), 401, "The token has an invalid signature"},
		{"another host", sign("http%3A%2F%2Fexample.com%2Fshop%2Fprinter", "root", rootKey, later), 401, "InvalidAudience"},
		{"another path", tokenFor("shop/other", "root", rootKey), 403, ""},
		{"beginning of the path, but not at a slash", tokenFor("shop/print", "root", rootKey), 403, ""},
		{"child of the path", tokenFor("shop/printer/tray", "root", rootKey), 403, ""},
		{"topics only", tokenFor("topics/shop/printer", "root", rootKey), 403, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, action := range []string{"listen", "connect"} {
				p := handshake(t, w.host+"/$hc/shop/printer?sb-hc-action="+action+"&sb-hc-token="+url.QueryEscape(tt.token))
				p.refused(tt.status, tt.reason)
				if challenge := p.answer.Header.Get("WWW-Authenticate"); (tt.status == 401) != (challenge != "") {
					t.Errorf("%s: WWW-Authenticate is %q with status %d", action, challenge, tt.status)
				}
				if strings.Contains(p.answer.Status+fmt.Sprint(p.answer.Header), "sig=") {
					t.Errorf("%s: the answer has the token: %s", action, p.answer.Status)
				}
			}
		})
	}
	t.Run("right to send only", func(t *testing.T) {
		handshake(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+tokenFor("shop/printer", "send", sendKey)).refused(403, "")
	})
	t.Run("right to listen only", func(t *testing.T) {
		handshake(t, w.host+"/$hc/shop/printer?sb-hc-action=connect", "ServiceBusAuthorization: "+tokenFor("shop/printer", "listen", listenKey)).refused(403, "")
	})
}

// refused checks a refusal: its status, a part of its reason phrase, which ends as
// Azure's do, and that the body says the same.
func (p *peer) refused(status int, reason string) {
	p.t.Helper()
	if p.answer.StatusCode != status || !strings.Contains(p.answer.Status, reason) {
		p.t.Fatalf("got status %q, want %d %q", p.answer.Status, status, reason)
	}
	if !traced.MatchString(p.answer.Status) {
		p.t.Errorf("the reason phrase %q does not end as Azure's", p.answer.Status)
	}
	if id := p.answer.Header.Get("TrackingId"); id == "" || !strings.Contains(p.answer.Status, "TrackingId:"+id) {
		p.t.Errorf("the header TrackingId is %q, the status %q", id, p.answer.Status)
	}
	b, err := io.ReadAll(p.answer.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	checkProblem(p.t, b, status, p.answer.Status)
}

// A WebSocket's header wins over its query, and is enough alone; the token of an HTTP
// client's Authorization is taken only where there is no other.
func TestTokenPrecedence(t *testing.T) {
	w := start(t, closedNamespace)
	good, bad := tokenFor("shop/printer", "root", rootKey), sign("http%3A%2F%2F127.0.0.1%2F", "root", "some other key", time.Now().Add(time.Hour))
	query := func(token string) string { return "&sb-hc-token=" + url.QueryEscape(token) }
	for _, tt := range []struct {
		name, query string
		headers     []string
		status      int
	}{
		{"good header, bad query", query(bad), []string{"ServiceBusAuthorization: " + good}, 101},
		{"bad header, good query", query(good), []string{"ServiceBusAuthorization: " + bad}, 401},
		{"good query, bad Authorization", query(good), []string{"Authorization: " + bad}, 101},
		{"Authorization alone", "", []string{"Authorization: " + good}, 101},
		{"name of the parameter in another case", "&SB-HC-TOKEN=" + url.QueryEscape(good), nil, 101},
		{"name of the parameter escaped", "&sb%2Dhc%2Dtoken=" + url.QueryEscape(good), nil, 101},
		{"access_token belongs to the application", "&access_token=" + url.QueryEscape(good), nil, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := handshake(t, w.host+"/$hc/shop/printer?sb-hc-action=listen"+tt.query, tt.headers...)
			if p.answer.StatusCode != tt.status {
				t.Fatalf("got %s, want %d", p.answer.Status, tt.status)
			}
		})
	}
}

// Anonymous senders come in where the rule lets them; a token that is given must be good
// all the same, and a listener always needs one.
func TestAnonymousSenders(t *testing.T) {
	w := start(t, closedNamespace)
	handshake(t, w.host+"/$hc/open?sb-hc-action=listen").refused(401, "")
	control := dial(t, w.host+"/$hc/open?sb-hc-action=listen", "ServiceBusAuthorization: "+tokenFor("open", "root", rootKey))
	sender, listener := w.pair(t, control, "open")
	sender.text("hello")
	listener.expect(0x81, "hello")
	handshake(t, w.host+"/$hc/open?sb-hc-action=connect&sb-hc-token=nonsense").refused(401, "")
	handshake(t, w.host+"/$hc/shop/printer?sb-hc-action=connect").refused(401, "")

	// an Authorization is the application's there, and the listener gets it
	waiting := w.connecting(t, "open?sb-hc-action=connect", "Authorization: Basic Zm9vOmJhcg==")
	m := control.message()
	if got := m.Accept.ConnectHeaders["Authorization"]; got != "Basic Zm9vOmJhcg==" {
		t.Errorf("the listener got Authorization %q", got)
	}
	dial(t, m.Accept.dialed(t))
	<-waiting
}

// A key in clear (sb-hc-sas-key-name and sb-hc-sas-key, which some code of Azure's
// knows) is refused, whether or not it is right and even where no token is needed.
func TestKeyInClearIsRefused(t *testing.T) {
	w := start(t, nil)
	w.listen(t, "name")
	for _, action := range []string{"listen", "connect"} {
		handshake(t, w.host+"/$hc/name?sb-hc-sas-key-name=root&sb-hc-sas-key="+rootKey+"&sb-hc-action="+action).refused(401, "")
	}
}

// Authorization comes before the lookup: who has no token does not learn which hybrid
// connections there are.
func TestListenAuthorizesBeforeItLooksUp(t *testing.T) {
	w := start(t, closedNamespace)
	handshake(t, w.host+"/$hc/unknown?sb-hc-action=listen").refused(401, "")
	handshake(t, w.host+"/$hc/unknown?sb-hc-action=connect").refused(401, "")
	token := "ServiceBusAuthorization: " + tokenFor("unknown", "root", rootKey)
	handshake(t, w.host+"/$hc/unknown?sb-hc-action=listen", token).refused(404, "Endpoint does not exist")
	handshake(t, w.host+"/$hc/unknown?sb-hc-action=connect", token).refused(404, "Endpoint does not exist")
}

// A foreign web page may not connect.
func TestForeignOriginIsRefused(t *testing.T) {
	w := start(t, closedNamespace)
	token := "ServiceBusAuthorization: " + tokenFor("shop/printer", "root", rootKey)
	for _, action := range []string{"listen", "connect"} {
		p := handshake(t, w.host+"/$hc/shop/printer?sb-hc-action="+action, token, "Origin: https://elsewhere.example")
		p.refused(http.StatusForbidden, "")
	}
}
