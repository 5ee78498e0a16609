package config

import (
	"slices"
	"strings"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
	"github.com/outrelay/outrelay/schemas"
)

// Broker is the broker's part, without a logger.
func (c *Config) Broker() broker.Config {
	b := broker.Config{
		Dir:        c.Data,
		Log:        broker.LogConfig{Storage: c.Log.Storage, Flush: c.Log.Flush, Replicas: c.Log.Replicas},
		NATS:       broker.NATSConfig{URL: c.NATS.URL, Credentials: c.NATS.Credentials},
		Namespaces: map[string]broker.NamespaceConfig{},
		Limits:     c.Limits.Broker,
	}
	for name, ns := range c.All() {
		rules := make([]broker.TopicRule, len(ns.Topics))
		for i, r := range ns.Topics {
			rules[i] = broker.TopicRule{Filter: schemas.TopicFilter(r.Filter), Unstored: !r.Stored, MaxAge: time.Duration(r.MaxAge)}
		}
		b.Namespaces[name] = broker.NamespaceConfig{
			Topics: rules,
			Retention: broker.Retention{
				MaxAge:   time.Duration(ns.Retention.MaxAge),
				MaxBytes: int64(ns.Retention.MaxBytes),
				Dedup:    time.Duration(ns.Retention.Dedup),
			},
		}
	}
	return b
}

// Access is the part of who may do what, without a logger. It holds the secrets.
func (c *Config) Access() access.Config {
	a := access.Config{Namespaces: map[string]access.Namespace{}}
	for name, ns := range c.All() {
		hosts := slices.Clone(ns.Hosts)
		for _, r := range ns.Relay {
			if r.Host != "" {
				hosts = append(hosts, r.Host)
			}
		}
		n := access.Namespace{Hosts: hosts, Anonymous: access.Anonymous(ns.Anonymous), Origins: ns.Origins, Dev: c.Dev}
		n.ClientCertificates.Authorities = ns.ClientCertificates.pool
		for _, r := range ns.ClientCertificates.Rights {
			n.ClientCertificates.Rights = append(n.ClientCertificates.Rights, access.CertificateRights{URI: r.URI, Rights: access.Rights{
				Publish: r.Publish, Subscribe: r.Subscribe, Subscriptions: r.Subscriptions, Listen: r.Listen, Send: r.Send, Manage: r.Manage,
			}})
		}
		for _, k := range ns.Keys {
			n.Keys = append(n.Keys, access.Key{Name: k.Name, Primary: k.primary, Secondary: k.secondary, Rights: k.Rights, Path: k.Path})
		}
		for _, i := range ns.JWT {
			n.JWT = append(n.JWT, access.Issuer{Issuer: i.Issuer, JWKS: i.JWKS, Secret: i.secret, Algorithms: i.Algorithms, Audience: i.Audience})
		}
		a.Namespaces[name] = n
	}
	return a
}

// RelayRules is the relay's part. With --dev all names are allowed.
func (c *Config) RelayRules() map[string][]relay.Rule {
	rules := map[string][]relay.Rule{}
	for name, ns := range c.All() {
		for _, r := range ns.Relay {
			rules[name] = append(rules[name], relay.Rule{
				Name: r.Name, AnonymousSenders: r.AnonymousSenders, Listeners: r.Listeners, Sticky: r.Sticky,
				Deadline: time.Duration(r.Deadline), Host: r.Host,
				NoWebSocket: !slices.Contains(r.Kinds, "websocket"), NoHTTP: !slices.Contains(r.Kinds, "http"),
			})
		}
		if c.Dev {
			rules[name] = append(rules[name], relay.Rule{Name: "**"})
		}
	}
	return rules
}

// HostNames maps host names to namespaces, in lower case and without brackets.
func (c *Config) HostNames() map[string]string {
	names := map[string]string{}
	for name, ns := range c.All() {
		for _, host := range ns.Hosts {
			names[strings.ToLower(strings.Trim(host, "[]"))] = name
		}
		for _, r := range ns.Relay {
			if r.Host != "" {
				names[strings.ToLower(strings.Trim(r.Host, "[]"))] = name
			}
		}
	}
	return names
}

// WidestKey is the shared key that allows most: one for a whole namespace before
// one with a path, then the one with most rights, then the first. It is nil if no
// namespace has keys.
func (c *Config) WidestKey() *Key {
	var widest *Key
	wider := func(a, b *Key) bool {
		if (a.Path == "") != (b.Path == "") {
			return a.Path == ""
		}
		return len(a.Rights) > len(b.Rights)
	}
	for _, ns := range c.All() {
		for i := range ns.Keys {
			if k := &ns.Keys[i]; widest == nil || wider(k, widest) {
				widest = k
			}
		}
	}
	return widest
}
