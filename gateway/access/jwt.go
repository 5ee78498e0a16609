package access

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"

	"github.com/outrelay/outrelay/schemas"
)

// clockLeeway is how far nbf may lie ahead, for issuers whose clock is ahead of
// ours. An expiry has none.
const clockLeeway = 5 * time.Second

// methods verify signatures. What is not here does not exist.
var methods = map[string]jwt.SigningMethod{
	algHS256: jwt.SigningMethodHS256,
	algRS256: jwt.SigningMethodRS256,
	algPS256: jwt.SigningMethodPS256,
	algES256: jwt.SigningMethodES256,
	algEdDSA: jwt.SigningMethodEdDSA,
}

// A webToken is a JSON Web Token, taken apart and not verified.
type webToken struct {
	alg       string
	kid       *string // nil if it names no key
	signed    string  // what is signed, as it stands in the token
	signature []byte

	issuer, subject    string
	audience           []string
	expires, notBefore time.Time // notBefore is zero if not said
	claim              Rights
}

// parseWebToken reads a token in compact form. The text is what is wrong with it,
// "" if nothing.
func parseWebToken(text string) (t webToken, wrong string) {
	const form = "The token is neither a signed JWT nor a shared access signature."
	if strings.Count(text, ".") != 2 {
		return t, form
	}
	end := strings.LastIndexByte(text, '.')
	t.signed = text[:end]
	first, second, _ := strings.Cut(t.signed, ".")
	header, ok1 := decodeBase64(base64.RawURLEncoding, first)
	claims, ok2 := decodeBase64(base64.RawURLEncoding, second)
	signature, ok3 := decodeBase64(base64.RawURLEncoding, text[end+1:])
	if !ok1 || !ok2 || !ok3 || len(signature) == 0 {
		return t, form
	}
	t.signature = signature
	if wrong := t.parseHeader(header); wrong != "" {
		return t, wrong
	}
	return t, t.parseClaims(claims)
}

// parseHeader reads the header (RFC 7515 section 4). A member that would change
// what is verified, or where the key comes from, is refused rather than ignored.
func (t *webToken) parseHeader(b []byte) (wrong string) {
	var h struct {
		Alg string         `json:"alg"`
		Kid jsontext.Value `json:"kid"`
		Typ string         `json:"typ"`
		Cty jsontext.Value `json:"cty"`
		Crt jsontext.Value `json:"crit"`
		B64 jsontext.Value `json:"b64"`
		Enc jsontext.Value `json:"enc"`
		Zip jsontext.Value `json:"zip"`
		JKU jsontext.Value `json:"jku"`
		JWK jsontext.Value `json:"jwk"`
		X5U jsontext.Value `json:"x5u"`
		X5C jsontext.Value `json:"x5c"`
	}
	if !isObject(b) || json.Unmarshal(b, &h) != nil {
		return "The token's header is not a JSON object with each member once."
	}
	for _, v := range []jsontext.Value{h.Cty, h.Crt, h.B64, h.Enc, h.Zip, h.JKU, h.JWK, h.X5U, h.X5C} {
		if v != nil {
			return "The token's header has one of cty, crit, b64, enc, zip, jku, jwk, x5u, x5c; such tokens are not taken."
		}
	}
	switch strings.TrimPrefix(strings.ToLower(h.Typ), "application/") {
	case "", "jwt", "at+jwt":
	default:
		return "The token's typ is neither JWT nor at+jwt."
	}
	t.alg = h.Alg
	if h.Kid != nil {
		t.kid = new(string)
		if h.Kid.Kind() != '"' || json.Unmarshal(h.Kid, t.kid) != nil {
			return "The token's kid is not text."
		}
	}
	return ""
}

func (t *webToken) parseClaims(b []byte) (wrong string) {
	var c struct {
		Iss      string         `json:"iss"`
		Sub      string         `json:"sub"`
		Aud      jsontext.Value `json:"aud"`
		Exp      jsontext.Value `json:"exp"`
		Nbf      jsontext.Value `json:"nbf"`
		Iat      jsontext.Value `json:"iat"`
		Outrelay jsontext.Value `json:"outrelay"`
	}
	if !isObject(b) || json.Unmarshal(b, &c) != nil {
		return "The token's claims are not a JSON object with each member once, iss and sub text."
	}
	t.issuer, t.subject = c.Iss, c.Sub
	switch c.Aud.Kind() {
	case '"':
		t.audience = make([]string, 1)
		_ = json.Unmarshal(c.Aud, &t.audience[0]) // it is a string
	case '[':
		if json.Unmarshal(c.Aud, &t.audience) != nil {
			return "The token's aud is not text or an array of texts."
		}
	default:
		return "The token's aud is not text or an array of texts."
	}
	var ok bool
	if t.expires, ok = numericDate(c.Exp); !ok {
		return "The token has no exp in seconds since 1970."
	}
	if t.notBefore, ok = numericDate(c.Nbf); !ok && c.Nbf != nil {
		return "The token's nbf is not a time in seconds since 1970."
	}
	if _, ok = numericDate(c.Iat); !ok && c.Iat != nil {
		return "The token's iat is not a time in seconds since 1970."
	}
	if c.Outrelay != nil {
		if c.Outrelay.Kind() != '{' || json.Unmarshal(c.Outrelay, &t.claim) != nil {
			return "The token's claim outrelay is not an object of rights."
		}
	}
	return ""
}

