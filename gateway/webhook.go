package gateway

import (
	"net/http"
	"strings"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// topicOptions answers OPTIONS on a topic: the validation handshake of CloudEvents
// webhooks where WebHook-Request-Origin asks for it, else as any other address.
//
// The gateway consents to be sent events if the request has the right to publish
// them, and by this answer alone: a callback address that it names is a stranger's
// choice and never fetched.
func (c *call) topicOptions() {
	_, allow := findRoute(http.MethodOptions, append([]string{"topics"}, c.rest...))
	origin := c.r.Header.Values("WebHook-Request-Origin")
	if len(origin) == 0 {
		c.options(allow)
		return
	}
	if err := c.consent(origin); err != nil {
		c.refuse(err)
		return
	}
	h := c.w.Header()
	h.Set("WebHook-Allowed-Origin", origin[0])
	h.Set("WebHook-Allowed-Rate", "*")
	h.Set("Allow", strings.Join(allow, ", "))
	c.answer(http.StatusOK, "", nil)
}

func (c *call) consent(origin []string) error {
	name, err := c.joined("topic")
	if err != nil {
		return err
	}
	topic, err := schemas.ParseTopic(name)
	if err != nil {
		return err
	}
	if err := publishable(topic); err != nil {
		return err
	}
	if len(origin) != 1 || !dnsName(origin[0]) {
		return schemas.Problemf("parameter", "The header WebHook-Request-Origin is one DNS name, that of the sending system.")
	}
	_, err = c.authorize(access.Publish, schemas.TopicFilter(topic))
	return err
}

func dnsName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || 'z' < c) && (c < 'A' || 'Z' < c) && (c < '0' || '9' < c) && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 253
}
