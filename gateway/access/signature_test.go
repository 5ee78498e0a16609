package access_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// What Microsoft's helpers made of the key hc1 of the test's config: createRelayToken
// and appendRelayToken of hyco-ws 1.0.5 and hyco-https 1.4.5, with a life long enough
// to stay good until 2099.
var recorded = []struct {
	name, token string
	ask         access.Ask
}{
	{
		"hyco-ws createRelayListenUri, with its port",
		"SharedAccessSignature sr=http%3A%2F%2Fshop.example%3A443%2Fhc1&sig=fnROOqDZNZEXRLGOLB2b1q%2FMMa28n4aAo6KaekZP7BQ%3D&se=4095487740&skn=hc1",
		named(access.Listen, "hc1"),
	},
	{
		"hyco-ws createRelaySendUri, name in capitals",
		"SharedAccessSignature sr=http%3A%2F%2Fshop.example%3A443%2FHC1&sig=gHy677LM%2BVvLjmLH%2BzNoj22DRbUDiSf8gZjJjF1DnHI%3D&se=4095487740&skn=hc1",
		named(access.Send, "hc1"),
	},
	{
		"hyco-ws namespace alone",
		"SharedAccessSignature sr=http%3A%2F%2Fshop.example%2F&sig=g%2BpjL5GUrxaK19VQyr9Vo19qJQoaVP58B0E1lqVoNeQ%3D&se=4095487740&skn=hc1",
		named(access.Send, "hc1/x"),
	},
	{
		"hyco-https createRelayHttpsUri, below the name",
		"SharedAccessSignature sr=http%3A%2F%2Fshop.example%2Fhc1%2Fsub&sig=46nPpTBnG1MbGAKIi4S5%2FLkAcj8b3AgOKo81jaru88k%3D&se=4095487740&skn=hc1",
		named(access.Send, "hc1/sub"),
	},
	{
		"hyco-https with another port",
		"SharedAccessSignature sr=http%3A%2F%2Fshop.example%3A8443%2Fhc1&sig=IIgj6PhASlnnfAlZ6Ie3RtbXEprSaX343n5GF77UiRw%3D&se=4095487740&skn=hc1",
		named(access.Listen, "HC1"),
	},
}

const recordedQuery = "sb-hc-action=connect&sb-hc-id=an-id&sb-hc-token=SharedAccessSignature%20sr%3Dhttp%253A%252F%252Fshop.example%253A443%252Fhc1%26sig%3DfnROOqDZNZEXRLGOLB2b1q%252FMMa28n4aAo6KaekZP7BQ%253D%26se%3D4095487740%26skn%3Dhc1"

func TestRecordedTokens(t *testing.T) {
	p := policy(t, config())
	for _, tt := range recorded {
		r := httptest.NewRequest(http.MethodGet, "https://shop.example/$hc/hc1", nil)
		r.Header.Set("ServiceBusAuthorization", tt.token)
		_, err := p.AuthorizeRelayed("shop", r, tt.ask)
		check(t, tt.name, err, "")
	}
	r := httptest.NewRequest(http.MethodGet, "https://shop.example/$hc/hc1?"+recordedQuery, nil)
	_, err := p.AuthorizeRelayed("shop", r, named(access.Send, "hc1"))
	check(t, "hyco-ws appendRelayToken", err, "")
}

// rawSAS signs sr, as it stands, with the key and joins the fields given, in which
// SIG stands for the percent-encoded signature and RAW for the bare one.
func rawSAS(sr, se, key, fields string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(sr + "\n" + se))
	sig := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return strings.NewReplacer("SIG", url.QueryEscape(sig), "RAW", sig, "SR", sr, "SE", se).Replace(fields)
}

const (
	inOrder = "SharedAccessSignature sr=SR&sig=SIG&se=SE&skn=Root"
	shopSR  = "http%3A%2F%2Fshop.example%2Fhc1"
)

func in(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }

