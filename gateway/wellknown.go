package gateway

import (
	"maps"
	"net"
	"net/http"
	"slices"

	"github.com/outrelay/outrelay/schemas"
)

// wellKnownDocument is what a firewall's owner must allow, and what a client may
// rely on (protocol section 2).
type wellKnownDocument struct {
	Version   string          `json:"version"`
	Hosts     []string        `json:"hosts"`
	Ports     []int           `json:"ports"`
	Protocols []string        `json:"protocols"`
	Limits    wellKnownLimits `json:"limits"`
	Promise   string          `json:"promise"`
}

// wellKnownLimits are in bytes, but for the last two: a number, and seconds.
type wellKnownLimits struct {
	Event       int     `json:"event"`
	Batch       int     `json:"batch"`
	Attributes  int     `json:"attributes"`
	Message     int     `json:"message"`
	BatchEvents int     `json:"batchevents"`
	Ping        float64 `json:"pingseconds"`
}

// wellKnown answers GET /.well-known/outrelay. It names no other namespace's hosts.
func (c *call) wellKnown() {
	g := c.gateway
	d := wellKnownDocument{
		Version:   g.config.Version,
		Hosts:     []string{},
		Ports:     []int{},
		Protocols: []string{"http/1.1"},
		Limits: wellKnownLimits{
			Event: schemas.MaxEvent, Batch: schemas.MaxBatch, Attributes: schemas.MaxAttributes,
			Message: schemas.MaxStreamMessage, BatchEvents: schemas.MaxBatchEvents,
			Ping: g.config.Limits.PingInterval.Seconds(),
		},
		Promise: g.config.Broker.Promise(),
	}
	hosts := *g.hosts.Load()
	for _, host := range slices.Sorted(maps.Keys(hosts)) {
		if hosts[host] == c.namespace {
			d.Hosts = append(d.Hosts, host)
		}
	}
	if len(d.Hosts) == 0 {
		d.Hosts = []string{hostName(c.r.Host)} // with --dev, any name that leads here
	}
	if g.https != nil {
		d.Ports = append(d.Ports, g.httpsPort)
		d.Protocols = append(d.Protocols, "h2")
	}
	// HTTP on loopback beside public HTTPS is for this machine, and no firewall's business.
	if g.http != nil && (g.https == nil || onLoopback(g.https) || !onLoopback(g.http)) {
		d.Ports = append(d.Ports, g.httpPort)
	}
	d.Protocols = append(d.Protocols, "websocket", schemas.SubprotocolCloudEvents, schemas.SubprotocolSession)
	c.answerJSON(http.StatusOK, d)
}

func onLoopback(l net.Listener) bool {
	a, ok := l.Addr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// healthz answers GET /healthz for whoever sends traffic here: nobody should once
// the gateway drains.
func (c *call) healthz() {
	status, text := http.StatusOK, "ok\n"
	if c.gateway.draining.Load() {
		status, text = http.StatusServiceUnavailable, "draining\n"
	}
	c.answer(status, "text/plain; charset=utf-8", []byte(text))
}
