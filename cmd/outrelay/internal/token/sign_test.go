package token_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/token"
	"github.com/outrelay/outrelay/gateway/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "a-secret-of-these-tests-that-is-long-enough"

var keys = sync.OnceValue(func() (k struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
	ed  ed25519.PrivateKey
}) {
	var errs [3]error
	k.rsa, errs[0] = rsa.GenerateKey(rand.Reader, 2048)
	k.ec, errs[1] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, k.ed, errs[2] = ed25519.GenerateKey(rand.Reader)
	for _, err := range errs {
		if err != nil {
			panic(err)
		}
	}
	return k
})

// jwks is what the issuer of these tests publishes.
func jwks(t *testing.T) string {
	k, b64 := keys(), base64.RawURLEncoding.EncodeToString
	point, err := k.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"keys":[
		{"kty":"RSA","kid":"rsa","n":%q,"e":"AQAB"},
		{"kty":"EC","kid":"ec","crv":"P-256","x":%q,"y":%q},
		{"kty":"OKP","kid":"ed","crv":"Ed25519","x":%q}]}`,
		b64(k.rsa.N.Bytes()), b64(point[1:33]), b64(point[33:]), b64(k.ed.Public().(ed25519.PublicKey)))
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

// What every kind of key signs, a gateway with that key's issuer takes, with the
// rights that were given.
func TestSignedTokensAreTaken(t *testing.T) {
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, jwks(t)) }))
	defer issuer.Close()
	policy, err := access.New(access.Config{Transport: &http.Transport{DisableKeepAlives: true}, Namespaces: map[string]access.Namespace{"n": {JWT: []access.Issuer{
		{Issuer: "keys", JWKS: issuer.URL, Audience: "relay"},
		{Issuer: "secret", Secret: secret, Audience: "relay"},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	defer func() {
		cancel()
		<-ended
	}()
	go func() { // ends with the test
		defer close(ended)
		if err := policy.Run(ctx); err != nil {
			t.Error(err)
		}
	}()

	k := keys()
	ec, err := x509.MarshalECPrivateKey(k.ec)
	if err != nil {
		t.Fatal(err)
	}
	withParameters := append(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8}}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ec})...)
	for _, tt := range []struct {
		content              []byte
		algorithm, want, kid string
	}{
		{pkcs8(t, k.rsa), "", "RS256", "rsa"},
		{pkcs8(t, k.rsa), "PS256", "PS256", "rsa"},
		{pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k.rsa)}), "RS256", "RS256", "rsa"},
		{pkcs8(t, k.ec), "", "ES256", "ec"},
		{withParameters, "ES256", "ES256", "ec"},
		{pkcs8(t, k.ed), "", "EdDSA", "ed"},
		{[]byte("\n" + secret + "\n"), "", "HS256", ""},
	} {
		key, err := token.ParseKey(tt.content, tt.algorithm)
		if err != nil || key.Algorithm() != tt.want {
			t.Fatalf("ParseKey(%.30q, %q) signs with %v (%v), want %s", tt.content, tt.algorithm, key, err, tt.want)
		}
		claims := token.Claims{
			KeyID: tt.kid, Issuer: "keys", Subject: "me", Audience: "relay",
			Expires: time.Now().Add(time.Hour).Truncate(time.Second), NotSince: time.Now().Add(-time.Hour),
			Rights: access.Rights{Publish: []string{"a/**"}, Subscriptions: []string{"billing"}, Manage: true},
		}
		if tt.kid == "" {
			claims.Issuer = "secret"
		}
		made, err := key.Sign(claims)
		if err != nil {
			t.Fatalf("%s: Sign: %v", tt.want, err)
		}
		grant, err := policy.Check(t.Context(), "n", made)
		if err != nil {
			t.Errorf("%s: the token is refused: %v", tt.want, err)
			continue
		}
		if !reflect.DeepEqual(grant.Rights(), claims.Rights) || !grant.Expires.Equal(claims.Expires) || grant.Subject != claims.Issuer+" me" {
			t.Errorf("%s: the grant is %v %v %+v, want what the claims say: %+v", tt.want, grant, grant.Expires, grant.Rights(), claims)
		}
	}
}

// A key that no gateway would trust is refused, and no error shows it.
func TestBadKeys(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, content, algorithm, want string }{
		{"nothing", "", "", "at least 32"},
		{"short secret", "0123456789-geheim", "", "at least 32"},
		{"no key in PEM", "-----BEGIN CERTIFICATE-----\nZ2VoZWlt\n-----END CERTIFICATE-----\n", "", "no private key"},
		{"damaged", "-----BEGIN PRIVATE KEY-----\nZ2VoZWlt\n-----END PRIVATE KEY-----\n", "", "no private key"},
		{"another curve", string(pkcs8(t, other)), "", "P-256"},
		{"none", secret, "none", "only with [HS256]"},
		{"a secret for RS256", secret, "RS256", "only with [HS256]"},
	} {
		_, err := token.ParseKey([]byte(tt.content), tt.algorithm)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: error %v, want one with %q and nothing of the key", tt.name, err, tt.want)
		}
	}
}