// The shapes that other clients give their tokens.
func TestSignatureShapes(t *testing.T) {
	p := policy(t, config())
	for name, token := range map[string]string{
		"fields in another order":     rawSAS(shopSR, in(time.Hour), rootKey, "SharedAccessSignature skn=Root&se=SE&sig=SIG&sr=SR"),
		"lower-case hex":              rawSAS("http%3a%2f%2fshop.example%2fhc1", in(time.Hour), rootKey, inOrder),
		"nothing escaped":             rawSAS("http://shop.example/hc1", in(time.Hour), rootKey, "SharedAccessSignature sr=SR&sig=RAW&se=SE&skn=Root"),
		"all escaped":                 rawSAS("%68ttp%3A%2F%2Fshop%2Eexample%2Fhc1", in(time.Hour), rootKey, inOrder),
		".NET, closing slash":         rawSAS("http%3a%2f%2fshop.example%3a443%2fhc1%2f", in(time.Hour), rootKey, inOrder),
		"Java, for a sender":          rawSAS("sb%3A%2F%2Fshop.example", in(time.Hour), rootKey, inOrder),
		"Java, two closing slashes":   rawSAS("sb%3A%2F%2Fshop.example%2Fhc1%2F%2F", in(time.Hour), rootKey, inOrder),
		"key's name without its case": rawSAS(shopSR, in(time.Hour), rootKey, "SharedAccessSignature sr=SR&sig=SIG&se=SE&skn=rOOT"),
		"key's name escaped":          rawSAS(shopSR, in(time.Hour), rootKey, "SharedAccessSignature sr=SR&sig=SIG&se=SE&skn=%52oot"),
		"host without its case":       rawSAS("http%3A%2F%2FSHOP.Example%2Fhc1", in(time.Hour), rootKey, inOrder),
		"secondary key":               rawSAS(shopSR, in(time.Hour), secondKey, inOrder),
		"expiry with a leading zero":  rawSAS(shopSR, "0"+in(time.Hour), rootKey, inOrder),
		"scheme in another case":      rawSAS(shopSR, in(time.Hour), rootKey, "sharedaccesssignature sr=SR&sig=RAW&se=SE&skn=Root"),
		"a second before its end":     rawSAS(shopSR, in(2*time.Second), rootKey, inOrder),
	} {
		r := httptest.NewRequest(http.MethodGet, "https://shop.example/hc1", nil)
		r.Header.Set("ServiceBusAuthorization", token)
		_, err := p.Authorize("shop", r, named(access.Send, "hc1"))
		check(t, name, err, "")
	}
}

