package access

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/outrelay/outrelay/schemas"
)

// A Config says what a [Policy] allows. The zero value allows nothing.
type Config struct {
	// Namespaces by name. In one that is not here nothing is allowed.
	Namespaces map[string]Namespace
	// Transport fetches the keys of token issuers; nil is one of our own, which
	// uses the proxy that the environment names.
	Transport http.RoundTripper
	// Log hears of issuers that give no keys; nil for nobody. It is never told a token.
	Log *slog.Logger
}

// A Namespace is the access part of a namespace's config.
type Namespace struct {
	// Hosts are the namespace's host names, without port. A shared access signature
	// is for one of them.
	Hosts []string
	// Keys are the shared keys.
	Keys []Key
	// JWT are the issuers whose tokens are taken.
	JWT []Issuer
	// ClientCertificates are what a TLS client may show in place of a token.
	ClientCertificates ClientCertificates
	// Anonymous is what a visitor without a token may do.
	Anonymous Anonymous
	// Origins are the origins of web pages that may connect, as scheme://host[:port],
	// or "null". The namespace's own pages always may.
	Origins []string
	// Dev opens the namespace as outrelay serve --dev does: visitors without a token
	// may do everything but manage, pages from loopback and "null" may connect, and
	// a shared access signature may be for any host.
	Dev bool
}

// Anonymous rights: topic filters, and names of hybrid connections or patterns of
// them in the form of topic filters. No rights by default.
type Anonymous struct {
	Publish, Subscribe []string
	Listen, Send       []string
}

// A Key is a shared key, from which its holders make shared access signatures.
type Key struct {
	// Name is compared without case. At most 256 characters.
	Name string
	// Primary is the key, 16 to 256 bytes.
	Primary Secret
	// Secondary is a second key for rotation; "" for none.
	Secondary Secret
	// Rights are "send", "listen" and "manage", at least one.
	Rights []string
	// Path narrows the key to a hybrid connection (NAME) or a topic (topics/TOPIC)
	// and what is below it; "" is the whole namespace.
	Path string
}

// A Secret is text that prints as "[secret]".
type Secret string

// Format prints no secret, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[secret]")) }

// MarshalText gives no secret away.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// LogValue gives no secret away.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// Lengths of secrets in bytes.
const (
	minKey    = 16
	minSecret = 32 // RFC 7518 section 3.2: at least the size of the hash
	maxSecret = 256
)

// A Fault is one mistake in a [Config].
type Fault struct {
	// Path is where, such as "namespaces.shop.keys[1].rights[0]", in the words of the config file.
	Path string
	// Text says what is wrong and what to write instead.
	Text string
}

// Error is the path and the text.
func (f *Fault) Error() string { return f.Path + ": " + f.Text }

// faults gathers them. The error is made of [*Fault], all of them, in the order of the config.
type faults struct{ all []error }

func (f *faults) add(path, format string, args ...any) {
	f.all = append(f.all, &Fault{path, fmt.Sprintf(format, args...)})
}

func (f *faults) err() error { return errors.Join(f.all...) }

// namespace is a checked [Namespace].
type namespace struct {
	name      string
	dev       bool
	hosts     []string          // folded
	keys      map[string][]*key // by folded name, those with the longest path first
	issuers   map[string]*issuer
	holders   *holders // of client certificates
	anonymous rights
	visitor   *Grant          // of all without a token: anonymous
	origins   map[string]bool // normalised
}

func newNamespace(name string, c Namespace, sources sourceSet, f *faults) *namespace {
	n := &namespace{name: name, dev: c.Dev, keys: map[string][]*key{}, issuers: map[string]*issuer{}, origins: map[string]bool{}}
	path := "namespaces." + name
	if _, err := schemas.ParseSegment("namespace", name); err != nil {
		f.add(path, "%s", detail(err))
	}
	for i, h := range c.Hosts {
		if !validHost(h) {
			f.add(fmt.Sprintf("%s.hosts[%d]", path, i), "%q is no host name; write it as in the address, without scheme, port and path.", h)
		}
		n.hosts = append(n.hosts, fold(h))
	}
	for i, k := range c.Keys {
		n.addKey(k, fmt.Sprintf("%s.keys[%d]", path, i), f)
	}
	for _, same := range n.keys {
		slices.SortStableFunc(same, func(a, b *key) int { return cmp.Compare(len(b.path), len(a.path)) })
	}
	for i, issuer := range c.JWT {
		n.addIssuer(issuer, fmt.Sprintf("%s.jwt[%d]", path, i), sources, f)
	}
	n.holders = newHolders(c.ClientCertificates, path+".clientcertificates", f)
	if n.anonymous = c.Anonymous.rights(path+".anonymous", f); c.Dev {
		n.anonymous = everything()
	}
	n.visitor = &Grant{namespace: name, rights: n.anonymous}
	for i, o := range c.Origins {
		normal, ok := normalOrigin(o)
		if !ok && o != nullOrigin {
			f.add(fmt.Sprintf("%s.origins[%d]", path, i), "%q is no origin; write https://HOST, with :PORT if it is not 443, without a path, international names in their xn-- form, each origin on its own.", o)
		}
		n.origins[cmp.Or(normal, o)] = true
	}
	return n
}

