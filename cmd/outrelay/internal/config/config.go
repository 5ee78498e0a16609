// Package config reads the config of outrelay serve: strict YAML, in which an
// unknown key is an error, and every mistake is told at once with its file, its
// line and what to write instead ([Faults]).
//
// The structs here are the config's one description: [Load] reads into them,
// [Config.Print] prints them with every default, and [Schema] makes a JSON Schema
// of them. Secrets are read from the files that the config names and are never
// part of what is printed.
//
// # Concurrency
//
// A [Config] does not change once it is loaded, and may be read from any goroutine.
package config

import (
	"crypto/tls"
	"crypto/x509"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
)

// A Config is what outrelay serve does. Make one with [Load]: all defaults are
// filled in, and the paths of files are absolute.
//
// In the tags, key is the name in the file, doc what it means, enum the words that
// it may be, required and file what they say, and reload that a change of it needs
// no restart.
type Config struct {
	HTTPS  string `key:"https" doc:"Address for HTTPS and WebSockets over TLS; \"\" for none, port 0 for a free one."`
	HTTP   string `key:"http" doc:"Address without TLS, for use behind a proxy or on loopback; \"\" for none."`
	Admin  string `key:"admin" doc:"Address of metrics and management. It asks nobody for a token; keep it on loopback. \"\" for none."`
	Data   string `key:"data" doc:"Folder for the log and what else is kept. One gateway at a time may use it." file:"true"`
	TLS    TLS    `key:"tls" doc:"Where certificates come from: {cert: FILE, key: FILE}, or off for use behind a proxy."`
	Log    Log    `key:"log" doc:"What an answered publish survives; one promise for all namespaces."`
	NATS   NATS   `key:"nats" doc:"An existing NATS cluster, in place of the embedded server."`
	Limits Limits `key:"limits" doc:"Every bound of the program."`
	// Namespace is the one named default.
	Namespace  `key:",inline"`
	Namespaces map[string]*Namespace `key:"namespaces" doc:"More namespaces by name, each with the keys that stand at the top for namespace default."`

	// Dev says that the config is for outrelay serve --dev.
	Dev bool
	// Certificate is what TLS names; nil if it names none.
	Certificate *tls.Certificate
	// Notices are for an operator to know: nothing is wrong, and something may be
	// unexpected.
	Notices []string
}

// TLS says where certificates come from.
type TLS struct {
	Off  bool
	Cert string `key:"cert" doc:"File with the certificate and those of its issuers, in PEM." reload:"true" file:"true"`
	Key  string `key:"key" doc:"File with the certificate's key, in PEM." reload:"true" file:"true"`
	ACME *ACME  `key:"acme" doc:"Get certificates from an authority, over the https port: {hosts: [NAME]}."`
}

// ACME gets certificates from an authority.
type ACME struct {
	Hosts []string `key:"hosts" doc:"Names to get certificates for." required:"true"`
	Email string   `key:"email" doc:"Whom the authority writes to."`
	CA    string   `key:"ca" doc:"Address of the authority's directory; left out, Let's Encrypt's."`
	Roots string   `key:"roots" doc:"File with the certificates, in PEM, that an authority of one's own is known by." file:"true"`

	roots *x509.CertPool
}

// Pool is what Roots holds; nil trusts what the system trusts.
func (a *ACME) Pool() *x509.CertPool { return a.roots }

// Log is the promise of the log.
type Log struct {
	Storage  string `key:"storage" doc:"Where the log is." enum:"file memory"`
	Flush    string `key:"flush" doc:"When it is flushed to the device: always (before each answer), or a duration between flushes. With nats.url it states that cluster's setting and has no default."`
	Replicas int    `key:"replicas" doc:"How many servers keep it: 1, or with nats.url 3 or 5."`
}

// NATS is the address of an existing cluster.
type NATS struct {
	URL         string `key:"url" doc:"One address or more, separated by commas; \"\" for the embedded server."`
	Credentials string `key:"credentials" doc:"NATS credentials file." file:"true"`
}

// A Namespace is a tenant: its names, its keys and its rules.
type Namespace struct {
	Hosts              []string           `key:"hosts" doc:"Host names that clients use; a request to any other gets 421. When no namespace has any, those of the certificate and of loopback are default's." reload:"true"`
	Keys               []Key              `key:"keys" doc:"Shared keys, from which their holders make tokens." reload:"true"`
	JWT                []Issuer           `key:"jwt" doc:"Issuers whose JSON Web Tokens are taken." reload:"true"`
	ClientCertificates ClientCertificates `key:"clientcertificates" doc:"Certificates that TLS clients may show in place of a token." reload:"true"`
	Anonymous          Anonymous          `key:"anonymous" doc:"What a visitor without a token may do." reload:"true"`
	Origins            []string           `key:"origins" doc:"Origins of web pages that may connect, such as https://app.example.com, or null." reload:"true"`
	Topics             []TopicRule        `key:"topics" doc:"How topics are kept; the first rule that matches wins, and what matches none is stored." reload:"true"`
	Retention          Retention          `key:"retention" doc:"How much is kept; the oldest goes first." reload:"true"`
	Relay              []RelayRule        `key:"relay" doc:"Rules for hybrid connections." reload:"true"`
}

func (n *Namespace) setDefaults() {
	n.Retention = Retention{MaxAge: Duration(7 * 24 * time.Hour), MaxBytes: 10 << 30, Dedup: Duration(2 * time.Minute)}
}