// badSignatures lists tokens that must not let anyone send to hc1, listen on hc1 or publish to a.
func badSignatures() map[string]string {
	hour := in(time.Hour)
	bad := map[string]string{}
	resource := func(name, sr string) {
		bad["resource: "+name] = rawSAS(sr, hour, rootKey, inOrder)
	}
	for _, path := range []string{
		"hc10", "hc", "hc1x", "hc1.", "hc1-", "hc1~", "xhc1", "hc1%2F..", "hc1%2F.", "..%2Fhc1", ".%2Fhc1", "hc1%2F%2Fx",
		"%252Fhc1", "hc%2531", "hc1%252F", "h%2563%31", "%2568c1", "hc1%3Fx=1", "hc1%23x", "hc1%3Bx", "hc1%2Fx%2F..", "hc1%5C", "%5Chc1",
		"hc1%00", "hc1%0A", "hc1%20", "%20hc1", "hc1+", "hc1*", "*", "**", "%2A%2A", "hc%2A", "hc1%2F**", "hс1" /* Cyrillic */, "%EF%BD%88c1", "%C0%AFhc1",
		"$hc%2Fhc1", "$HC%2Fhc1", "TOPICS%2Fa", "Topics", "topics%2FA", "topics%2Fab", "topics%2Faa", "topics%2F%2Fa", "topics%2F..%2Fhc1",
		"topics%2Fa%252F", "topics%2F%2561", "topics%2F*", "topics%2F**", "topics%2F%2A", "topics%3Fa", "connect", "subscriptions%2Fa", "healthz", ".well-known", "/%2Ftopics%5Ca",
	} {
		resource(path, "http%3A%2F%2Fshop.example%2F"+path)
	}
	for _, sr := range []string{
		"http%3A%2F%2Fother.example%2Fhc1", "http%3A%2F%2Fshop.example.evil.example%2Fhc1", "http%3A%2F%2Fevil-shop.example%2Fhc1",
		"http%3A%2F%2Fshop.example.%2Fhc1", "http%3A%2F%2Fshop%2Fhc1", "http%3A%2F%2Fshop.example%40evil.example%2Fhc1",
		"http%3A%2F%2Fevil.example%40shop.example%2Fhc1", "http%3A%2F%2Fshop.example%3Aport%2Fhc1", "http%3A%2F%2F%2Fhc1",
		"http%3A%2F%2F%2Fshop.example%2Fhc1", "http%3Ashop.example%2Fhc1", "shop.example%2Fhc1", "%2Fhc1", "%2F", "hc1",
		"http%3A%2F%2Fshop.example%5Chc1", "http%3A%2F%2Fshop.example%3F%2Fhc1", "http%253A%252F%252Fshop.example%252Fhc1", "%3A%2F%2Fshop.example%2F",
		"http%3A%2F%2Fsh%EF%BD%8Fp.example%2Fhc1", "http%3A%2F%2F%5Bshop.example%5D%2Fhc1", "http%3A%2F%2Fshop.example%zz", "ht tp%3A%2F%2Fshop.example%2F",
	} {
		resource(sr, sr)
	}
	fields := func(name, text string) { bad["fields: "+name] = rawSAS(shopSR, hour, rootKey, text) }
	fields("no resource", "SharedAccessSignature sig=SIG&se=SE&skn=Root")
	fields("no signature", "SharedAccessSignature sr=SR&se=SE&skn=Root")
	fields("no expiry", "SharedAccessSignature sr=SR&sig=SIG&skn=Root")
	fields("no key", "SharedAccessSignature sr=SR&sig=SIG&se=SE")
	fields("empty key", "SharedAccessSignature sr=SR&sig=SIG&se=SE&skn=")
	fields("empty signature", "SharedAccessSignature sr=SR&sig=&se=SE&skn=Root")
	fields("two resources", "SharedAccessSignature sr=SR&sr=SR&sig=SIG&se=SE&skn=Root")
	fields("two expiries", "SharedAccessSignature sr=SR&sig=SIG&se=1&se=SE&skn=Root")
	fields("a field more", inOrder+"&x=1")
	fields("an empty part", inOrder+"&")
	fields("two blanks", "SharedAccessSignature  sr=SR&sig=SIG&se=SE&skn=Root")
	fields("other expiry than signed", "SharedAccessSignature sr=SR&sig=SIG&se=99999999999&skn=Root")
	fields("other resource than signed", "SharedAccessSignature sr=http%3A%2F%2Fshop.example%2F&sig=SIG&se=SE&skn=Root")
	fields("resource escaped otherwise than signed", "SharedAccessSignature sr=http%3a%2f%2fshop.example%2fhc1&sig=SIG&se=SE&skn=Root")
	fields("another's name", "SharedAccessSignature sr=SR&sig=SIG&se=SE&skn=sender")
	fields("unknown name", "SharedAccessSignature sr=SR&sig=SIG&se=SE&skn=nobody")
	fields("name with a prefix", "SharedAccessSignature sr=SR&sig=SIG&se=SE&skn=Roo")
	fields("name escaped twice", "SharedAccessSignature sr=SR&sig=SIG&se=SE&skn=%2552oot")
	fields("signature escaped twice", "SharedAccessSignature sr=SR&sig="+url.QueryEscape("SIG%3D")+"&se=SE&skn=Root")
	fields("signature too long", "SharedAccessSignature sr=SR&sig=AAAASIG&se=SE&skn=Root")
	fields("signature with a line end", "SharedAccessSignature sr=SR&sig=SIG%0A&se=SE&skn=Root")
	fields("signature of zeros", "SharedAccessSignature sr=SR&sig="+strings.Repeat("A", 43)+"%3D&se=SE&skn=Root")
	expiry := func(name, se string) { bad["expiry: "+name] = rawSAS(shopSR, se, rootKey, inOrder) }
	expiry("a second ago", in(-time.Second))
	expiry("now", in(0))
	expiry("0", "0")
	expiry("negative", "-1")
	expiry("signed", "+"+hour)
	expiry("a fraction", hour+".5")
	expiry("hex", "0xffffffffff")
	expiry("exponent", "1e12")
	expiry("underscore", "9_999_999_999")
	expiry("blank", " "+hour)
	expiry("past 64 bits", "99999999999999999999999")
	expiry("milliseconds, past 40 bits", hour+"0000")
	expiry("not ASCII digits", "٩٩٩٩٩٩٩٩٩٩")
	secret := func(name, key string) { bad["secret: "+name] = rawSAS(shopSR, hour, key, inOrder) }
	decoded, _ := base64.StdEncoding.DecodeString(rootKey)
	secret("the same key, decoded", string(decoded))
	secret("of another namespace", otherKey)
	secret("of another name", sendKey+"x")
	secret("empty", "")
	secret("with a line end", rootKey+"\n")
	secret("in another case", strings.ToLower(rootKey))
	right := func(name, sr, key, secret string) {
		bad["right: "+name] = rawSAS(sr, hour, secret, strings.Replace(inOrder, "Root", key, 1))
	}
	right("narrow key elsewhere", "http%3A%2F%2Fshop.example%2Fhc2", "hc1", hc1Key)
	right("narrow key for topics", "http%3A%2F%2Fshop.example%2Ftopics%2Fa", "watcher", sendKey)
	return bad
}

