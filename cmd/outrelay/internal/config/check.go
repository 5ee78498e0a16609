package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
	"github.com/outrelay/outrelay/schemas"
)

// check finds the mistakes that are no matter of form. What the other parts know of
// their own config is left to them; here is what takes the file, its neighbours or
// the whole to see.
func (l *loader) check() {
	l.checkAddresses()
	l.checkTLS()
	l.checkLog()
	for name, ns := range l.All() {
		at := l.prefix[name]
		if _, err := schemas.ParseSegment("namespace", name); err != nil {
			l.fault("namespaces."+name, "%s", detail(err))
		}
		l.readSecrets(at, ns)
		l.checkClientCertificates(at, ns)
		l.checkTopics(at, ns)
		l.checkRelay(at, ns)
	}
	l.checkHosts()
	l.checkParts()
}

// detail is the text of a problem, or of any other error.
func detail(err error) string {
	if p := (*schemas.Problem)(nil); errors.As(err, &p) {
		return p.Detail
	}
	return err.Error()
}

func (l *loader) checkAddresses() {
	var taken []string
	for _, a := range []struct{ key, address string }{{"https", l.HTTPS}, {"http", l.HTTP}, {"admin", l.Admin}} {
		if a.address == "" || a.key == "https" && l.TLS.Off {
			continue
		}
		host, port, err := net.SplitHostPort(a.address)
		number, notNumber := strconv.ParseUint(port, 10, 16)
		_, onlyPort := strconv.ParseUint(a.address, 10, 16)
		switch {
		case onlyPort == nil:
			l.fault(a.key, "%q is no address; write \":%s\" for all of this machine's, or \"127.0.0.1:%s\"", a.address, a.address, a.address)
		case strings.Contains(a.address, "://"):
			l.fault(a.key, "%q is a URL; write HOST:PORT, without scheme and path", a.address)
		case err != nil:
			l.fault(a.key, "%q is no address; write HOST:PORT or :PORT, an IPv6 address as \"[::1]:443\"", a.address)
		case notNumber != nil:
			l.fault(a.key, "%q has the port %q; write a number up to 65535, 0 for a free one", a.address, port)
		case l.Dev && !loopback(host):
			l.fault(a.key, "%q is not on loopback, and --dev is open to all who reach it; write 127.0.0.1:%s, or serve without --dev", a.address, port)
		case number != 0 && slices.Contains(taken, a.address):
			l.fault(a.key, "%q is there twice; write another port", a.address)
		case a.key == "admin" && !loopback(host):
			l.Notices = append(l.Notices, fmt.Sprintf("admin: %s is not on loopback, and what is there asks nobody for a token; keep strangers from it", a.address))
		}
		taken = append(taken, a.address)
	}
	if l.HTTPS == "" && l.HTTP == "" {
		l.fault("https", "there is neither an https nor an http address; write one, such as https: \":443\"")
	}
}

// loopback says whether a host can only mean this machine.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func (l *loader) checkTLS() {
	t := &l.TLS
	switch {
	case t.Off:
		if l.HTTP == "" {
			l.fault("tls", "tls is off and there is no http address to serve; write one, such as http: 127.0.0.1:8080")
		}
		if l.HTTPS != "" && (l.flags["https"] || l.at["https"] != nil) {
			l.Notices = append(l.Notices, "tls is off: there is no https, only http")
		}
		l.HTTPS = ""
	case t.ACME != nil && (t.Cert != "" || t.Key != ""):
		l.fault("tls.acme", "there are a certificate of your own and one to be got; write either cert and key, or acme")
	case t.ACME != nil:
		l.checkACME()
	case t.Cert != "" && t.Key == "":
		l.fault("tls.key", "there is cert without key; write key: FILE")
	case t.Cert == "" && t.Key != "":
		l.fault("tls.cert", "there is key without cert; write cert: FILE")
	case t.Cert != "":
		l.readCertificate()
	case !l.Dev:
		l.fault("tls", "there is no certificate; write tls: {cert: FILE, key: FILE} with one for your host name, or tls: off for use behind a proxy that ends TLS. To try outrelay on this machine alone: outrelay serve --dev")
	}
}

