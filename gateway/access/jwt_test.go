package access_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// signingKeys are an issuer's keys, named by algorithm: "RS256" is its RSA key for
// that one, "plain" an RSA key whose JWK names no algorithm.
type signingKeys struct {
	rsa, pss, plain *rsa.PrivateKey
	ec              *ecdsa.PrivateKey
	ed              ed25519.PrivateKey
}

func newSigningKeys() *signingKeys {
	k := &signingKeys{}
	var err [5]error
	k.rsa, err[0] = rsa.GenerateKey(rand.Reader, 2048)
	k.pss, err[1] = rsa.GenerateKey(rand.Reader, 2048)
	k.plain, err[2] = rsa.GenerateKey(rand.Reader, 2048)
	k.ec, err[3] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, k.ed, err[4] = ed25519.GenerateKey(rand.Reader)
	for _, e := range err {
		if e != nil {
			panic(e)
		}
	}
	return k
}

// Making RSA keys takes a second: all tests share two issuers'.
var (
	mine   = sync.OnceValue(newSigningKeys)
	theirs = sync.OnceValue(newSigningKeys)
)

const hsSecret = "a-shared-secret-of-more-than-32-bytes"

func (k *signingKeys) jwks() string {
	rsaKey := func(kid, alg string, p *rsa.PrivateKey) string {
		return fmt.Sprintf(`{"kty":"RSA","kid":%q,%s"use":"sig","n":%q,"e":"AQAB"}`, kid, alg, b64(p.N.Bytes()))
	}
	point, err := k.ec.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return `{"keys":[` + strings.Join([]string{
		rsaKey("RS256", `"alg":"RS256",`, k.rsa),
		rsaKey("PS256", `"alg":"PS256",`, k.pss),
		rsaKey("plain", "", k.plain),
		rsaKey("for encryption", `"alg":"RSA-OAEP",`, k.rsa),
		fmt.Sprintf(`{"kty":"EC","kid":"ES256","crv":"P-256","x":%q,"y":%q,"key_ops":["verify"]}`, b64(point[1:33]), b64(point[33:])),
		fmt.Sprintf(`{"kty":"OKP","kid":"EdDSA","crv":"Ed25519","x":%q}`, b64(k.ed.Public().(ed25519.PublicKey))),
		`{"kty":"oct","kid":"HS256","k":"c2VjcmV0"}`,
		`{"kty":"EC","kid":"P-521","crv":"P-521","x":"AA","y":"AA"}`,
		`{"kty":"quantum","kid":"new"}`,
		`"no key at all"`,
	}, ",") + `]}`
}

// sign makes the signature that alg asks for with the key named kid.
func (k *signingKeys) sign(alg, kid, text string) []byte {
	digest := sha256.Sum256([]byte(text))
	private := map[string]*rsa.PrivateKey{"RS256": k.rsa, "PS256": k.pss, "plain": k.plain}[kid]
	if private == nil {
		private = k.rsa
	}
	var sig []byte
	var err error
	switch alg {
	case "RS256":
		sig, err = rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, digest[:])
	case "PS256":
		sig, err = rsa.SignPSS(rand.Reader, private, crypto.SHA256, digest[:], nil)
	case "ES256":
		var r, s *big.Int
		r, s, err = ecdsa.Sign(rand.Reader, k.ec, digest[:])
		sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	case "EdDSA":
		sig = ed25519.Sign(k.ed, []byte(text))
	case "HS256":
		sig = hs256([]byte(hsSecret), text)
	}
	if err != nil {
		panic(err)
	}
	return sig
}

func hs256(secret []byte, text string) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// compact joins a token from a header and claims as they stand.
func compact(header, claims string, sign func(text string) []byte) string {
	text := b64([]byte(header)) + "." + b64([]byte(claims))
	return text + "." + b64(sign(text))
}

func header(alg string) string { return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, alg, alg) }

const ordersRights = `{"publish":["orders/**"],"subscribe":["orders/**"],"subscriptions":["billing"],"listen":["Printer"],"send":["printer/*"],"manage":true}`

