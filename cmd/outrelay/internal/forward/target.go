package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// dialTimeout bounds the connecting to a local service.
const dialTimeout = 10 * time.Second

// A Target is a local service: an HTTP server, or whatever takes a stream.
type Target struct {
	// URL is the HTTP server's; nil for a stream.
	URL *url.URL
	// Network and Address are where to dial, as net.Dial has it.
	Network, Address string
}

// ParseTarget reads http://HOST:PORT, https://HOST:PORT, tcp://HOST:PORT or unix:PATH.
func ParseTarget(s string) (Target, error) {
	const forms = "give http://HOST:PORT, tcp://HOST:PORT or unix:PATH"
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return Target{}, errors.New("unix: has no path; " + forms)
		}
		return Target{Network: "unix", Address: path}, nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return Target{}, errors.New("this is no address of a service; " + forms)
	case u.User != nil:
		return Target{}, errors.New("the address of a service has no user name; " + forms)
	case u.Scheme == "tcp":
		if u.Port() == "" || u.Path != "" || u.RawQuery != "" {
			return Target{}, fmt.Errorf("%q is no tcp://HOST:PORT", s)
		}
		return Target{Network: "tcp", Address: u.Host}, nil
	case u.Scheme != "http" && u.Scheme != "https":
		return Target{}, fmt.Errorf("the scheme %q is not known; %s", u.Scheme, forms)
	case u.RawQuery != "" || u.Fragment != "":
		return Target{}, errors.New("the address of a service has no query; " + forms)
	}
	return Target{URL: u}, nil
}

// String is the target as ParseTarget reads it.
func (t Target) String() string {
	switch {
	case t.URL != nil:
		return t.URL.String()
	case t.Network == "unix":
		return "unix:" + t.Address
	}
	return t.Network + "://" + t.Address
}

// dial connects to a target that takes a stream.
func (t Target) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, t.Network, t.Address)
}
