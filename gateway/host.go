package gateway

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
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
	if namespace, ok := (*g.hosts.Load())[hostName(host)]; ok {
		return namespace, true
	}
	return broker.DefaultNamespace, g.config.Dev
}

// checkHosts says what is wrong with a map from host names to namespaces.
func checkHosts(hosts map[string]string) (faults []error) {
	for host, namespace := range hosts {
		if hostName(host) != host || host == "" {
			faults = append(faults, fmt.Errorf("hosts: %q: write the host name alone, in lower case", host))
		}
		if _, err := schemas.ParseSegment("namespace", namespace); err != nil {
			faults = append(faults, fmt.Errorf("hosts: %s: %w", host, err))
		}
	}
	return faults
}

// SetHosts replaces [Config.Hosts] for the requests to come. What is open stays open,
// in the namespace that it was opened in. The error names all faults at once; with
// one, nothing has changed.
func (g *Gateway) SetHosts(hosts map[string]string) error {
	if err := errors.Join(checkHosts(hosts)...); err != nil {
		return err
	}
	hosts = maps.Clone(hosts)
	g.hosts.Store(&hosts)
	return nil
}