// claims are good ones; change replaces or adds members, raw JSON, nil to leave one out.
func claims(iss string, change map[string]any) string {
	now := time.Now().Unix()
	c := map[string]any{
		"iss": iss, "sub": "alice", "aud": "the-shop", "exp": now + 3600, "nbf": now - 10, "iat": now - 10,
		"outrelay": json.RawMessage(ordersRights),
	}
	for k, v := range change {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func raw(s string) json.RawMessage { return json.RawMessage(s) }

// keyServer serves one issuer's description and keys, over TCP.
type keyServer struct {
	*httptest.Server
	requests atomic.Int64
}

func newKeyServer(t testing.TB, k *signingKeys) *keyServer {
	s := &keyServer{}
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(k.jwks())) })
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"other":[1]}`, s.URL, s.URL+"/keys")
	})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// start runs the policy until the test ends.
func start(t testing.TB, p *access.Policy) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// Names of the issuers of jwtConfig. The third, OpenID Connect's, is its server's address.
const (
	issuerKeys   = "https://id.example/"
	issuerSecret = "secret-service"
	issuerTheirs = "https://other-id.example/"
)

func jwtConfig(keys, openID, other *keyServer) access.Config {
	c := config()
	ns := c.Namespaces["shop"]
	ns.JWT = []access.Issuer{
		{Issuer: issuerKeys, JWKS: keys.URL + "/keys", Audience: "the-shop"},
		{Issuer: issuerSecret, Secret: hsSecret, Audience: "the-shop"},
		{Issuer: openID.URL, Audience: "the-shop"},
		{Issuer: issuerTheirs, JWKS: other.URL + "/keys", Audience: "the-shop"},
	}
	c.Namespaces["shop"] = ns
	ns = c.Namespaces["other"]
	ns.JWT = []access.Issuer{{Issuer: issuerTheirs, JWKS: other.URL + "/keys", Audience: "the-other"}}
	c.Namespaces["other"] = ns
	return c
}

func TestGoodWebTokens(t *testing.T) {
	keys, openID, other := newKeyServer(t, mine()), newKeyServer(t, mine()), newKeyServer(t, theirs())
	p := policy(t, jwtConfig(keys, openID, other))
	start(t, p)
	good := map[string]string{}
	for _, alg := range []string{"RS256", "PS256", "ES256", "EdDSA"} {
		sign := func(text string) []byte { return mine().sign(alg, alg, text) }
		good[alg] = compact(header(alg), claims(issuerKeys, nil), sign)
		good[alg+" by OpenID Connect"] = compact(header(alg), claims(openID.URL, nil), sign)
		good[alg+" of the other issuer"] = compact(header(alg), claims(issuerTheirs, nil), func(text string) []byte { return theirs().sign(alg, alg, text) })
	}
	for _, alg := range []string{"RS256", "PS256"} {
		good[alg+" by a key that names no algorithm"] = compact(fmt.Sprintf(`{"alg":%q,"kid":"plain"}`, alg), claims(issuerKeys, nil),
			func(text string) []byte { return mine().sign(alg, "plain", text) })
	}
	for _, alg := range []string{"ES256", "EdDSA"} {
		good[alg+" with the only such key unnamed"] = compact(fmt.Sprintf(`{"alg":%q}`, alg), claims(issuerKeys, nil),
			func(text string) []byte { return mine().sign(alg, "", text) })
	}
	hs := func(header string, change map[string]any) string {
		return compact(header, claims(issuerSecret, change), func(text string) []byte { return hs256([]byte(hsSecret), text) })
	}
	good["HS256"] = hs(`{"alg":"HS256","typ":"JWT"}`, nil)
	good["access token type"] = hs(`{"typ":"at+JWT","alg":"HS256"}`, nil)
	good["full media type"] = hs(`{"typ":"application/at+jwt","alg":"HS256"}`, nil)
	good["several audiences"] = hs(header("HS256"), map[string]any{"aud": []string{"a", "the-shop"}})
	good["no nbf, no iat, no sub"] = hs(header("HS256"), map[string]any{"nbf": nil, "iat": nil, "sub": nil})
	good["fractions of a second"] = hs(header("HS256"), map[string]any{"exp": raw(fmt.Sprintf("%d.75", time.Now().Unix()+60))})
	good["exp with an exponent"] = hs(header("HS256"), map[string]any{"exp": raw("4.1e9")})
	good["claims of others"] = hs(header("HS256"), map[string]any{"azp": "x", "scope": "a b", "nested": map[string]any{"a": 1}})
	good["clock 3 s ahead"] = hs(header("HS256"), map[string]any{"nbf": time.Now().Unix() + 3})
	for name, token := range good {
		g, err := p.Authorize("shop", request(token), publish("orders/eu"), subscribe("orders/*"), named(access.Subscription, "billing"),
			named(access.Listen, "PRINTER"), named(access.Send, "printer/a"), manage)
		check(t, name, err, "")
		if err != nil {
			continue
		}
		for _, a := range []access.Ask{publish("orders"), subscribe("**"), named(access.Subscription, "shipping"), named(access.Listen, "printer/a"), named(access.Send, "printer")} {
			check(t, fmt.Sprintf("%s: %+v", name, a), g.Allows(a), "forbidden")
		}
		if !strings.HasSuffix(g.Subject, " alice") && name != "no nbf, no iat, no sub" {
			t.Errorf("%s: subject %q, want the issuer and alice", name, g.Subject)
		}
	}
	_, err := p.Authorize("shop", request(hs(header("HS256"), map[string]any{"outrelay": nil})), publish("orders/eu"))
	check(t, "no rights at all", err, "forbidden")
	_, err = p.Authorize("other", request(good["RS256 of the other issuer"]), publish("orders/eu"))
	check(t, "the audience of another namespace", err, "unauthorized")
	if n := keys.requests.Load(); n != 1 {
		t.Errorf("%d requests for keys, want 1", n)
	}
}

// webTokenForger makes the bad tokens of one algorithm.
type webTokenForger struct {
	alg, iss string
	canary   string // an address that nobody may ask
	out      map[string]string
}

func (f *webTokenForger) sign(text string) []byte { return mine().sign(f.alg, f.alg, text) }

func (f *webTokenForger) add(name, token string) { f.out[f.alg+": "+name] = token }

// header adds a token that is signed as it should be and has that header.
func (f *webTokenForger) header(name, h string) {
	f.add("header: "+name, compact(h, claims(f.iss, nil), f.sign))
}

// member adds a token with one more member in its header.
func (f *webTokenForger) member(member string) {
	f.header(member, strings.Replace(header(f.alg), "{", "{"+member+",", 1))
}

// claim adds a token, signed as it should be, with changed claims.
func (f *webTokenForger) claim(name string, change map[string]any) {
	f.add("claims: "+name, compact(header(f.alg), claims(f.iss, change), f.sign))
}

func (f *webTokenForger) text(name, c string) {
	f.add("claims: "+name, compact(header(f.alg), c, f.sign))
}

func (f *webTokenForger) headers() {
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "", strings.ToLower(f.alg), f.alg + " ", " " + f.alg, f.alg + "\x00", f.alg[:2] + "384", f.alg[:2] + "512", "RS1", "HS1", "ES256K", "ESP256", "dir", "A128KW"} {
		h := fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, f.alg)
		f.header("alg "+alg, strings.ReplaceAll(h, `\x00`, `\u0000`))
		f.add("no signature, alg "+alg, b64([]byte(h))+"."+b64([]byte(claims(f.iss, nil)))+".")
	}
	f.header("no alg", fmt.Sprintf(`{"kid":%q}`, f.alg))
	for _, v := range []string{"null", "1", "true", `["` + f.alg + `"]`, `{"` + f.alg + `":1}`} {
		f.header("alg is "+v, `{"alg":`+v+`,"kid":"`+f.alg+`"}`)
		f.header("kid is "+v, `{"alg":"`+f.alg+`","kid":`+v+`}`)
	}
	// The right key and a method of the same family, or the key's text as a secret.
	for _, alg := range []string{"RS256", "PS256", "ES256", "EdDSA", "HS256"} {
		if alg != f.alg {
			f.add("signed by its key as "+alg, compact(fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, f.alg), claims(f.iss, nil),
				func(text string) []byte { return mine().sign(alg, f.alg, text) }))
		}
	}
	public := map[string]crypto.PublicKey{
		"RS256": mine().rsa.Public(), "PS256": mine().pss.Public(), "ES256": mine().ec.Public(), "EdDSA": mine().ed.Public(), "HS256": mine().rsa.Public(),
	}[f.alg]
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err)
	}
	for name, secret := range map[string][]byte{
		"DER": der, "PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "key set": []byte(mine().jwks()), "nothing": {},
		"name": []byte(f.alg), "address": []byte(f.iss),
	} {
		for _, kid := range []string{f.alg, "HS256"} {
			f.add("HS256 with its "+name+" as secret, kid "+kid, compact(fmt.Sprintf(`{"alg":"HS256","kid":%q}`, kid), claims(f.iss, nil),
				func(text string) []byte { return hs256(secret, text) }))
		}
	}
	for _, m := range []string{
		`"jku":"` + f.canary + `/keys"`, `"x5u":"` + f.canary + `/cert"`, `"jku":null`, `"x5u":[]`, `"jwk":{"kty":"oct","k":"c2VjcmV0"}`, `"x5c":["MIIB"]`,
		`"crit":["exp"]`, `"crit":[]`, `"b64":false`, `"zip":"DEF"`, `"enc":"A128GCM"`, `"cty":"JWT"`, `"typ":"JWE"`, `"typ":"dpop+jwt"`, `"typ":1`,
		`"alg":"none"`, `"alg":"` + f.alg + `"`, `"kid":"other"`, `"\u0061lg":"none"`, `"x":{"a":1,"a":2}`,
	} {
		f.member(m)
	}
	f.header("array", `["`+f.alg+`"]`)
	f.header("text", `"`+f.alg+`"`)
	f.header("null", `null`)
	f.header("empty", ``)
	f.header("two objects", header(f.alg)+header(f.alg))
	f.header("bad UTF-8", `{"alg":"`+f.alg+"\",\"x\":\"\xff\"}")
	f.header("byte order mark", "\ufeff"+header(f.alg))
	f.header("comment", header(f.alg)+"//")
	f.header("single quotes", `{'alg':'`+f.alg+`'}`)
}

