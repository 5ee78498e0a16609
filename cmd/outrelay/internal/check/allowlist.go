package check

import (
	"context"
	"fmt"
	"net/http"
	"slices"
)

// An Opening is what a firewall's owner must allow: outgoing connections from the site
// to a host, by name.
type Opening struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Protocol string `json:"protocol"` // "tcp"
}

// Allowlist is what must be allowed for an address: itself first, then the other hosts
// and ports of the gateway's well-known document. With an error, which is why the
// gateway could not be asked, it is what the address alone says.
func Allowlist(ctx context.Context, config Config) ([]Opening, error) {
	r, err := newRun(ctx, config, nil)
	if err != nil {
		return nil, err
	}
	defer r.close()
	r.client = &http.Client{Transport: r.transport(), CheckRedirect: stay}
	own := Opening{r.host, r.port, "tcp"}
	list := []Opening{own}
	d, a, err := r.fetch()
	if err != nil {
		if a == nil {
			return list, fmt.Errorf("ask the gateway: %s", network(err))
		}
		return list, fmt.Errorf("ask the gateway: %w", err)
	}
	for _, host := range d.Hosts {
		for _, port := range append([]int{r.port}, d.Ports...) {
			o := Opening{host, port, "tcp"}
			if _, ok := hostPort(host, port); ok && !slices.Contains(list, o) && len(list) < mostOpenings {
				list = append(list, o)
			}
		}
	}
	return list, nil
}

// mostOpenings bounds what a stranger's document makes us print.
const mostOpenings = 1000
