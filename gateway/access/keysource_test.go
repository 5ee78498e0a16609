package access_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
)

// A wire answers an issuer's requests without sockets, so that a bubble's clock
// stands still meanwhile and hours pass at once.
type wire struct {
	mu       sync.Mutex
	answer   func(*http.Request) (*http.Response, error)
	requests []time.Time
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.requests = append(w.requests, time.Now())
	answer := w.answer
	w.mu.Unlock()
	return answer(r)
}

func (w *wire) set(answer func(*http.Request) (*http.Response, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
}

func (w *wire) times() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Time(nil), w.requests...)
}

func body(status int, text string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text))}, nil
	}
}

func down(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func oneIssuer(w *wire) access.Config {
	return access.Config{Transport: w, Namespaces: map[string]access.Namespace{
		"shop": {JWT: []access.Issuer{{Issuer: issuerKeys, JWKS: "https://id.example/keys", Audience: "the-shop"}}},
	}}
}

// edToken is a token of the issuer that names a key and lives for long.
func edToken(k *signingKeys, kid string, life time.Duration) string {
	return compact(fmt.Sprintf(`{"alg":"EdDSA","kid":%q}`, kid), claims(issuerKeys, map[string]any{"exp": time.Now().Add(life).Unix()}),
		func(text string) []byte { return k.sign("EdDSA", "", text) })
}

// inBubble runs f with a policy of one issuer, in a bubble.
func inBubble(t *testing.T, answer func(*http.Request) (*http.Response, error), f func(t *testing.T, p *access.Policy, w *wire)) {
	mine()
	theirs()
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: answer}
		p := policy(t, oneIssuer(w))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}()
		synctest.Wait()
		f(t, p, w)
	})
}

func try(p *access.Policy, token string) error {
	_, err := p.Check(context.Background(), "shop", token)
	return err
}

func TestUnknownKeysFetchOncePerPause(t *testing.T) {
	inBubble(t, body(200, mine().jwks()), func(t *testing.T, p *access.Policy, w *wire) {
		begin := time.Now()
		for i := range 1000 {
			check(t, "unknown key", try(p, edToken(mine(), fmt.Sprint("guess ", i), time.Hour)), "unauthorized")
			time.Sleep(600 * time.Millisecond)
		}
		times := w.times()
		for i := range times[1:] {
			if d := times[i+1].Sub(times[i]); d < 30*time.Second {
				t.Errorf("requests %d and %d lie %v apart, want at least 30 s", i, i+1, d)
			}
		}
		if n, most := len(times), 2+int(time.Since(begin)/(30*time.Second)); n > most || n < 10 {
			t.Errorf("%d requests in %v, want 10 to %d", n, time.Since(begin), most)
		}
		check(t, "known key", try(p, edToken(mine(), "EdDSA", time.Hour)), "")
	})
}

func TestTokensThatNoKeyCouldSaveFetchNothing(t *testing.T) {
	inBubble(t, body(200, mine().jwks()), func(t *testing.T, p *access.Policy, w *wire) {
		time.Sleep(time.Minute)
		check(t, "expired", try(p, edToken(mine(), "guess", -time.Second)), "unauthorized")
		other := compact(`{"alg":"EdDSA","kid":"guess"}`, claims(issuerKeys, map[string]any{"aud": "x"}), func(text string) []byte { return mine().sign("EdDSA", "", text) })
		check(t, "other audience", try(p, other), "unauthorized")
		other = compact(`{"alg":"EdDSA","kid":"guess"}`, claims("https://unknown.example/", nil), func(text string) []byte { return mine().sign("EdDSA", "", text) })
		check(t, "other issuer", try(p, other), "unauthorized")
		if n := len(w.times()); n != 1 {
			t.Errorf("%d requests, want the first alone", n)
		}
	})
}

