package access

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/outrelay/outrelay/schemas"
)

// MaxToken is the length of a token in bytes from which on it is not looked at.
const MaxToken = 8 << 10

// Names of the places of a token. Headers are in canonical form.
const (
	headerAuthorization = "Authorization"
	headerServiceBus    = "Servicebusauthorization"
	headerSubprotocol   = "Sec-Websocket-Protocol"
	queryServiceBus     = "sb-hc-token"
	queryAccessToken    = "access_token"
)

const (
	schemeBearer    = "bearer"
	schemeSignature = "sharedaccesssignature"
)

// A credential is a token as it was found, not checked.
type credential struct {
	source Source
	// token is a JWT, or the text of a shared access signature from its scheme on.
	token string
	// broken is what is wrong with the place it was found in; token is empty then.
	broken string
}

// findCredential returns the request's one credential, with source Nowhere if
// there is none. The problem is "parameter" if there are two that differ.
func findCredential(r *http.Request) (credential, *schemas.Problem) {
	var found credential
	for _, c := range credentials(r) {
		switch {
		case found.source == Nowhere:
			found = c
		case found.token != c.token || found.broken != c.broken:
			return credential{}, schemas.Problemf("parameter", "The request carries two different tokens; send one, in one place.")
		}
	}
	return found, nil
}

// credentials lists all of the request's credentials, headers first.
func credentials(r *http.Request) []credential {
	var all []credential
	for _, v := range r.Header[headerAuthorization] {
		all = append(all, authorization(v))
	}
	for _, v := range r.Header[headerServiceBus] {
		all = append(all, serviceBus(v))
	}
	all = append(all, queryCredentials(r.URL.RawQuery)...)
	return append(all, subprotocols(r)...)
}

// findRelayed returns the credential that on a relayed address can only be for us.
func findRelayed(r *http.Request) credential {
	var header, query []credential
	for _, v := range r.Header[headerServiceBus] {
		header = append(header, serviceBus(v))
	}
	for _, c := range queryCredentials(r.URL.RawQuery) {
		if c.source == ServiceBusQuery {
			query = append(query, c)
		}
	}
	if r.Header["Upgrade"] != nil {
		return first(header, query)
	}
	return first(query, header)
}

// findApplication returns the credential that on a relayed address is for us only
// if it is needed to get in.
func findApplication(r *http.Request) credential {
	var header []credential
	for _, v := range r.Header[headerAuthorization] {
		header = append(header, authorization(v))
	}
	return first(subprotocols(r), header)
}

func first(lists ...[]credential) credential {
	for _, l := range lists {
		if len(l) > 0 {
			return l[0]
		}
	}
	return credential{}
}

func authorization(value string) credential {
	c := credential{source: Authorization}
	scheme, rest, _ := strings.Cut(strings.Trim(value, " \t"), " ")
	switch strings.ToLower(scheme) {
	case schemeBearer:
		c.token = strings.TrimLeft(rest, " ")
	case schemeSignature:
		c.token = scheme + " " + rest
	default:
		c.broken = "The Authorization header has neither the scheme Bearer nor SharedAccessSignature."
	}
	return c
}

// serviceBus reads a ServiceBusAuthorization header: the token alone, of either
// kind, as Azure's clients send it, or a JWT after "Bearer".
func serviceBus(value string) credential {
	value = strings.Trim(value, " \t")
	if scheme, rest, ok := strings.Cut(value, " "); ok && strings.EqualFold(scheme, schemeBearer) {
		value = strings.TrimLeft(rest, " ")
	}
	return credential{source: ServiceBusHeader, token: value}
}

// queryCredentials reads the raw query itself: net/url drops what it can't decode,
// and a token that is given must be seen.
func queryCredentials(query string) []credential {
	var all []credential
	for part := range strings.SplitSeq(query, "&") {
		rawName, rawValue, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			continue
		}
		c := credential{source: AccessToken}
		if strings.EqualFold(name, queryServiceBus) { // Azure compares its names without case
			c.source = ServiceBusQuery
		} else if name != queryAccessToken {
			continue
		}
		if c.token, err = url.QueryUnescape(rawValue); err != nil {
			c.broken = "The token in the query has a bad percent-encoding."
		}
		all = append(all, c)
	}
	return all
}

func subprotocols(r *http.Request) []credential {
	var all []credential
	for _, v := range r.Header[headerSubprotocol] {
		for protocol := range strings.SplitSeq(v, ",") {
			if text, ok := strings.CutPrefix(strings.Trim(protocol, " \t"), schemas.SubprotocolBearerPrefix); ok {
				all = append(all, subprotocol(text))
			}
		}
	}
	return all
}

func subprotocol(text string) credential {
	c := credential{source: Subprotocol}
	b, ok := decodeBase64(base64.RawURLEncoding, text)
	if !ok {
		c.broken = "The token in the subprotocol is not base64url without padding."
		return c
	}
	c.token = string(b)
	return c
}

// signatureText cuts the scheme off the text of a shared access signature.
func signatureText(token string) (fields string, ok bool) {
	const n = len(schemeSignature)
	if len(token) <= n || token[n] != ' ' || !strings.EqualFold(token[:n], schemeSignature) {
		return "", false
	}
	return token[n+1:], true
}

// decodeBase64 takes the one text that stands for the bytes: unlike the package
// that does the work, no line ends.
func decodeBase64(e *base64.Encoding, s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := e.Strict().DecodeString(s)
	return b, err == nil
}