func (f *webTokenForger) claimsOf() {
	now := time.Now().Unix()
	for name, v := range map[string]any{
		"missing": nil, "null": raw("null"), "text": fmt.Sprint(now + 3600), "true": true, "array": []int64{now + 3600}, "object": map[string]int64{"exp": now + 3600},
		"past": now - 3600, "a second ago": now - 1, "now": now, "zero": 0, "negative": -1, "milliseconds, past the year 9999": (now + 3600) * 1000000, "huge": raw("1e300"), "past every number": raw("1e999"),
	} {
		f.claim("exp "+name, map[string]any{"exp": v})
	}
	for name, v := range map[string]any{
		"in an hour": now + 3600, "in a minute": now + 60, "in ten seconds": now + 15, "text": "0", "null": raw("null"), "huge": raw("1e300"),
	} {
		f.claim("nbf "+name, map[string]any{"nbf": v})
	}
	f.claim("iat text", map[string]any{"iat": "now"})
	for name, v := range map[string]any{
		"missing": nil, "null": raw("null"), "empty": "", "array": []string{f.iss}, "another": "https://evil.example/", "longer": f.iss + "x", "with a slash more": f.iss + "/",
		"shorter": f.iss[:len(f.iss)-1], "in capitals": strings.ToUpper(f.iss), "with a blank": f.iss + " ", "a canary": f.canary, "of an issuer with other keys": issuerTheirs,
	} {
		f.claim("iss "+name, map[string]any{"iss": v})
	}
	for name, v := range map[string]any{
		"missing": nil, "null": raw("null"), "empty": "", "no audiences": []string{}, "another": "the-other", "longer": "the-shop2", "in capitals": "The-Shop", "joined": "a the-shop",
		"array of others": []string{"the-other", "shop"}, "number": 1, "object": map[string]string{"the-shop": "the-shop"}, "array of arrays": [][]string{{"the-shop"}}, "mixed array": []any{"the-shop", 1},
	} {
		f.claim("aud "+name, map[string]any{"aud": v})
	}
	f.claim("sub number", map[string]any{"sub": 1})
	for _, v := range []string{
		`null`, `"all"`, `[]`, `1`, `true`, `{"publish":"orders/**"}`, `{"publish":[1]}`, `{"publish":["a//b"]}`, `{"publish":[""]}`, `{"publish":["**/a"]}`, `{"publish":{"orders/**":true}}`,
		`{"publish":["a"],"publish":["orders/**"]}`, `{"publish":["orders/**"],"\u0070ublish":["a"]}`, `{"subscribe":["orders/>"]}`, `{"subscriptions":["a/b"]}`, `{"subscriptions":["**"]}`,
		`{"subscriptions":"billing"}`, `{"listen":["a b"]}`, `{"send":[null]}`, `{"manage":"true"}`, `{"manage":1}`,
	} {
		f.claim("outrelay "+v, map[string]any{"outrelay": raw(v)})
	}
	good := claims(f.iss, nil)
	for _, m := range []string{
		`"exp":1`, fmt.Sprintf(`"exp":%d`, now+3600), `"iss":"` + f.iss + `"`, `"iss":"x"`, `"aud":"the-shop"`, `"sub":"root"`, `"nbf":0`, `"iat":0`, `"outrelay":{"manage":true}`, `"\u0065xp":4000000000`,
		`"x":{"y":1,"y":1}`,
	} {
		f.text("member twice: "+m, strings.Replace(good, "{", "{"+m+",", 1))
		f.text("member twice, at the end: "+m, strings.TrimSuffix(good, "}")+","+m+"}")
	}
	f.text("array", "["+good+"]")
	f.text("text", `"`+b64([]byte(good))+`"`)
	f.text("null", "null")
	f.text("empty", "")
	f.text("no object", "{}")
	f.text("something after", good+" {}")
	f.text("cut off", good[:len(good)-1])
	f.text("bad UTF-8", strings.Replace(good, "alice", "al\xffce", 1))
	f.text("lone surrogate", strings.Replace(good, "alice", `\ud800`, 1))
	f.text("nested token", compact(header(f.alg), good, f.sign))
	f.text("nested in text", `"`+compact(header(f.alg), good, f.sign)+`"`)
}