// A Key is a shared key.
type Key struct {
	Name          string   `key:"name" doc:"Its name, in tokens skn. Compared without case." required:"true"`
	PrimaryFile   string   `key:"primaryfile" doc:"File that holds the key, 16 to 256 bytes." required:"true" file:"true"`
	SecondaryFile string   `key:"secondaryfile" doc:"File with a second key, for rotation." file:"true"`
	Rights        []string `key:"rights" doc:"What its holders may do." required:"true" enum:"send listen manage"`
	Path          string   `key:"path" doc:"Narrows the key to a hybrid connection (NAME) or a topic (topics/TOPIC) and what is below."`

	primary, secondary access.Secret
}

// An Issuer is a party whose JSON Web Tokens are taken.
type Issuer struct {
	Issuer     string   `key:"issuer" doc:"Exact text of the claim iss." required:"true"`
	JWKS       string   `key:"jwks" doc:"Address of its keys; left out, the issuer's OpenID Connect description names it."`
	SecretFile string   `key:"secretfile" doc:"File with a secret of 32 to 256 bytes for HS256, in place of keys." file:"true"`
	Algorithms []string `key:"algorithms" doc:"Those to take; left out, all that the kind of key allows." enum:"RS256 PS256 ES256 EdDSA HS256"`
	Audience   string   `key:"audience" doc:"What the claim aud must name." required:"true"`

	secret access.Secret
}

// ClientCertificates are those of TLS clients that stand for rights.
type ClientCertificates struct {
	CA     string              `key:"ca" doc:"File with the certificates, in PEM, of the authorities whose certificates are taken; \"\" for none." file:"true"`
	Rights []CertificateRights `key:"rights" doc:"What their holders may do."`

	pool *x509.CertPool
}

// CertificateRights are those of certificates with a URI among their names.
type CertificateRights struct {
	URI           string   `key:"uri" doc:"A URI among the certificate's subject alternative names, such as spiffe://example.com/shop." required:"true"`
	Publish       []string `key:"publish" doc:"Topic filters."`
	Subscribe     []string `key:"subscribe" doc:"Topic filters."`
	Subscriptions []string `key:"subscriptions" doc:"Names of durable subscriptions; \"*\" is any."`
	Listen        []string `key:"listen" doc:"Names of hybrid connections, or patterns of them."`
	Send          []string `key:"send" doc:"Names of hybrid connections, or patterns of them."`
	Manage        bool     `key:"manage" doc:"true: manage the namespace."`
}

// TakesCertificates says whether a namespace takes certificates of clients.
func (c *Config) TakesCertificates() bool {
	for _, ns := range c.All() {
		if ns.ClientCertificates.CA != "" {
			return true
		}
	}
	return false
}

// Anonymous rights: topic filters, and names of hybrid connections or patterns.
type Anonymous struct {
	Publish   []string `key:"publish" doc:"Topic filters."`
	Subscribe []string `key:"subscribe" doc:"Topic filters."`
	Listen    []string `key:"listen" doc:"Names of hybrid connections, or patterns of them."`
	Send      []string `key:"send" doc:"Names of hybrid connections, or patterns of them."`
}

// A TopicRule says how the topics of a filter are kept.
type TopicRule struct {
	Filter string   `key:"filter" doc:"The topics: a topic filter." required:"true"`
	Stored bool     `key:"stored" doc:"false: live only, with nothing to resume from."`
	MaxAge Duration `key:"maxage" doc:"How long their events are kept; left out, retention.maxage."`
}

func (r *TopicRule) setDefaults() { r.Stored = true }

// Retention bounds a namespace's log.
type Retention struct {
	MaxAge   Duration `key:"maxage" doc:"How long events are kept."`
	MaxBytes Size     `key:"maxbytes" doc:"How large the log may grow."`
	Dedup    Duration `key:"dedup" doc:"How long an event is known again when it is published twice."`
}

// A RelayRule is about a hybrid connection, or all that match a pattern.
type RelayRule struct {
	Name             string   `key:"name" doc:"Its name, or a pattern in the form of a topic filter." required:"true"`
	AnonymousSenders bool     `key:"anonymoussenders" doc:"true: senders need no token."`
	Listeners        int      `key:"listeners" doc:"How many listeners it may have at once."`
	Sticky           bool     `key:"sticky" doc:"true: a sender's requests go to one listener."`
	Deadline         Duration `key:"deadline" doc:"How long a listener may take to answer a request."`
	Kinds            []string `key:"kinds" doc:"What may be relayed." enum:"websocket http"`
	Host             string   `key:"host" doc:"A host name of its own."`
}

func (r *RelayRule) setDefaults() {
	r.Listeners, r.Deadline, r.Kinds = 25, Duration(time.Minute), []string{"websocket", "http"}
}

// defaults is the config where the file says nothing.
func defaults(dev bool) *Config {
	c := &Config{
		HTTPS: ":443", Admin: "127.0.0.1:8081", Data: "outrelay-data",
		Log: Log{Storage: "file", Replicas: 1}, Limits: defaultLimits(), Dev: dev,
	}
	if dev {
		c.HTTPS, c.HTTP = "127.0.0.1:8443", "127.0.0.1:8080"
	}
	c.setDefaults()
	return c
}

// All yields the namespaces with their names, default first.
func (c *Config) All() iter.Seq2[string, *Namespace] {
	return func(yield func(string, *Namespace) bool) {
		if !yield(broker.DefaultNamespace, &c.Namespace) {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(c.Namespaces)) {
			if !yield(name, c.Namespaces[name]) {
				return
			}
		}
	}
}
