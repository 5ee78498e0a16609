package gateway

import (
	"net/http"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// subscribe takes GET /topics/{filter}: a WebSocket stream if the request asks for
// an upgrade to one, else an event stream or history by its Accept header.
func (c *call) subscribe() {
	var err error
	switch name, nameErr := c.joined("topic filter"); {
	case nameErr != nil:
		err = nameErr
	default:
		var topics schemas.TopicFilter
		if topics, err = schemas.ParseTopicFilter(name); err == nil {
			err = c.subscribeTo(topics)
		}
	}
	if err != nil {
		c.refuse(err)
	}
}

func (c *call) subscribeTo(topics schemas.TopicFilter) error {
	h := c.w.Header()
	if c.r.Method == http.MethodGet && c.r.ProtoMajor == 1 && hasToken(c.r.Header, "Upgrade", "websocket") {
		err := c.openWebSocket(topics)
		if err != nil {
			c.gateway.logRefusal(c.namespace, err)
		}
		return err
	}
	h.Add("Vary", "Accept")
	switch chosen := negotiate(c.r.Header); chosen {
	case mediaTypeSSE:
		return c.openSSE(topics)
	case "":
		return schemas.Problemf("not-acceptable", "Accept %s for a live stream or %s for stored events, or upgrade to a WebSocket.", mediaTypeSSE, schemas.MediaTypeBatch)
	default:
		return c.history(topics, chosen)
	}
}

// logRefusal leaves a trace of a handshake that was refused, without anything that
// the client chose.
func (g *Gateway) logRefusal(namespace string, err error) {
	p := g.problem(err)
	g.config.Logger.Debug("handshake refused", "namespace", namespace, "problem", p.Name, "status", p.Status())
}

// openFlow does what all streams have in common: rights, parameters, a place among
// the namespace's streams, and the broker's stream. Close the flow after use.
func (c *call) openFlow(topics schemas.TopicFilter, w way) (*flow, error) {
	if c.r.ContentLength != 0 {
		return nil, schemas.Problemf("parameter", "The request for a stream has a body; send none.")
	}
	ask := access.Ask{Action: access.Subscribe, Topics: topics}
	grant, err := c.authorize(ask.Action, ask.Topics)
	if err != nil {
		return nil, err
	}
	params, err := parseStreamParams(c.r, w)
	if err != nil {
		return nil, err
	}
	g := c.gateway
	f := newFlow(g, c.namespace, w, ask, grant, params)
	if err := g.addFlow(f); err != nil {
		return nil, err
	}
	ctx, cancel := c.brokerContext()
	defer cancel()
	f.events, err = g.config.Broker.Subscribe(ctx, c.namespace, broker.StreamOptions{
		Topics: topics, Filter: params.filter, Start: params.start,
	})
	if err != nil {
		g.removeFlow(f)
		return nil, err
	}
	return f, nil
}
