package access

import "time"

// KeyWait is how long a request waits for keys that its token's issuer has yet to give.
const KeyWait = 2 * time.Second

// An Issuer is a party whose JSON Web Tokens are taken.
type Issuer struct {
	// Issuer is the exact text of the claim iss, and for OpenID Connect the address
	// under which the issuer describes itself.
	Issuer string
	// JWKS is the address of the issuer's keys; "" means to ask
	// Issuer/.well-known/openid-configuration for it. https, or http on loopback.
	JWKS string
	// Secret is a shared secret for HS256, 32 to 256 bytes, in place of keys.
	Secret Secret
	// Algorithms narrows what is taken; by default HS256 with a secret, else RS256,
	// PS256, ES256 and EdDSA.
	Algorithms []string
	// Audience is what the claim aud must name. It has no default.
	Audience string
}