func TestKeyRotation(t *testing.T) {
	inBubble(t, body(200, mine().jwks()), func(t *testing.T, p *access.Policy, w *wire) {
		ask := publish("orders/eu")
		g, err := p.Check(context.Background(), "shop", edToken(mine(), "EdDSA", 48*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		changed := p.Changed()
		w.set(body(200, strings.ReplaceAll(theirs().jwks(), `"EdDSA"`, `"2027"`)))
		time.Sleep(31 * time.Second)
		begin := time.Now()
		check(t, "a token of the new key", try(p, edToken(theirs(), "2027", time.Hour)), "")
		if d := time.Since(begin); d != 0 {
			t.Errorf("the new key took %v, want it at once", d)
		}
		if !isClosed(changed) {
			t.Error("Changed is open after a key was taken back")
		}
		check(t, "what the old key opened", p.Recheck(g, ask), "unauthorized")
		check(t, "a new token of the old key", try(p, edToken(mine(), "EdDSA", time.Hour)), "unauthorized")
		// The same name for another key is another key.
		g, err = p.Check(context.Background(), "shop", edToken(theirs(), "2027", 48*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		w.set(body(200, strings.ReplaceAll(mine().jwks(), `"EdDSA"`, `"2027"`)))
		time.Sleep(20 * time.Minute)
		check(t, "what the key of that name opened before", p.Recheck(g, ask), "unauthorized")
	})
}

// An issuer that can't be reached, or answers nonsense, keeps its keys for a day.
func TestKeysOutliveTheirIssuer(t *testing.T) {
	set := mine().jwks()
	redirect := func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 302, Header: http.Header{"Location": {"https://id.example/other"}}, Body: http.NoBody}, nil
	}
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"down":               down,
		"slow":               hang,
		"status 500":         body(500, set),
		"status 204":         body(204, ""),
		"redirect":           redirect,
		"not JSON":           body(200, "<html>"),
		"a member twice":     body(200, `{"keys":[],"keys":[]}`),
		"no keys":            body(200, `{"keys":[]}`),
		"none to use":        body(200, `{"keys":[{"kty":"oct","k":"AA"},{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`),
		"too many":           body(200, `{"keys":[`+strings.Repeat(`{},`, 100)+`{}]}`),
		"cut off":            body(200, set[:len(set)-1]),
		"something after it": body(200, set+"x"),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, body(200, set), func(t *testing.T, p *access.Policy, w *wire) {
				token := edToken(mine(), "EdDSA", 100*time.Hour)
				g, err := p.Check(context.Background(), "shop", token)
				if err != nil {
					t.Fatal(err)
				}
				changed := p.Changed()
				w.set(answer)
				time.Sleep(23 * time.Hour)
				check(t, "after 23 hours", try(p, token), "")
				if isClosed(changed) {
					t.Error("Changed is closed though no key was taken back")
				}
				time.Sleep(90 * time.Minute)
				check(t, "after more than a day", try(p, token), "unauthorized")
				check(t, "what it opened", p.Recheck(g), "unauthorized")
				if !isClosed(changed) {
					t.Error("Changed is open after the keys were dropped")
				}
				w.set(body(200, set))
				time.Sleep(2 * time.Minute)
				check(t, "once the issuer is back", try(p, token), "")
			})
		})
	}
}

// A silent issuer costs a request two seconds at most, and only so many of them at a time.
func TestSlowIssuer(t *testing.T) {
	inBubble(t, hang, func(t *testing.T, p *access.Policy, w *wire) {
		var mu sync.Mutex
		waits := map[time.Duration]int{}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				begin := time.Now()
				check(t, "no key", try(p, edToken(mine(), fmt.Sprint(i), time.Hour)), "unauthorized")
				mu.Lock()
				defer mu.Unlock()
				waits[time.Since(begin)]++
			})
		}
		wg.Wait()
		if waits[0] != 36 || waits[access.KeyWait] != 64 {
			t.Errorf("requests by their wait: %v, want 64 of %v and the others at once", waits, access.KeyWait)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err := p.Check(ctx, "shop", edToken(mine(), "EdDSA", time.Hour))
		check(t, "a request that goes away", err, "unauthorized")
		if d := time.Since(begin); d != time.Second {
			t.Errorf("a request of 1 s waited %v", d)
		}
	})
}