func (l *loader) checkACME() {
	a := l.TLS.ACME
	if l.Dev {
		l.fault("tls.acme", "--dev is on loopback, where no authority comes; leave tls out")
		return
	}
	if l.HTTPS == "" {
		l.fault("tls.acme", "there is no https address for the authority to come to; write https: \":443\"")
	}
	if len(a.Hosts) == 0 {
		l.fault("tls.acme.hosts", "there is no name to get a certificate for; write hosts: [relay.example.com]")
	}
	for i, host := range a.Hosts {
		if u, err := url.Parse("https://" + host); err != nil || u.Host != host || u.Port() != "" || !strings.Contains(host, ".") || strings.Contains(host, "*") {
			l.fault(fmt.Sprintf("tls.acme.hosts[%d]", i), "%q is no public host name; write one such as relay.example.com", host)
		}
	}
	if u, err := url.Parse(a.CA); a.CA != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		l.fault("tls.acme.ca", "%q is no address of an authority's directory; write one such as https://ca.example.com/directory", a.CA)
	}
	a.roots = l.readPool("tls.acme.roots", a.Roots)
}

func (l *loader) checkClientCertificates(at string, ns *Namespace) {
	c := &ns.ClientCertificates
	c.pool = l.readPool(at+"clientcertificates.ca", c.CA)
	switch {
	case c.CA == "" && len(c.Rights) > 0:
		l.fault(at+"clientcertificates.ca", "there are rights for certificates of no authority; write ca: FILE")
	case c.CA != "" && l.TLS.Off:
		l.fault(at+"clientcertificates.ca", "with tls: off no client can show a certificate here; remove clientcertificates, or let outrelay serve https")
	}
}

// readPool reads a file of certificates; nil if there is none.
func (l *loader) readPool(path, file string) *x509.CertPool {
	if file == "" {
		return nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		l.fault(path, "%s: %s", file, fileFault(err))
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		l.fault(path, "%s holds no certificate in PEM; write the file that does", file)
	}
	return pool
}

func (l *loader) readCertificate() {
	cert, certErr := os.ReadFile(l.TLS.Cert)
	key, keyErr := os.ReadFile(l.TLS.Key)
	if certErr != nil {
		l.fault("tls.cert", "%s: %s", l.TLS.Cert, fileFault(certErr))
	}
	if keyErr != nil {
		l.fault("tls.key", "%s: %s", l.TLS.Key, fileFault(keyErr))
	}
	if certErr != nil || keyErr != nil {
		return
	}
	pair, err := tls.X509KeyPair(cert, key)
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "does not match"):
		l.fault("tls.key", "%s is not the key of the certificate; write the two that were made together", l.TLS.Key)
		return
	case strings.Contains(err.Error(), "certificate") && !strings.Contains(err.Error(), "rather than a key"):
		// crypto/tls has no other way to tell which of the two it could not read.
		l.fault("tls.cert", "%s holds no certificate in PEM; write the file that does", l.TLS.Cert)
		return
	default:
		l.fault("tls.key", "%s holds no private key in PEM without a password; write the file that does", l.TLS.Key)
		return
	}
	l.Certificate = &pair
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		l.Notices = append(l.Notices, fmt.Sprintf("tls.cert: %s expired on %s; clients refuse it. Renew it, and send SIGHUP.",
			l.TLS.Cert, pair.Leaf.NotAfter.Format(time.DateOnly)))
	}
}