func isObject(b []byte) bool { return jsontext.Value(b).Kind() == '{' }

// numericDate reads a date of RFC 7519 section 2, up to the year 9999.
func numericDate(v jsontext.Value) (time.Time, bool) {
	var seconds float64
	if v.Kind() != '0' || json.Unmarshal(v, &seconds) != nil || seconds < 0 || seconds > 253402300799 {
		return time.Time{}, false
	}
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9)), true
}

// checkWebToken checks a JSON Web Token. Which of issuer, key and algorithm is not
// known here is not said.
func (n *namespace) checkWebToken(ctx context.Context, text string) (*Grant, *schemas.Problem) {
	t, wrong := parseWebToken(text)
	if wrong != "" {
		return nil, schemas.Problemf("unauthorized", "%s", wrong)
	}
	foreign := schemas.Problemf("unauthorized", "The token has an invalid signature, or its issuer, key or algorithm is not one of this namespace.")
	i := n.issuers[t.issuer]
	if i == nil || !slices.Contains(i.algorithms, t.alg) {
		return nil, foreign
	}
	key, ok := i.key(t.kid, t.alg)
	if !ok && i.source != nil && t.plausible(i) && i.source.await(ctx) {
		key, ok = i.key(t.kid, t.alg)
	}
	if !ok || methods[t.alg].Verify(t.signed, t.signature, key.key) != nil {
		return nil, foreign
	}
	if time.Now().Add(clockLeeway).Before(t.notBefore) {
		return nil, schemas.Problemf("unauthorized", "The token is not valid yet: its nbf lies ahead.")
	}
	rights, wrong := t.claim.parse()
	if wrong != "" {
		return nil, schemas.Problemf("unauthorized", "The token's claim outrelay is not valid: %s", wrong)
	}
	p := &webTokenProof{
		issuer: t.issuer, subject: t.subject, audience: t.audience,
		kid: t.kid, alg: t.alg, digest: key.digest, expires: t.expires, claim: rights,
	}
	rights, problem := p.rights(n)
	if problem != nil {
		return nil, problem
	}
	return &Grant{
		Subject: printable(t.issuer + " " + t.subject), Expires: t.expires,
		namespace: n.name, rights: rights, proof: p,
	}, nil
}

// plausible says whether the token would be taken if its signature were good: for
// no other are keys fetched.
func (t *webToken) plausible(i *issuer) bool {
	return time.Now().Before(t.expires) && slices.Contains(t.audience, i.audience)
}

// key finds the key for a token that names kid.
func (i *issuer) key(kid *string, alg string) (verifyKey, bool) {
	if i.source != nil {
		return i.source.key(kid, alg)
	}
	return *i.secret, alg == algHS256
}

// A webTokenProof is what stays of a JSON Web Token.
type webTokenProof struct {
	issuer, subject string
	audience        []string
	kid             *string
	alg             string
	digest          [32]byte
	expires         time.Time
	claim           rights
}

func (p *webTokenProof) rights(n *namespace) (rights, *schemas.Problem) {
	if !time.Now().Before(p.expires) {
		return rights{}, errExpired()
	}
	i := n.issuers[p.issuer]
	if i == nil || !slices.Contains(i.algorithms, p.alg) {
		return rights{}, schemas.Problemf("unauthorized", "The token's issuer or algorithm is no longer one of this namespace.")
	}
	if key, ok := i.key(p.kid, p.alg); !ok || !hmac.Equal(key.digest[:], p.digest[:]) {
		return rights{}, schemas.Problemf("unauthorized", "The key of the token is no longer valid.")
	}
	if !slices.Contains(p.audience, i.audience) {
		return rights{}, schemas.Problemf("unauthorized", "The token's aud does not name this namespace (InvalidAudience).")
	}
	return p.claim, nil
}

func (p *webTokenProof) same(other proof) bool {
	o, ok := other.(*webTokenProof)
	return ok && o.issuer == p.issuer && o.subject == p.subject
}
