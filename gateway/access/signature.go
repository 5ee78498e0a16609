package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// A key is a checked [Key].
type key struct {
	name    string
	secrets [][]byte
	rights  keyRights
	path    scope
}

// A signature is the text of a shared access signature, taken apart.
type signature struct {
	resource, expiry string // as they stand in the token, which is what is signed
	address          string // the resource, decoded once
	host             string // folded, of the address
	scope            scope  // of the address
	expires          time.Time
	key              string // name
	mac              []byte
}

// parseSignature reads the fields after the scheme: sr, sig, se and skn, in any
// order, once each. The text is what is wrong with it, "" if nothing.
func parseSignature(text string) (s signature, wrong string) {
	seen := map[string]string{}
	for part := range strings.SplitSeq(text, "&") {
		name, value, _ := strings.Cut(part, "=")
		if _, twice := seen[name]; twice || name != "sr" && name != "sig" && name != "se" && name != "skn" {
			return signature{}, "The shared access signature must have the fields sr, sig, se and skn once each, and no other."
		}
		seen[name] = value
	}
	s.resource, s.expiry = seen["sr"], seen["se"]
	if s.resource == "" || s.expiry == "" || seen["sig"] == "" || seen["skn"] == "" {
		return signature{}, "The shared access signature must have the fields sr, sig, se and skn once each, and no other."
	}
	seconds, err := strconv.ParseUint(s.expiry, 10, 40)
	if err != nil || strings.Trim(s.expiry, "0123456789") != "" {
		return signature{}, "The field se must be the expiry in seconds since 1970."
	}
	s.expires = time.Unix(int64(seconds), 0)
	mac, err := url.PathUnescape(seen["sig"])
	var ok bool
	if s.mac, ok = decodeBase64(base64.StdEncoding, mac); err != nil || !ok || len(s.mac) != sha256.Size {
		return signature{}, "The field sig must be the percent-encoded base64 of an HMAC-SHA256."
	}
	if s.key, err = url.PathUnescape(seen["skn"]); err != nil {
		s.key = seen["skn"] // some clients do not escape it
	}
	if s.address, err = url.PathUnescape(s.resource); err != nil {
		return signature{}, "The field sr must be a percent-encoded address."
	}
	if s.host, s.scope, ok = parseResource(s.address); !ok {
		return signature{}, "The field sr must be an address such as http://HOST/NAME, http://HOST/topics/TOPIC or http://HOST/ (InvalidAudience)."
	}
	return s, ""
}

// parseResource takes the host and the scope out of the address of a resource.
// Scheme and port count for nothing.
func parseResource(address string) (host string, s scope, ok bool) {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok || scheme == "" || strings.ContainsFunc(fold(scheme), func(r rune) bool {
		return (r < 'a' || 'z' < r) && (r < '0' || '9' < r) && r != '+' && r != '-' && r != '.'
	}) {
		return "", "", false
	}
	authority, path, _ := strings.Cut(rest, "/")
	host, ok = cutPort(authority)
	if !ok || !validHost(host) {
		return "", "", false
	}
	s, ok = parseScope(path)
	return fold(host), s, ok
}

// noKey stands in for a key that is not there, so that a guess at a name takes as
// long as a guess at a signature.
var noKey = []*key{{secrets: [][]byte{[]byte("there is no such key: any text does")}}}

// checkSignature checks the fields of a shared access signature. Who has no key
// learns nothing but that.
func (n *namespace) checkSignature(fields string) (*Grant, *schemas.Problem) {
	s, wrong := parseSignature(fields)
	if wrong != "" {
		return nil, schemas.Problemf("unauthorized", "%s", wrong)
	}
	keys, known := n.keys[fold(s.key)]
	if !known {
		keys = noKey
	}
	for _, k := range keys {
		for _, secret := range k.secrets {
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(s.resource))
			mac.Write([]byte{'\n'})
			mac.Write([]byte(s.expiry))
			if !hmac.Equal(mac.Sum(nil), s.mac) || !known {
				continue
			}
			p := &signatureProof{
				name: k.name, path: k.path, digest: sha256.Sum256(secret),
				host: s.host, scope: s.scope, expires: s.expires,
			}
			rights, problem := p.rights(n)
			if problem != nil {
				return nil, problem
			}
			return &Grant{
				Subject: printable("key " + k.name), Expires: s.expires,
				namespace: n.name, rights: rights, proof: p,
			}, nil
		}
	}
	return nil, schemas.Problemf("unauthorized", "The token has an invalid signature, or its key is not one of this namespace.")
}

// A signatureProof is what stays of a shared access signature.
type signatureProof struct {
	name    string // of the key
	path    scope  // of the key
	digest  [sha256.Size]byte
	host    string
	scope   scope
	expires time.Time
}

func (p *signatureProof) rights(n *namespace) (rights, *schemas.Problem) {
	if !time.Now().Before(p.expires) {
		return rights{}, errExpired()
	}
	if !n.dev && !slices.Contains(n.hosts, p.host) {
		return rights{}, schemas.Problemf("unauthorized", "The field sr is for another host (InvalidAudience).")
	}
	for _, k := range n.keys[fold(p.name)] {
		if k.path != p.path || !slices.ContainsFunc(k.secrets, func(secret []byte) bool {
			digest := sha256.Sum256(secret)
			return hmac.Equal(digest[:], p.digest[:])
		}) {
			continue
		}
		s, ok := p.scope.meet(k.path)
		if !ok {
			return rights{}, nil // a good token, for a place where its key has no say
		}
		return s.rights(k.rights), nil
	}
	return rights{}, schemas.Problemf("unauthorized", "The key of the token is no longer valid.")
}

func (p *signatureProof) same(other proof) bool {
	o, ok := other.(*signatureProof)
	return ok && fold(o.name) == fold(p.name) && o.path == p.path
}

// printable makes text from outside fit for a log: at most 400 bytes, nothing
// that is not printable ASCII.
func printable(s string) string {
	quoted := strconv.QuoteToASCII(s)
	quoted = quoted[1 : len(quoted)-1]
	if len(quoted) > 400 {
		quoted = quoted[:397] + "..."
	}
	return quoted
}