func (l *loader) checkLog() {
	switch d := Duration(0); {
	case l.Log.Flush == "" && l.NATS.URL == "":
		l.Log.Flush = broker.FlushAlways
	case l.Log.Flush == "", l.Log.Flush == broker.FlushAlways:
	case d.parse(l.Log.Flush) != nil || d <= 0:
		l.fault("log.flush", "%q is no way to flush; write always, or a duration such as 2m", l.Log.Flush)
	}
	switch r := l.Log.Replicas; {
	case r != 1 && r != 3 && r != 5:
		l.fault("log.replicas", "%d replicas can't be had; write 1, 3 or 5", r)
	case r > 1 && l.NATS.URL == "":
		l.fault("log.replicas", "the embedded server keeps one replica; write 1, or the address of a cluster in nats.url")
	}
	if l.NATS.Credentials != "" {
		if l.NATS.URL == "" {
			l.fault("nats.credentials", "there is no nats.url to use them for; write it, or remove this line")
		} else if _, err := os.ReadFile(l.NATS.Credentials); err != nil {
			l.fault("nats.credentials", "%s: %s", l.NATS.Credentials, fileFault(err))
		}
	}
	if l.NATS.URL == "" {
		return
	}
	for address := range strings.SplitSeq(l.NATS.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(address))
		switch {
		case err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			l.fault("nats.url", "this is no address of NATS; write nats://HOST:4222, or tls://HOST:4222")
		case u.User != nil: // and not one word more: it may be a password
			l.fault("nats.url", "the address holds a user or a token; put them in a credentials file and name that in nats.credentials")
		}
	}
}

func (l *loader) checkTopics(at string, ns *Namespace) {
	for i, r := range ns.Topics {
		path := fmt.Sprintf("%stopics[%d]", at, i)
		filter, err := schemas.ParseTopicFilter(r.Filter)
		if err != nil {
			l.fault(path+".filter", "%q: %s", r.Filter, detail(err))
			continue
		}
		if filter.Notices() {
			l.fault(path+".filter", "%q: topics under %s/ are the broker's own notices; remove the rule", r.Filter, schemas.NoticeSegment)
		}
		switch {
		case !r.Stored && r.MaxAge != 0:
			l.fault(path+".maxage", "the topics are not stored, so nothing is kept; remove maxage, or write stored: true")
		case r.Stored && time.Duration(r.MaxAge) < time.Second:
			l.fault(path+".maxage", "%s is too short; write at least 1s", r.MaxAge)
		}
		for j, earlier := range ns.Topics[:i] {
			if f, err := schemas.ParseTopicFilter(earlier.Filter); err == nil && f.Contains(filter) {
				l.fault(path+".filter", "%q is never reached, because %q in line %d matches all of it and the first match wins; put this rule before that one, or remove it",
					r.Filter, earlier.Filter, l.line(fmt.Sprintf("%stopics[%d]", at, j)))
				break
			}
		}
	}
	switch r := ns.Retention; {
	case time.Duration(r.MaxAge) < time.Second:
		l.fault(at+"retention.maxage", "%s is too short; write at least 1s", r.MaxAge)
	case time.Duration(r.Dedup) < time.Second:
		l.fault(at+"retention.dedup", "%s is too short; write at least 1s", r.Dedup)
	case r.MaxBytes < schemas.MaxBatch:
		l.fault(at+"retention.maxbytes", "%s is too little for one batch; write at least %s", r.MaxBytes, Size(schemas.MaxBatch))
	}
}

// Bounds of a hybrid connection's name (protocol section 1).
const (
	maxRelaySegments = 14
	maxRelayName     = 230
)

// reserved are the first segments that no hybrid connection may have (protocol
// section 2).
var reserved = []string{"topics", "connect", "subscriptions", "healthz", ".well-known"}

func (l *loader) checkRelay(at string, ns *Namespace) {
	names := map[string]int{}
	for i, r := range ns.Relay {
		path := fmt.Sprintf("%srelay[%d]", at, i)
		folded := strings.ToLower(r.Name)
		first, _, _ := strings.Cut(folded, "/")
		_, err := schemas.ParseTopicFilter(r.Name)
		before, twice := names[folded]
		switch {
		case err != nil:
			l.fault(path+".name", "%q: %s", r.Name, detail(err))
		case len(r.Name) > maxRelayName || strings.Count(r.Name, "/") >= maxRelaySegments:
			l.fault(path+".name", "the name has %d bytes and %d segments; write at most %d and %d", len(r.Name), strings.Count(r.Name, "/")+1, maxRelayName, maxRelaySegments)
		case slices.Contains(reserved, first):
			l.fault(path+".name", "%q begins with %s, which is reserved; write another name", r.Name, first)
		case twice:
			l.fault(path+".name", "%q is there already, in line %d; write one rule (names are compared without case)", r.Name, before)
		}
		names[folded] = l.line(path)
		if r.Listeners < 1 {
			l.fault(path+".listeners", "%d is no number of listeners; write at least 1", r.Listeners)
		}
		if time.Duration(r.Deadline) < time.Second {
			l.fault(path+".deadline", "%s is too short; write at least 1s", r.Deadline)
		}
		if len(r.Kinds) == 0 {
			l.fault(path+".kinds", "nothing may be relayed; write websocket, http or both, or leave kinds out for both")
		}
	}
}