func TestBadSignatures(t *testing.T) {
	c := config()
	ns := c.Namespaces["shop"]
	ns.Keys = append(ns.Keys, access.Key{Name: "watcher", Primary: sendKey, Rights: []string{"listen"}, Path: "topics/b"})
	c.Namespaces["shop"] = ns
	p := policy(t, c)
	bad := badSignatures()
	if len(bad) < 100 {
		t.Errorf("%d bad tokens, want at least 100", len(bad))
	}
	for name, token := range bad {
		for _, ask := range []access.Ask{named(access.Send, "hc1"), named(access.Listen, "hc1"), publish("a"), manage} {
			r := httptest.NewRequest(http.MethodGet, "https://shop.example/hc1", nil)
			r.Header["Servicebusauthorization"] = []string{token}
			_, err := p.Authorize("shop", r, ask)
			refused(t, name, ask, token, err)
		}
	}
}

// refused fails unless err is the answer to a bad token, and does not show it.
func refused(t *testing.T, name string, ask access.Ask, token string, err error) {
	t.Helper()
	problem, ok := err.(*schemas.Problem)
	if !ok || problem.Name != "unauthorized" && problem.Name != "forbidden" {
		t.Errorf("%s: %+v: error %v, want unauthorized or forbidden", name, ask, err)
		return
	}
	for _, part := range strings.FieldsFunc(token, func(r rune) bool { return r == '.' || r == '&' || r == ' ' }) {
		if len(part) > 30 && strings.Contains(problem.Error(), part) {
			t.Errorf("%s: the error %q shows a part of the token", name, problem)
		}
	}
}

