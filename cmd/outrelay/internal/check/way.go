package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/outrelay/outrelay/subscriber"
)

// checkName resolves the gateway's name, and finds out about the proxy, which may
// resolve it in our place.
func (r *run) checkName() {
	result := Result{Step: StepName, Host: r.host}
	defer func() { r.say(result) }()
	if _, err := netip.ParseAddr(r.host); err == nil {
		result.Status, result.Detail = OK, r.host+" is an address; there is no name to resolve"
		return
	}
	addresses, err := r.resolve(r.host)
	if err == nil {
		result.Status, result.Addresses = OK, addresses
		result.Detail = fmt.Sprintf("%s is %s today; allow the name, because addresses change", r.host, strings.Join(addresses, ", "))
		return
	}
	if proxy, wrong := r.Client.ProxyFor(r.address(r.port)); proxy != nil || wrong != nil {
		result.Status = OK
		result.Detail = r.host + " is not known to this machine, which does no harm: the proxy resolves it"
		return
	}
	result.Status, result.Cause = Failed, Network
	result.Detail = fmt.Sprintf("%s can't be resolved: %s", r.host, resolving(err))
	result.Tell = fmt.Sprintf("check the spelling; else tell whoever runs this network's DNS that %s must be resolved here", r.host)
}

func (r *run) resolve(host string) ([]string, error) {
	ctx, cancel := r.limited()
	defer cancel()
	found, err := r.Resolver.LookupNetIP(ctx, "ip", host)
	var addresses []string
	for _, a := range found {
		addresses = append(addresses, a.Unmap().String())
	}
	return addresses, err
}

func resolving(err error) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "there is no such name"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &dns) && dns.IsTimeout:
		return "the DNS server gives no answer"
	case errors.As(err, &dns):
		return clean(dns.Err)
	}
	return clean(err.Error())
}

// checkReach finds the proxy and has it open a connection to the gateway, or opens one
// directly.
func (r *run) checkReach() {
	if r.proxied() {
		return
	}
	if r.skip(StepTCP, StepName, StepProxy) {
		return
	}
	took, err := r.connect(r.port, r.Timeout)
	r.sayTCP(r.port, took, err)
}

// proxied looks at the proxy, if there is one. True: it, and the connection through it,
// have been reported.
func (r *run) proxied() bool {
	result := Result{Step: StepProxy, Status: Failed, Cause: Network}
	proxy, err := r.Client.ProxyFor(r.address(r.port))
	switch {
	case err != nil, proxy != nil && proxy.Hostname() == "":
		result.Detail = r.ProxySource + " has no address of a proxy" // which may hold a password
		result.Tell = "write it as http://proxy.example.com:3128, or http://NAME:PASSWORD@proxy.example.com:3128 with signs such as % and @ in the password as %25 and %40"
		r.say(result)
		return false
	case proxy == nil:
		r.say(Result{Step: StepProxy, Status: OK, Detail: r.NoProxy})
		return false
	}
	r.proxy = proxy
	at := proxyAddress(proxy)
	result.Proxy = at
	began := time.Now()
	ctx, cancel := r.limited()
	defer cancel()
	dial := r.Client.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", at)
	if err != nil {
		result.Detail = fmt.Sprintf("the proxy %s (from %s) is not reached: %s", at, r.ProxySource, unreached(err))
		result.Tell = "check the proxy's address, or ask whoever runs it"
		r.say(result)
		r.skip(StepTCP, StepProxy)
		return true
	}
	conn.Close()
	result.Milliseconds = milliseconds(time.Since(began))
	took, err := r.connect(r.port, r.Timeout)
	var status *subscriber.StatusError
	if errors.As(err, &status) {
		switch status.Status {
		case http.StatusProxyAuthRequired:
			result.Cause = Access
			result.Detail = clean(status.Text)
			result.Tell = fmt.Sprintf("ask whoever runs the proxy for a user name and password for Basic authentication, or to let CONNECT %s pass without", r.address(r.port))
			if proxy.User != nil {
				result.Tell = "check the user name and password; else " + result.Tell
			}
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			r.sayProxy(result)
			r.say(Result{
				Step: StepTCP, Status: Failed, Cause: Network, Host: r.host, Port: r.port, Proxy: at,
				Detail: fmt.Sprintf("the proxy %s does not reach %s: it answers HTTP %d", at, r.address(r.port), status.Status),
				Tell:   fmt.Sprintf("check name and port; else tell whoever runs the proxy that it must reach TCP port %d of %s", r.port, r.host),
			})
			return true
		default:
			result.Detail = fmt.Sprintf("the proxy %s opens no connection to %s: it answers HTTP %d to CONNECT", at, r.address(r.port), status.Status)
			result.Tell = fmt.Sprintf("tell whoever runs the proxy to allow CONNECT %s", r.address(r.port))
		}
		r.say(result)
		r.skip(StepTCP, StepProxy)
		return true
	}
	if err != nil && strings.HasPrefix(err.Error(), "proxy: ") {
		result.Detail = fmt.Sprintf("the proxy %s does not answer as one: %s", at, network(err))
		result.Tell = "check the proxy's address, or ask whoever runs it"
		r.say(result)
		r.skip(StepTCP, StepProxy)
		return true
	}
	r.sayProxy(result)
	r.sayTCP(r.port, took, err)
	return true
}

