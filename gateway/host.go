package gateway

import (
	"net"
	"net/netip"
	"strings"

	"github.com/outrelay/outrelay/broker"
)

// hostName is the name in a Host header: without port, brackets and final dot, in
// lower case.
func hostName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// loopbackHost says whether a host name can only mean this machine.
func loopbackHost(name string) bool {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(name)
	return err == nil && a.Unmap().IsLoopback()
}

// namespaceOf chooses the tenant by the request's Host header (protocol section 1).
func (g *Gateway) namespaceOf(host string) (string, bool) {
	if namespace, ok := g.config.Hosts[hostName(host)]; ok {
		return namespace, true
	}
	return broker.DefaultNamespace, g.config.Dev
}
