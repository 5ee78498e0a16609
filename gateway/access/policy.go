package access

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// A Policy holds a gateway's keys and rules. Make one with [New].
type Policy struct {
	namespaces atomic.Pointer[map[string]*namespace]

	reload sync.Mutex // held by one Reload at a time

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	sources map[sourceID]*keySource
}

// New makes a policy. The error joins one [*Fault] for each mistake in c.
func New(c Config) (*Policy, error) {
	p := &Policy{changed: make(chan struct{})}
	if err := p.Reload(c); err != nil {
		return nil, err
	}
	return p, nil
}

// Reload replaces the policy's rules in one step. With an error, which is that of
// [New], nothing has changed. Grants that were given stay as they are until they
// are looked at anew: see [Policy.Changed].
func (p *Policy) Reload(c Config) error {
	p.reload.Lock()
	defer p.reload.Unlock()
	client := newKeyClient(c.Transport)
	log := cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	sources := sourceSet{old: p.currentSources(), all: map[sourceID]*keySource{}, make: func(id sourceID) *keySource {
		return &keySource{
			sourceID: id, client: client, log: log, notify: p.notify,
			want: make(chan struct{}, 1), attempt: make(chan struct{}),
		}
	}}
	var f faults
	namespaces := make(map[string]*namespace, len(c.Namespaces))
	for _, name := range slices.Sorted(maps.Keys(c.Namespaces)) {
		namespaces[name] = newNamespace(name, c.Namespaces[name], sources, &f)
	}
	if err := f.err(); err != nil {
		return err
	}
	p.namespaces.Store(&namespaces)
	p.mu.Lock()
	p.sources = sources.all
	p.mu.Unlock()
	p.notify()
	return nil
}

func (p *Policy) currentSources() map[sourceID]*keySource {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sources
}

// Run fetches the keys of token issuers, at once and again and again, until ctx
// ends; it returns nil when its last goroutine has. Without it no token of an
// issuer that publishes its keys is taken. Call it once.
func (p *Policy) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := map[*keySource]context.CancelFunc{}
	for {
		changed := p.Changed()
		wanted := map[*keySource]bool{}
		for _, s := range p.currentSources() {
			wanted[s] = true
			if running[s] == nil {
				sctx, cancel := context.WithCancel(ctx)
				running[s] = cancel
				wg.Go(func() { s.run(sctx) })
			}
		}
		for s, cancel := range running {
			if !wanted[s] {
				cancel()
				delete(running, s)
			}
		}
		select {
		case <-ctx.Done():
			for _, cancel := range running {
				cancel()
			}
			return nil
		case <-changed:
		}
	}
}

// Changed returns a channel that is closed at the next change of what is allowed:
// a reload, or an issuer that took a key back. Take the channel first, then get or
// look at the grants ([Policy.Authorize], [Policy.Refresh]), so that no change is missed.
func (p *Policy) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

func (p *Policy) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// Refresh returns g as the present rules have it: the same principal, with the
// rights it has now. The error is a [schemas.Problem] of name "unauthorized" if
// the token has expired or its key is gone.
func (p *Policy) Refresh(g *Grant) (*Grant, error) {
	n := p.namespace(g.namespace)
	if g.proof == nil {
		return n.visitor, nil
	}
	rights, problem := g.proof.rights(n)
	if problem != nil {
		return nil, problem
	}
	now := *g
	now.rights = rights
	return &now, nil
}

// Recheck returns nil if g covers all asks under the present rules; the error is
// that of [Policy.Refresh] or [Grant.Allows].
func (p *Policy) Recheck(g *Grant, asks ...Ask) error {
	now, err := p.Refresh(g)
	if err != nil {
		return err
	}
	return now.allowsAll(asks)
}

// Renew checks a token that is to follow the one old was made of, which must not
// have expired, and returns its grant. The token is a JWT or the text of a shared
// access signature.
//
// The error is a [schemas.Problem]: "unauthorized" for a bad token, "forbidden" for
// one of another subject (of another key, for a shared access signature) or if old
// is anonymous. It waits as [Policy.Authorize] does. Protocol: section 5, token.
func (p *Policy) Renew(namespace string, old *Grant, token string) (*Grant, error) {
	return p.RenewContext(context.Background(), namespace, old, token)
}

// RenewContext is Renew that waits no longer than ctx lasts.
func (p *Policy) RenewContext(ctx context.Context, namespace string, old *Grant, token string) (*Grant, error) {
	if old.expired(time.Now()) {
		return nil, errExpired()
	}
	g, problem := p.grant(ctx, namespace, credential{source: Text, token: token})
	if problem != nil {
		return nil, problem
	}
	if old.proof == nil || old.namespace != namespace || !g.proof.same(old.proof) {
		return nil, schemas.Problemf("forbidden", "The token is not of the subject that opened this connection; connect anew with it.")
	}
	return g, nil
}

// grant checks a credential.
func (p *Policy) grant(ctx context.Context, name string, c credential) (*Grant, *schemas.Problem) {
	n := p.namespace(name)
	switch {
	case c.source == Nowhere:
		return n.visitor, nil
	case c.broken != "":
		return nil, schemas.Problemf("unauthorized", "%s", c.broken)
	case c.token == "":
		return nil, schemas.Problemf("unauthorized", "The token is empty.")
	case len(c.token) > MaxToken:
		return nil, schemas.Problemf("unauthorized", "The token has %d bytes; at most %d are looked at.", len(c.token), MaxToken)
	}
	var g *Grant
	var problem *schemas.Problem
	if fields, ok := signatureText(c.token); ok {
		g, problem = n.checkSignature(fields)
	} else {
		g, problem = n.checkWebToken(ctx, c.token)
	}
	if problem != nil {
		return nil, problem
	}
	g.Source = c.source
	return g, nil
}

// namespace returns one in which nothing is allowed for an unknown name.
func (p *Policy) namespace(name string) *namespace {
	if n, ok := (*p.namespaces.Load())[name]; ok {
		return n
	}
	return &namespace{name: name, visitor: &Grant{namespace: name}}
}
