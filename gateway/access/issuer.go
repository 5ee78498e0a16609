package access

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
)

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

// issuer is a checked [Issuer].
type issuer struct {
	name       string
	algorithms []string
	audience   string
	secret     *verifyKey // for HS256; nil with keys
	source     *keySource // nil with a secret
}

func (n *namespace) addIssuer(c Issuer, path string, sources sourceSet, f *faults) {
	i := &issuer{name: c.Issuer, algorithms: c.Algorithms, audience: c.Audience}
	switch {
	case c.Issuer == "":
		f.add(path+".issuer", "The issuer is empty; write the exact text of the claim iss.")
	case n.issuers[c.Issuer] != nil:
		f.add(path+".issuer", "There is another entry for %q; write one entry for an issuer.", c.Issuer)
	}
	if c.Audience == "" {
		f.add(path+".audience", "The audience is empty; write what the claim aud must name.")
	}
	known := keyAlgorithms
	if c.Secret != "" {
		known = []string{algHS256}
	}
	for j, a := range c.Algorithms {
		if !slices.Contains(known, a) {
			f.add(fmt.Sprintf("%s.algorithms[%d]", path, j), "%q can't be used here; write one of %v, or leave algorithms out for all of them.", a, known)
		}
	}
	if len(i.algorithms) == 0 {
		i.algorithms = known
	}
	switch {
	case c.Secret != "" && c.JWKS != "":
		f.add(path+".secretfile", "There is a jwks address too; write one of the two.")
	case c.Secret != "":
		checkSecret(c.Secret, minSecret, path+".secretfile", f)
		i.secret = &verifyKey{[]byte(c.Secret), sha256.Sum256([]byte(c.Secret))}
	case c.JWKS != "":
		if !validSource(c.JWKS) {
			f.add(path+".jwks", "%q is no address that keys can be had from; write https://..., or http:// for loopback, without user and fragment.", c.JWKS)
		}
		i.source = sources.get(c.Issuer, c.JWKS)
	default:
		if c.Issuer != "" && !validSource(c.Issuer) {
			f.add(path+".issuer", "%q is no address to ask for OpenID Connect's description; write https://..., or add jwks or secretfile.", c.Issuer)
		}
		i.source = sources.get(c.Issuer, "")
	}
	n.issuers[c.Issuer] = i
}

// validSource says whether keys may be fetched from the address: nobody between
// may change them.
func validSource(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.Fragment != "" || u.Hostname() == "" {
		return false
	}
	if u.Scheme == "http" {
		a, err := netip.ParseAddr(u.Hostname())
		return u.Hostname() == "localhost" || err == nil && a.Unmap().IsLoopback()
	}
	return u.Scheme == "https"
}
