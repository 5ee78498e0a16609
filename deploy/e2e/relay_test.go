package e2e

import "testing"

// Microsoft's npm package hyco-ws, its files as published, listens and sends through
// the relay over TLS.
func TestRelayHycoWS(t *testing.T) {
	g := start(t)
	for _, scenario := range []string{
		"echo", "helpers", "large", "senders", "share", "headers", "closes", "reject", "refusals", "renewal", "restart", "storm",
	} {
		t.Run(scenario, func(t *testing.T) {
			t.Parallel()
			node(t, g.CA, "hyco-ws.mjs", g.HTTPS, g.KeyName, g.KeyFile, scenario)
		})
	}
}