func (f *webTokenForger) signatures() {
	h, c := header(f.alg), claims(f.iss, nil)
	good := compact(h, c, f.sign)
	head, body, _ := strings.Cut(good, ".")
	body, sig, _ := strings.Cut(body, ".")
	bytes, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		panic(err)
	}
	changed := func(name string, change func(b []byte) []byte) {
		f.add("signature: "+name, head+"."+body+"."+b64(change(slices.Clone(bytes))))
	}
	changed("first bit", func(b []byte) []byte { b[0] ^= 0x80; return b })
	changed("last bit", func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	changed("a byte short", func(b []byte) []byte { return b[:len(b)-1] })
	changed("a byte more", func(b []byte) []byte { return append(b, 0) })
	changed("a zero before", func(b []byte) []byte { return append([]byte{0}, b...) })
	changed("zeros", func(b []byte) []byte { return make([]byte, len(b)) })
	changed("ones", func(b []byte) []byte { return slices.Repeat([]byte{0xff}, len(b)) })
	changed("doubled", func(b []byte) []byte { return append(b, b...) })
	changed("one byte", func(b []byte) []byte { return b[:1] })
	f.add("signature: none", head+"."+body+".")
	f.add("signature: padded", good+"==")
	f.add("signature: line end", good+"\n")
	f.add("signature: a blank inside", head+"."+body+"."+sig[:9]+" "+sig[9:])
	f.add("signature: of other claims", head+"."+b64([]byte(claims(f.iss, map[string]any{"sub": "root"})))+"."+sig)
	f.add("signature: of another header", b64([]byte(strings.Replace(h, "JWT", "jwt", 1)))+"."+body+"."+sig)
	f.add("signature: over the claims alone", head+"."+body+"."+b64(f.sign(body)))
	f.add("signature: over both without the dot", head+"."+body+"."+b64(f.sign(head+body)))
	f.add("form: two parts", head+"."+body)
	f.add("form: one part", head)
	f.add("form: four parts", good+"."+sig)
	f.add("form: five parts", head+"."+sig+"."+sig+"."+body+"."+sig)
	f.add("form: a dot before", "."+good)
	f.add("form: a dot after", good+".")
	f.add("form: dots", strings.Repeat(".", 4000))
	f.add("form: JSON", fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, head, body, sig))
	f.add("form: padded header", head+"=."+body+"."+sig)
	f.add("form: scheme twice", "Bearer "+good)
	f.add("form: too long", compact(h, claims(f.iss, map[string]any{"x": strings.Repeat("x", access.MaxToken)}), f.sign))
	if f.alg == "ES256" {
		der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(bytes[:32]), new(big.Int).SetBytes(bytes[32:])})
		if err != nil {
			panic(err)
		}
		f.add("signature: in DER", head+"."+body+"."+b64(der))
	}
}