func (r *run) sayProxy(result Result) {
	result.Status, result.Cause = OK, 0
	result.Detail = fmt.Sprintf("the proxy %s (from %s) is used", result.Proxy, r.ProxySource)
	if r.proxy.User != nil {
		result.Detail += ", with the user name and password in its address"
	}
	r.say(result)
}

func proxyAddress(proxy *url.URL) string {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[proxy.Scheme]
	}
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(proxy.Hostname(), port)
}

// connect opens a connection to a port of the gateway, and closes it.
func (r *run) connect(port int, limit time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	defer cancel()
	began := time.Now()
	conn, err := r.Client.Connect(ctx, r.address(port))
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	conn.Close()
	return took, nil
}

// sayTCP reports a connection to the address's own port.
func (r *run) sayTCP(port int, took time.Duration, err error) {
	result := Result{Step: StepTCP, Host: r.host, Port: port, Status: OK, Milliseconds: milliseconds(took)}
	if r.proxy != nil {
		result.Proxy = proxyAddress(r.proxy)
	}
	if err != nil {
		result.Status, result.Cause = Failed, Network
		result.Detail = fmt.Sprintf("port %d of %s is not reached: %s", port, r.host, unreached(err))
		result.Tell = fmt.Sprintf("tell the firewall's owner to allow outgoing TCP connections to port %d of %s", port, r.host)
		if errors.Is(err, syscall.ECONNREFUSED) {
			result.Tell = fmt.Sprintf("check the port; else tell whoever runs the gateway that nothing listens there, or the firewall's owner to allow outgoing TCP connections to port %d of %s", port, r.host)
		}
		r.say(result)
		return
	}
	result.Detail = fmt.Sprintf("port %d of %s is open", port, r.host)
	if r.proxy != nil {
		result.Detail += ", through the proxy"
	}
	r.say(result)
}

// otherPort is how long a port that is not needed may take.
const otherPort = 2 * time.Second

// checkPorts tries the other ports that the gateway names. The address at hand does
// without them, so a closed one is no failure.
func (r *run) checkPorts() {
	if len(r.ports) == 0 || r.failed[StepGateway] != "" {
		return
	}
	results := make([]Result, len(r.ports))
	var tasks sync.WaitGroup
	for i, port := range r.ports {
		tasks.Go(func() {
			result := Result{Step: StepTCP, Host: r.host, Port: port, Status: OK, Detail: fmt.Sprintf("port %d of %s is open, too", port, r.host)}
			took, err := r.connect(port, min(r.Timeout, otherPort))
			result.Milliseconds = milliseconds(took)
			if err != nil {
				result.Status = Warning
				result.Detail = fmt.Sprintf("port %d of %s, which the gateway names, too, is not reached: %s", port, r.host, unreached(err))
				result.Tell = fmt.Sprintf("nothing to do, as long as addresses with port %d are used", r.port)
			}
			results[i] = result
		})
	}
	tasks.Wait()
	for _, result := range results {
		r.say(result)
	}
}

// unreached is why a connection is not opened, in words.
func unreached(err error) string {
	if isTimeout(err) {
		return "there is no answer, so something on the way drops the packets"
	}
	return network(err)
}

func isTimeout(err error) bool {
	var slow net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout()
}

// network is what the network said, in words.
func network(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection is refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "the connection is cut"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "there is no way there from this network"
	case errors.Is(err, os.ErrPermission):
		return "this machine's own firewall forbids it"
	case isTimeout(err):
		return "there is no answer"
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return resolving(err)
	}
	var operation *net.OpError
	if errors.As(err, &operation) {
		return clean(operation.Err.Error())
	}
	return clean(strings.TrimPrefix(err.Error(), "proxy: "))
}

func trimSlash(s string) string { return strings.TrimRight(s, "/") }

// clip keeps a line a line, to which a stop is added.
func clip(s string) string {
	const most = 900
	s = strings.TrimRight(s, ". ")
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// hostPort is a host name and a port that may be printed; false if the name is none.
func hostPort(host string, port int) (string, bool) {
	if host == "" || len(host) > 255 || port < 1 || port > 65535 {
		return "", false
	}
	for _, c := range host {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-._:", c)) {
			return "", false
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), true
}
