package subscriber

import (
	"net"
	"net/netip"
)

// An Addr is the address of a hybrid connection: its name.
type Addr string

// Network is "outrelay".
func (Addr) Network() string { return "outrelay" }

// String is the name.
func (a Addr) String() string { return string(a) }

// A remoteEndpoint is where a sender is, as the relay saw it.
type remoteEndpoint struct {
	Address string `json:"address"`
	Port    int    `json:"port"`
}

// addr is the endpoint as an address: "ip:port" where it is one, else the name of the
// hybrid connection that it came to.
func (e remoteEndpoint) addr(name string) net.Addr {
	ip, err := netip.ParseAddr(e.Address)
	if err != nil || e.Port < 0 || e.Port > 65535 {
		return Addr(name)
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(e.Port)))
}
