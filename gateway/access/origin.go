package access

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

const nullOrigin = "null"

// OriginAllowed says whether a web page of the origin may connect to the namespace:
// it is in [Namespace.Origins], scheme, host and port alike, the host without
// case, or with [Namespace.Dev] is on loopback or "null". "" is no origin: no.
// What a request says of itself counts in [Policy.RequestAllowed].
func (p *Policy) OriginAllowed(namespace, origin string) bool {
	n := p.namespace(namespace)
	if origin == nullOrigin {
		return n.dev || n.origins[nullOrigin]
	}
	normal, ok := normalOrigin(origin)
	return ok && (n.origins[normal] || n.dev && loopbackOrigin(normal))
}

// RequestAllowed says whether the request may come from where it says it does: it
// has no Origin, one that is allowed, or that of the very host it is sent to, if
// that is one of the namespace's. An https page may use plain http, as behind a
// proxy that ends TLS; an http page may not use https.
func (p *Policy) RequestAllowed(namespace string, r *http.Request) bool {
	origins := r.Header["Origin"]
	switch {
	case len(origins) == 0:
		return true
	case len(origins) > 1:
		return false
	case p.OriginAllowed(namespace, origins[0]):
		return true
	}
	normal, ok := normalOrigin(origins[0])
	if !ok {
		return false
	}
	scheme, authority, _ := strings.Cut(normal, "://")
	if scheme == "http" && r.TLS != nil {
		return false
	}
	own, ok := normalOrigin(scheme + "://" + r.Host)
	if !ok || own != normal {
		return false
	}
	host, _ := cutPort(authority)
	n := p.namespace(namespace)
	for _, h := range n.hosts { // any host at all would let a page rebind its name to us
		if h == host {
			return true
		}
	}
	return false
}

// normalOrigin checks the form scheme://host[:port] and returns it in lower case,
// without the scheme's own port.
func normalOrigin(origin string) (string, bool) {
	scheme, authority, ok := strings.Cut(fold(origin), "://")
	if !ok || scheme != "http" && scheme != "https" {
		return "", false
	}
	host, ok := cutPort(authority)
	if !ok || !validHost(host) {
		return "", false
	}
	port := strings.TrimPrefix(authority[len(host):], ":")
	switch number, err := strconv.ParseUint(port, 10, 16); {
	case port == "" && authority == host:
	case err != nil || number == 0 || strconv.FormatUint(number, 10) != port:
		return "", false
	case scheme == "http" && port == "80", scheme == "https" && port == "443":
		authority = host
	}
	return scheme + "://" + authority, true
}

func loopbackOrigin(normal string) bool {
	_, authority, _ := strings.Cut(normal, "://")
	host, _ := cutPort(authority)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}

// cutPort returns the host of host[:port], an IPv6 address with its brackets. The
// port is digits.
func cutPort(authority string) (host string, ok bool) {
	end := strings.LastIndexByte(authority, ']') + 1
	host, port, _ := strings.Cut(authority[end:], ":")
	return authority[:end] + host, strings.Trim(port, "0123456789") == ""
}

// validHost says whether s is a host name of letters, digits, "-", "_" and ".", without
// empty labels, an IPv4 address, or an IPv6 address in brackets.
func validHost(s string) bool {
	if literal, ok := strings.CutPrefix(s, "["); ok {
		literal, ok = strings.CutSuffix(literal, "]")
		a, err := netip.ParseAddr(literal)
		return ok && err == nil && a.Is6() && a.Zone() == ""
	}
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool {
			return (r < 'a' || 'z' < r) && (r < 'A' || 'Z' < r) && (r < '0' || '9' < r) && r != '-' && r != '_'
		}) {
			return false
		}
	}
	return true
}
