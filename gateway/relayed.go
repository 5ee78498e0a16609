package gateway

import (
	"strings"

	"github.com/outrelay/outrelay/gateway/relay"
	"github.com/outrelay/outrelay/schemas"
)

// relayed hands the request to the relay if the address is one of a hybrid connection:
// its host name is bound to one, it is below /$hc, or its first segment is not reserved
// (protocol section 2).
func (c *call) relayed(segments []string) (bool, error) {
	r := c.gateway.config.Relay
	if r == nil {
		return false, nil
	}
	namespace, name, bound := r.Bound(hostName(c.r.Host))
	first := segments[0]
	switch {
	case bound && len(segments) == 2 && first == ".well-known" && segments[1] == "outrelay":
		return false, nil
	case !bound && (first == "" || relay.Reserved(first)):
		return false, nil
	case !bound:
		var ok bool
		if namespace, ok = c.gateway.namespaceOf(c.r.Host); !ok {
			return true, schemas.Problemf("misdirected", "No namespace is served under this host name; check the address.")
		}
	}
	c.namespace = namespace
	if strings.EqualFold(first, "$hc") {
		name = ""
	}
	clear(c.w.Header()) // what is in the answer is the application's
	c.answered = true
	r.Serve(c.w, c.r, namespace, name)
	return true, nil
}