// checkHosts sees to it that a host name leads to one place.
func (l *loader) checkHosts() {
	type place struct {
		path string
		line int
	}
	taken := map[string]place{}
	take := func(path, host string) {
		folded := strings.ToLower(host)
		if other, twice := taken[folded]; twice {
			l.fault(path, "%q is there already, in line %d as %s; a host name leads to one place, remove it here or there", host, other.line, other.path)
			return
		}
		taken[folded] = place{path, l.line(path)}
	}
	for name, ns := range l.All() {
		for i, host := range ns.Hosts {
			take(fmt.Sprintf("%shosts[%d]", l.prefix[name], i), host)
		}
		for i, r := range ns.Relay {
			if r.Host != "" {
				take(fmt.Sprintf("%srelay[%d].host", l.prefix[name], i), r.Host)
			}
		}
	}
	if len(taken) == 0 && !l.Dev {
		l.Hosts = l.ownHosts()
		l.Notices = append(l.Notices, "hosts: none are written, so namespace default is "+strings.Join(l.Hosts, ", "))
	}
}

// ownHosts are the names that this gateway has where the config gives none: those
// of its certificate, and of loopback.
func (l *loader) ownHosts() []string {
	hosts := []string{"localhost", "127.0.0.1", "[::1]"}
	if l.Certificate == nil {
		return hosts
	}
	add := func(host string) {
		if host = strings.ToLower(host); !strings.Contains(host, "*") && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	for _, name := range l.Certificate.Leaf.DNSNames {
		add(name)
	}
	for _, ip := range l.Certificate.Leaf.IPAddresses {
		if a, _ := netip.AddrFromSlice(ip); a.Unmap().Is4() {
			add(a.Unmap().String())
		} else {
			add("[" + a.String() + "]")
		}
	}
	return hosts
}

// checkParts asks the parts what they think of their config.
func (l *loader) checkParts() {
	policy, err := access.New(l.Access())
	for _, err := range all(err) {
		var f *access.Fault
		if !errors.As(err, &f) {
			l.fault("", "%v", err)
			continue
		}
		path := f.Path
		if rest, ok := strings.CutPrefix(path, "namespaces."+broker.DefaultNamespace+"."); ok {
			path = l.prefix[broker.DefaultNamespace] + rest
		}
		l.fault(path, "%s", f.Text)
	}
	if len(l.faults) > 0 {
		return
	}
	b, err := broker.New(l.Broker())
	for _, err := range all(err) {
		l.fault("", "%v", err)
	}
	_, relayErr := relay.New(relay.Config{Broker: b, Access: policy, Rules: l.RelayRules(), Limits: l.Limits.Relay})
	_, err = gateway.New(gateway.Config{
		Broker: b, Access: policy, Hosts: l.HostNames(), Dev: l.Dev,
		HTTPS: l.HTTPS, HTTP: l.HTTP, Admin: l.Admin, TLS: &tls.Config{MinVersion: tls.VersionTLS12}, Limits: l.Limits.Gateway,
	})
	for _, err := range append(all(err), all(relayErr)...) {
		path, text := "", err.Error()
		if rest, ok := strings.CutPrefix(text, "limits: "); ok {
			key, _, _ := strings.Cut(rest, " ")
			path, text = "limits."+key, rest
		}
		l.fault(path, "%s", text)
	}
}

// all takes joined errors apart.
func all(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err != nil {
		return []error{err}
	}
	return nil
}
