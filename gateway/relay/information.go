package relay

import (
	"encoding/xml"
	"net/http"
	"strconv"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
)

// asksInformation says whether a request is .NET's GetRuntimeInformationAsync, which
// means the service and not a listener (facts: section 11).
func (v *visit) asksInformation() bool {
	return v.r.Method == http.MethodGet && v.r.Header.Get("X-Process-At") == "ServiceBus"
}

// An informationEntry is the Atom entry (RFC 4287) that .NET's client reads.
type informationEntry struct {
	XMLName xml.Name `xml:"http://www.w3.org/2005/Atom entry"`
	ID      string   `xml:"id"`
	Title   string   `xml:"title"`
	Updated string   `xml:"updated"`
	Content struct {
		Type        string `xml:"type,attr"`
		Description struct {
			XMLName                     xml.Name `xml:"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect HybridConnectionDescription"`
			CreatedAt                   string
			UpdatedAt                   string
			ListenerCount               int
			RequiresClientAuthorization bool
			UserMetadata                string
		}
	} `xml:"content"`
}

// information describes the hybrid connection to who may listen or send on it. Nobody
// keeps when it was made: both times are when this gateway started. The listeners are
// those of this gateway.
func (v *visit) information() error {
	names, err := prefixes(v.segments)
	if err != nil {
		return err
	}
	e := entity{v.namespace, names[0]}
	if _, err := v.authorize(access.Listen, e.name); err != nil {
		if _, sends := v.authorize(access.Send, e.name); sends != nil {
			return err
		}
	}
	rule := v.relay.rules.Load().find(e)
	if rule == nil || len(names) != len(v.segments) {
		return errNoEndpoint()
	}
	v.entity = e
	entry := informationEntry{ID: "https://" + safeHost(v.r.Host) + "/" + e.name, Title: e.name}
	entry.Updated = v.relay.made.UTC().Format(time.RFC3339)
	d := &entry.Content.Description
	entry.Content.Type = "application/xml"
	d.CreatedAt, d.UpdatedAt = entry.Updated, entry.Updated
	d.ListenerCount = v.relay.rendezvous.Here(e.namespace, e.name)
	d.RequiresClientAuthorization = !rule.AnonymousSenders
	body, err := xml.Marshal(entry)
	if err != nil {
		return err
	}
	h := v.w.Header()
	h.Set("Content-Type", "application/atom+xml;type=entry;charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(xml.Header)+len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("TrackingId", v.trackingID())
	v.answered = true
	v.w.Write(append([]byte(xml.Header), body...)) //nolint:errcheck // who asked has gone
	return nil
}
