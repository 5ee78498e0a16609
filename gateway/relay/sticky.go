package relay

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// stickyCookie is the name of the cookie by which a session finds its listener again.
const stickyCookie = "outrelay-listener"

const (
	// stickyMost is how many senders' addresses are remembered, and stickyForget
	// how long one is that does not come back.
	stickyMost   = 20_000
	stickyForget = time.Hour
)

// A sticky remembers which listener the senders of an address have got that bring no
// cookie.
type sticky struct {
	mu    sync.Mutex
	known map[stickyKey]stuck
}

type stickyKey struct {
	entity  entity
	address string
}

type stuck struct {
	listener string // its id
	seen     time.Time
}

func (s *sticky) init() { s.known = map[stickyKey]stuck{} }

func (s *sticky) find(k stickyKey) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[k].listener
}

func (s *sticky) keep(k stickyKey, listener string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.known[k]; known || len(s.known) < stickyMost {
		s.known[k] = stuck{listener, now}
	}
}

func (s *sticky) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, e := range s.known {
		if now.Sub(e.seen) >= stickyForget {
			delete(s.known, k)
		}
	}
}

// ask hands an offer to a listener: the one that the sender names by its id; where the
// rule is sticky the one that its session had before, if that is still there; else any.
func (v *visit) ask(ctx context.Context, rule *Rule, o *offer) (taken, error) {
	r := v.relay
	if id, named := v.parameters[paramListener]; named {
		if _, err := schemas.ParseSegment("listener id", id); err != nil {
			return taken{}, err
		}
		return r.offer(ctx, v.entity, id, o)
	}
	if !rule.Sticky {
		return r.offer(ctx, v.entity, "", o)
	}
	key := stickyKey{entity: v.entity}
	key.address, _ = v.remote()
	id := ""
	if c, err := v.r.Cookie(stickyCookie); err == nil {
		id = c.Value
	}
	if _, err := schemas.ParseSegment("listener id", id); err != nil {
		id = r.sticky.find(key)
	}
	t, err := r.offer(ctx, v.entity, id, o)
	if id != "" && errors.Is(err, schemas.ErrNoListener) {
		t, err = r.offer(ctx, v.entity, "", o)
	}
	if err == nil {
		r.sticky.keep(key, t.name, time.Now())
		v.session = t.name
	}
	return t, err
}

// sessionCookie is the Set-Cookie of an answer, "" for none.
func (v *visit) sessionCookie() string {
	if v.session == "" {
		return ""
	}
	c := http.Cookie{Name: stickyCookie, Value: v.session, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: v.secure()}
	if v.bound == "" {
		// The hybrid connection's part of the path, as the sender has written it.
		c.Path = v.path[:len(v.path)-len(v.suffixOf(v.entity.name))]
	}
	return c.String()
}

// secure says whether the client has come over TLS, to us or to a proxy before us.
func (v *visit) secure() bool {
	return v.r.TLS != nil || strings.EqualFold(v.r.Header.Get("X-Forwarded-Proto"), "https")
}

// withoutSession takes the cookie of a sticky session out of Cookie headers.
func withoutSession(values []string) []string {
	var kept []string
	for _, value := range values {
		if !strings.Contains(value, stickyCookie+"=") {
			kept = append(kept, value)
			continue
		}
		var items []string
		for item := range strings.SplitSeq(value, ";") {
			if item = strings.Trim(item, " \t"); !strings.HasPrefix(item, stickyCookie+"=") {
				items = append(items, item)
			}
		}
		if len(items) > 0 {
			kept = append(kept, strings.Join(items, "; "))
		}
	}
	return kept
}