func (n *namespace) addKey(c Key, path string, f *faults) {
	k := &key{name: c.Name}
	switch {
	case c.Name == "":
		f.add(path+".name", "The key has no name; give it one.")
	case len(c.Name) > 256 || strings.ContainsFunc(c.Name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '&' }):
		f.add(path+".name", "The name %q can't be used; take at most 256 characters, no control character and no \"&\".", c.Name)
	}
	checkSecret(c.Primary, minKey, path+".primaryfile", f)
	k.secrets = [][]byte{[]byte(c.Primary)}
	if c.Secondary != "" {
		checkSecret(c.Secondary, minKey, path+".secondaryfile", f)
		k.secrets = append(k.secrets, []byte(c.Secondary))
	}
	for i, right := range c.Rights {
		switch right {
		case "send":
			k.rights.send = true
		case "listen":
			k.rights.listen = true
		case "manage":
			k.rights.manage = true
		default:
			f.add(fmt.Sprintf("%s.rights[%d]", path, i), "%q is no right; write send, listen or manage.", right)
		}
	}
	if len(c.Rights) == 0 {
		f.add(path+".rights", "The key has no rights; write some of send, listen, manage.")
	}
	var ok bool
	if k.path, ok = parseScope(c.Path); !ok {
		f.add(path+".path", "%q is neither a hybrid connection's name nor topics/TOPIC.", c.Path)
	}
	if k.rights.manage && k.path != "" {
		f.add(path+".rights", "A key with a path can't have the right manage, which is for the whole namespace; remove one of them.")
	}
	folded := fold(c.Name)
	for _, other := range n.keys[folded] {
		if other.path == k.path {
			f.add(path+".name", "There is another key %q for the same path; names are compared without case.", c.Name)
		}
	}
	n.keys[folded] = append(n.keys[folded], k)
}

func checkSecret(s Secret, least int, path string, f *faults) {
	switch {
	case s == "":
		f.add(path, "There is no key; make one of 32 random bytes in base64.")
	case len(s) < least:
		f.add(path, "The key has %d bytes, at least %d are needed; make one of 32 random bytes in base64.", len(s), least)
	case len(s) > maxSecret:
		f.add(path, "The key has %d bytes, at most %d are allowed.", len(s), maxSecret)
	case strings.TrimSpace(string(s)) != string(s):
		f.add(path, "The key begins or ends with blanks; remove them.")
	}
}

func (a Anonymous) rights(path string, f *faults) rights {
	return rights{
		publish:   topicFilters(a.Publish, path+".publish", f),
		subscribe: topicFilters(a.Subscribe, path+".subscribe", f),
		listen:    namePatterns(a.Listen, path+".listen", f),
		send:      namePatterns(a.Send, path+".send", f),
	}
}

func topicFilters(list []string, path string, f *faults) []schemas.TopicFilter {
	var filters []schemas.TopicFilter
	for i, s := range list {
		filter, err := schemas.ParseTopicFilter(s)
		if err != nil {
			f.add(fmt.Sprintf("%s[%d]", path, i), "%s", detail(err))
			continue
		}
		filters = append(filters, filter)
	}
	return filters
}

func namePatterns(list []string, path string, f *faults) []string {
	var patterns []string
	for i, s := range list {
		if _, err := schemas.ParseTopicFilter(s); err != nil {
			f.add(fmt.Sprintf("%s[%d]", path, i), "%s", detail(err))
			continue
		}
		patterns = append(patterns, fold(s))
	}
	return patterns
}

// detail is the text of a problem, or of any other error.
func detail(err error) string {
	if p := (*schemas.Problem)(nil); errors.As(err, &p) {
		return p.Detail
	}
	return err.Error()
}