// Who has no key can't tell which names have one.
func TestUnknownKeyLooksLikeBadSignature(t *testing.T) {
	p := policy(t, config())
	answer := func(key string) string {
		_, err := p.Authorize("shop", request(sas("http://shop.example/", key, "no key of this namespace")), publish("a"))
		return fmt.Sprint(err)
	}
	if a, b := answer("Root"), answer("nobody"); a != b {
		t.Errorf("a known key's name gets %q, an unknown one %q; want them alike", a, b)
	}
}

func TestAuthorizeRelayed(t *testing.T) {
	p := policy(t, config())
	good, other := sas("http://shop.example/hc1", "hc1", hc1Key), sas("http://shop.example/", "sender", sendKey)
	bad := sas("http://shop.example/hc1", "hc1", otherKey)
	webSocket := http.Header{"Upgrade": {"websocket"}}
	with := func(h http.Header, name, value string) http.Header {
		h = h.Clone()
		if h == nil {
			h = http.Header{}
		}
		h.Set(name, value)
		return h
	}
	token := func(s string) string { return "sb-hc-token=" + url.QueryEscape(s) }
	tests := []struct {
		name, query string
		header      http.Header
		ask         access.Ask
		source      access.Source
		want        string
	}{
		{"no token", "", nil, named(access.Send, "hc1"), 0, "unauthorized"},
		{"open to anonymous senders", "", nil, named(access.Send, "door"), access.Nowhere, ""},
		{"the application's Authorization", "", with(nil, "Authorization", "Basic YTpi"), named(access.Send, "door"), access.Nowhere, ""},
		{"the application's Bearer", "", with(nil, "Authorization", "Bearer abc"), named(access.Send, "door"), access.Nowhere, ""},
		{"the application's access_token", "access_token=abc", nil, named(access.Send, "door"), access.Nowhere, ""},
		{"a bad token where none is needed", token(bad), nil, named(access.Send, "door"), 0, "unauthorized"},
		{"a bad header where none is needed", "", with(nil, "ServiceBusAuthorization", bad), named(access.Send, "door"), 0, "unauthorized"},
		{"a listener at an open door", "", nil, named(access.Listen, "door"), 0, "unauthorized"},
		{"Authorization, needed", "", with(nil, "Authorization", good), named(access.Send, "hc1"), access.Authorization, ""},
		{"Authorization of the application, not good enough", "", with(nil, "Authorization", "Bearer abc"), named(access.Send, "hc1"), 0, "unauthorized"},
		{"access_token does not get in", "access_token=" + url.QueryEscape(good), nil, named(access.Send, "hc1"), 0, "unauthorized"},
		{"query beside the application's Authorization", token(good), with(nil, "Authorization", "Bearer abc"), named(access.Send, "hc1"), access.ServiceBusQuery, ""},
		{"HTTP: query before header", token(good), with(nil, "ServiceBusAuthorization", bad), named(access.Send, "hc1"), access.ServiceBusQuery, ""},
		{"WebSocket: header before query", token(bad), with(webSocket, "ServiceBusAuthorization", good), named(access.Listen, "hc1"), access.ServiceBusHeader, ""},
		{"WebSocket: bad header before good query", token(good), with(webSocket, "ServiceBusAuthorization", bad), named(access.Listen, "hc1"), 0, "unauthorized"},
		{"right to send alone", token(other), webSocket, named(access.Listen, "hc1"), 0, "forbidden"},
		{"subprotocol", "", with(webSocket, "Sec-WebSocket-Protocol", "soap, outrelay.bearer."+base64.RawURLEncoding.EncodeToString([]byte(good))), named(access.Send, "hc1"), access.Subprotocol, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "https://shop.example/hc1?"+tt.query, nil)
			if tt.header != nil {
				r.Header = tt.header
			}
			g, err := p.AuthorizeRelayed("shop", r, tt.ask)
			check(t, "AuthorizeRelayed", err, tt.want)
			if err == nil && g.Source != tt.source {
				t.Errorf("Source = %v, want %v", g.Source, tt.source)
			}
		})
	}
}