// strangers adds tokens that others signed.
func (f *webTokenForger) strangers() {
	theirs := func(text string) []byte { return theirs().sign(f.alg, f.alg, text) }
	if f.alg == "HS256" {
		theirs = func(text string) []byte { return hs256([]byte("another-secret-of-more-than-32-bytes"), text) }
	}
	good := claims(f.iss, nil)
	f.add("signed by the other issuer's key of the same name", compact(header(f.alg), good, theirs))
	f.add("signed by it, without a name", compact(fmt.Sprintf(`{"alg":%q}`, f.alg), good, theirs))
	f.add("of the other issuer, signed by ours", compact(header(f.alg), claims(issuerTheirs, nil), f.sign))
	for _, kid := range []string{
		"", "../../../dev/null", "/etc/passwd", "' OR 1=1 --", "a' UNION SELECT 'key", "http://127.0.0.1/keys", f.canary + "/keys", "file:///dev/zero", "|id", "$(id)", "`id`", "%2e%2e%2f",
		strings.ToLower(f.alg), f.alg + " ", f.alg + "\u0000", "0", strings.Repeat("k", 4000), issuerTheirs, "RS256\nRS256",
	} {
		name, err := json.Marshal(kid)
		if err != nil {
			panic(err)
		}
		h := fmt.Sprintf(`{"alg":%q,"kid":%s}`, f.alg, name)
		f.add("kid "+kid+", signed by another", compact(h, good, theirs))
		if f.alg != "HS256" { // a secret has no name
			f.add("kid "+kid, compact(h, good, f.sign))
		}
	}
	f.add("two such keys and none named", compact(`{"alg":"RS256"}`, good, func(text string) []byte { return mine().sign("RS256", "RS256", text) }))
	f.add("a key for encryption", compact(`{"alg":"RS256","kid":"for encryption"}`, good, func(text string) []byte { return mine().sign("RS256", "RS256", text) }))
	f.add("a secret in the key set", compact(`{"alg":"HS256","kid":"HS256"}`, good, func(text string) []byte { return hs256([]byte("secret"), text) }))
}

