package main

// A peer is a server and the way it is spoken to.
type peer struct {
	name   string // of the dialect too
	server string
	label  string
}

var peers = map[string]peer{}

// allPeers are all, in the order in which they are shown.
var allPeers = []peer{
	{"outrelay", "outrelay", "outrelay"},
	{"outrelay-stream", "outrelay", "outrelay, published on streams"},
	{"nats", "nats", "nats-server's WebSocket"},
	{"jetstream", "jetstream", "nats-server's WebSocket with JetStream"},
	{"centrifuge", "centrifuge", "Centrifuge"},
	{"centrifuge-delayed", "centrifuge-delayed", "Centrifuge, WriteDelay 10 ms"},
	{"limit", "limit", "the limit: a bare writer"},
}

func init() {
	for _, p := range allPeers {
		peers[p.name] = p
	}
}