func TestReloadKeepsKeys(t *testing.T) {
	inBubble(t, body(200, mine().jwks()), func(t *testing.T, p *access.Policy, w *wire) {
		token := edToken(mine(), "EdDSA", time.Hour)
		g, err := p.Check(context.Background(), "shop", token)
		if err != nil {
			t.Fatal(err)
		}
		w.set(down)
		if err := p.Reload(oneIssuer(w)); err != nil {
			t.Fatal(err)
		}
		check(t, "the same issuer", try(p, token), "")
		if n := len(w.times()); n != 1 {
			t.Errorf("%d requests after a reload that changed nothing, want 1", n)
		}
		c := oneIssuer(w)
		c.Namespaces["shop"].JWT[0].Audience = "other"
		if err := p.Reload(c); err != nil {
			t.Fatal(err)
		}
		check(t, "another audience", p.Recheck(g), "unauthorized")
		c.Namespaces["shop"].JWT[0].Audience, c.Namespaces["shop"].JWT[0].Algorithms = "the-shop", []string{"RS256"}
		if err := p.Reload(c); err != nil {
			t.Fatal(err)
		}
		check(t, "another algorithm", p.Recheck(g), "unauthorized")
		c.Namespaces["shop"].JWT[0].JWKS, c.Namespaces["shop"].JWT[0].Algorithms = "https://id.example/other", nil
		if err := p.Reload(c); err != nil {
			t.Fatal(err)
		}
		check(t, "keys from elsewhere", p.Recheck(g), "unauthorized")
		synctest.Wait() // until the keys from elsewhere were asked for
		before := len(w.times())
		if err := p.Reload(access.Config{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n := len(w.times()); n != before {
			t.Errorf("%d requests after the issuer was removed, want none", n-before)
		}
	})
}

// Sets of keys with traps in them: which tokens are taken.
func TestKeySets(t *testing.T) {
	k, other := mine(), theirs()
	ed := func(kid, more string, k *signingKeys) string {
		return fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q%s}`, kid, b64(k.ed.Public().(ed25519.PublicKey)), more)
	}
	point, err := k.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	ec := func(crv string, x, y []byte) string {
		return fmt.Sprintf(`{"kty":"EC","crv":%q,"kid":"e","x":%q,"y":%q}`, crv, b64(x), b64(y))
	}
	rsaKey := func(n []byte, e string) string {
		return fmt.Sprintf(`{"kty":"RSA","kid":"r","n":%q,"e":%q}`, b64(n), e)
	}
	modulus := k.rsa.N.Bytes()
	for _, tt := range []struct{ name, keys, alg, kid, want string }{
		{"good", ed("a", "", k), "EdDSA", "a", ""},
		{"algorithm by its new name", ed("a", `,"alg":"Ed25519"`, k), "EdDSA", "a", ""},
		{"with a certificate that nobody reads", ed("a", `,"x5c":["x"],"x5u":"https://canary.example","x5t":"x"`, k), "EdDSA", "a", ""},
		{"more than 1 MiB", ed("a", "", k) + strings.Repeat(" ", 1<<20), "EdDSA", "a", "unauthorized"},
		{"two of one name", ed("a", "", k) + "," + ed("a", "", other), "EdDSA", "a", "unauthorized"},
		{"two of one name, the other way round", ed("a", "", other) + "," + ed("a", "", k), "EdDSA", "a", "unauthorized"},
		{"the same twice", ed("a", "", k) + "," + ed("a", "", k), "EdDSA", "a", ""},
		{"two, none named", ed("a", "", k) + "," + ed("b", "", other), "EdDSA", "", "unauthorized"},
		{"one without a name", strings.Replace(ed("a", "", k), `"kid":"a",`, "", 1), "EdDSA", "", ""},
		{"for encryption", ed("a", `,"use":"enc"`, k), "EdDSA", "a", "unauthorized"},
		{"for signing alone", ed("a", `,"key_ops":["sign"]`, k), "EdDSA", "a", "unauthorized"},
		{"for another algorithm", ed("a", `,"alg":"RS256"`, k), "EdDSA", "a", "unauthorized"},
		{"member twice", ed("a", `,"kid":"a"`, k), "EdDSA", "a", "unauthorized"},
		{"good RSA", rsaKey(modulus, "AQAB"), "RS256", "r", ""},
		{"short RSA", rsaKey(modulus[:128], "AQAB"), "RS256", "r", "unauthorized"},
		{"long RSA", rsaKey(slices.Concat(modulus, modulus, modulus, modulus, modulus), "AQAB"), "RS256", "r", "unauthorized"},
		{"RSA exponent 1", rsaKey(modulus, "AQ"), "RS256", "r", "unauthorized"},
		{"RSA exponent even", rsaKey(modulus, "BA"), "RS256", "r", "unauthorized"},
		{"RSA exponent huge", rsaKey(modulus, "_____w"), "RS256", "r", "unauthorized"},
		{"RSA padded", rsaKey(modulus, "AQAB=="), "RS256", "r", "unauthorized"},
		{"good EC", ec("P-256", point[1:33], point[33:]), "ES256", "e", ""},
		{"EC off the curve", ec("P-256", point[1:33], point[1:33]), "ES256", "e", "unauthorized"},
		{"EC of another curve", ec("P-384", point[1:33], point[33:]), "ES256", "e", "unauthorized"},
		{"EC short", ec("P-256", point[2:33], point[33:]), "ES256", "e", "unauthorized"},
		{"EC zero", ec("P-256", make([]byte, 32), make([]byte, 32)), "ES256", "e", "unauthorized"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, body(200, `{"keys":[`+tt.keys+`]}`), func(t *testing.T, p *access.Policy, w *wire) {
				h := fmt.Sprintf(`{"alg":%q,"kid":%q}`, tt.alg, tt.kid)
				if tt.kid == "" {
					h = fmt.Sprintf(`{"alg":%q}`, tt.alg)
				}
				token := compact(h, claims(issuerKeys, nil), func(text string) []byte { return k.sign(tt.alg, "RS256", text) })
				check(t, "token", try(p, token), tt.want)
			})
		})
	}
}

// TestDiscovery asks a real server over TLS.
func TestDiscovery(t *testing.T) {
	var description string
	var mu sync.Mutex
	var other *httptest.Server
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.URL.Path {
		case "/realm/.well-known/openid-configuration":
			_, _ = io.WriteString(w, description)
		case "/keys":
			_, _ = io.WriteString(w, mine().jwks())
		case "/elsewhere":
			http.Redirect(w, r, other.URL+"/keys", http.StatusFound)
		}
	}))
	defer s.Close()
	other = newKeyServer(t, mine()).Server
	issuer := s.URL + "/realm/"
	token := compact(`{"alg":"EdDSA","kid":"EdDSA"}`, claims(issuer, nil), func(text string) []byte { return mine().sign("EdDSA", "", text) })
	for _, tt := range []struct{ name, description, want string }{
		{"good", fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuer, s.URL+"/keys"), ""},
		{"another issuer", fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, s.URL, s.URL+"/keys"), "unauthorized"},
		{"no issuer", fmt.Sprintf(`{"jwks_uri":%q}`, s.URL+"/keys"), "unauthorized"},
		{"plain address", fmt.Sprintf(`{"issuer":%q,"jwks_uri":"http://id.example/keys"}`, issuer), "unauthorized"},
		{"file", fmt.Sprintf(`{"issuer":%q,"jwks_uri":"file:///etc/passwd"}`, issuer), "unauthorized"},
		{"no address", fmt.Sprintf(`{"issuer":%q}`, issuer), "unauthorized"},
		{"redirect", fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuer, s.URL+"/elsewhere"), "unauthorized"},
		{"no JSON", "x", "unauthorized"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mu.Lock()
			description = tt.description
			mu.Unlock()
			var log bytes.Buffer
			p := policy(t, access.Config{
				Transport: s.Client().Transport, Log: slog.New(slog.NewTextHandler(&log, nil)),
				Namespaces: map[string]access.Namespace{"shop": {JWT: []access.Issuer{{Issuer: issuer, Audience: "the-shop"}}}},
			})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			err := try(p, token)
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			check(t, "token", err, tt.want)
			if logged := log.Len() > 0; logged != (tt.want != "") {
				t.Errorf("log is %q", log.String())
			}
		})
	}
	s.Client().CloseIdleConnections()
}