func TestBadWebTokens(t *testing.T) {
	var canary atomic.Int64
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { canary.Add(1) }))
	defer trap.Close()
	keys, openID, other := newKeyServer(t, mine()), newKeyServer(t, mine()), newKeyServer(t, theirs())
	p := policy(t, jwtConfig(keys, openID, other))
	start(t, p)
	good := map[string]string{}
	bad := map[string]string{}
	for _, alg := range []string{"RS256", "PS256", "ES256", "EdDSA", "HS256"} {
		f := &webTokenForger{alg: alg, iss: issuerKeys, canary: trap.URL, out: bad}
		if alg == "HS256" {
			f.iss = issuerSecret
		}
		f.headers()
		f.claimsOf()
		f.signatures()
		f.strangers()
		good[alg] = compact(header(alg), claims(f.iss, nil), f.sign)
	}
	taken := func() {
		for alg, token := range good {
			_, err := p.Authorize("shop", request(token), publish("orders/eu"))
			check(t, "good "+alg, err, "")
		}
	}
	taken()
	if len(bad) < 300 {
		t.Errorf("%d bad tokens, want at least 300", len(bad))
	}
	t.Logf("%d bad tokens", len(bad))
	for name, token := range bad {
		// Visitors may do this: a bad token is worse than none.
		_, err := p.Authorize("shop", request(token), publish("public/a"))
		refused(t, name, publish("public/a"), token, err)
		check(t, name, err, "unauthorized")
	}
	taken()
	if n := canary.Load(); n != 0 {
		t.Errorf("%d requests to an address from a token, want none", n)
	}
	for name, s := range map[string]*keyServer{"keys": keys, "the other issuer": other} {
		if n := s.requests.Load(); n > 1 {
			t.Errorf("%d requests for %s within 30 s, want one", n, name)
		}
	}
}
