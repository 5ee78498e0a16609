package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

// Times of an issuer's keys.
const (
	// KeyWait is how long a request waits at most for a key that its token's issuer
	// has yet to give.
	KeyWait = 2 * time.Second
	// keyPause lies at least between two attempts to fetch an issuer's keys.
	keyPause = 30 * time.Second
	// keyRefresh is how often the keys are fetched anew, a tenth more or less.
	keyRefresh = 15 * time.Minute
	// keyRetry is the same after an attempt that failed.
	keyRetry = time.Minute
	// keyGrace is how long the keys of an issuer that can't be reached hold.
	keyGrace = 24 * time.Hour
	// keyFetch is how long one attempt may take, the description included.
	keyFetch = 10 * time.Second
	// maxKeyWaiters is how many requests wait for one issuer at a time; one more
	// is refused at once.
	maxKeyWaiters = 64
	// maxKeySet is the length in bytes of what an issuer may answer.
	maxKeySet = 1 << 20
)

// A sourceID names a key source: who shares both shares the keys. An empty jwks
// means that the issuer's own description tells where the keys are.
type sourceID struct{ issuer, jwks string }

// A keySource keeps an issuer's keys fresh. The addresses it asks come from the
// config, or from the description that an issuer of the config gives of itself.
type keySource struct {
	sourceID
	client *http.Client
	log    *slog.Logger
	want   chan struct{} // holds one: a request met a key that is not known
	notify func()        // a key was taken back

	mu        sync.Mutex
	keys      map[keyID]verifyKey // replaced, never changed
	fetched   time.Time           // when that was; zero for never
	attempted time.Time           // the end of the last attempt; zero for never
	attempt   chan struct{}       // closed at the end of the next attempt
	waiters   int
}

// sourceSet finds the sources of a config, taking over those that are there.
type sourceSet struct {
	old, all map[sourceID]*keySource
	make     func(sourceID) *keySource
}

func (s sourceSet) get(issuer, jwks string) *keySource {
	id := sourceID{issuer, jwks}
	if s.all[id] == nil {
		if s.all[id] = s.old[id]; s.all[id] == nil {
			s.all[id] = s.make(id)
		}
	}
	return s.all[id]
}

// newKeyClient makes the client that fetches keys. It follows no redirect: the
// address in the config is the one that is asked.
func newKeyClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DisableKeepAlives:      true, // a request every few minutes keeps no connection
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	return &http.Client{
		Transport:     transport,
		Timeout:       keyFetch,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// key returns the key of that name and algorithm. With kid nil the token named
// none: then the set must have one key for the algorithm alone.
func (s *keySource) key(kid *string, alg string) (verifyKey, bool) {
	s.mu.Lock()
	keys := s.keys
	s.mu.Unlock()
	if kid != nil {
		k, ok := keys[keyID{*kid, alg}]
		return k, ok
	}
	var found verifyKey
	n := 0
	for id, k := range keys {
		if id.alg == alg {
			found = k
			n++
		}
	}
	return found, n == 1
}

// await asks for the keys to be fetched, unless they were within [keyPause], and
// waits for that, at most [KeyWait]. It is false if there is nothing new to find.
func (s *keySource) await(ctx context.Context) bool {
	s.mu.Lock()
	if s.waiters >= maxKeyWaiters || !s.attempted.IsZero() && time.Since(s.attempted) < keyPause {
		s.mu.Unlock()
		return false
	}
	s.waiters++
	attempt := s.attempt
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.waiters--
		s.mu.Unlock()
	}()
	select {
	case s.want <- struct{}{}:
	default:
	}
	timer := time.NewTimer(KeyWait)
	defer timer.Stop()
	select {
	case <-attempt:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// run fetches the keys until ctx ends.
func (s *keySource) run(ctx context.Context) {
	for {
		next := s.refresh(ctx)
		timer := time.NewTimer(next)
		pause := time.Now().Add(keyPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-s.want:
			timer.Stop()
			// The wish can be older than the last attempt; the pause holds all the same.
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(pause)):
			}
		}
	}
}

// refresh makes one attempt and returns when to make the next.
func (s *keySource) refresh(ctx context.Context) (next time.Duration) {
	keys, err := s.fetch(ctx)
	s.mu.Lock()
	old := s.keys
	switch {
	case err == nil:
		s.keys, s.fetched = keys, time.Now()
	case time.Since(s.fetched) > keyGrace:
		s.keys = nil
	}
	gone := false
	for id, k := range old {
		gone = gone || s.keys[id].digest != k.digest
	}
	left := len(s.keys)
	s.mu.Unlock()
	if err != nil && ctx.Err() == nil { // before those who wait are woken, so that the reason is there when they fail
		s.log.Warn("no keys from a token issuer", "issuer", s.issuer, "error", err, "keys", left)
	}
	s.mu.Lock()
	s.attempted = time.Now()
	close(s.attempt)
	s.attempt = make(chan struct{})
	select {
	case <-s.want: // this attempt was the answer
	default:
	}
	s.mu.Unlock()
	if gone {
		s.notify()
	}
	if err != nil {
		return keyRetry
	}
	return keyRefresh - keyRefresh/10 + rand.N(keyRefresh/5)
}

func (s *keySource) fetch(ctx context.Context) (map[keyID]verifyKey, error) {
	ctx, cancel := context.WithTimeout(ctx, keyFetch)
	defer cancel()
	address := s.jwks
	if address == "" {
		var err error
		if address, err = s.discover(ctx); err != nil {
			return nil, err
		}
	}
	b, err := s.get(ctx, address)
	if err != nil {
		return nil, err
	}
	return parseKeySet(b)
}

// discover asks the issuer where its keys are (OpenID Connect Discovery 1.0, section 4).
func (s *keySource) discover(ctx context.Context) (string, error) {
	b, err := s.get(ctx, strings.TrimSuffix(s.issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	var description struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(b, &description); err != nil {
		return "", errors.New("the issuer's description is not valid JSON")
	}
	if description.Issuer != s.issuer {
		return "", fmt.Errorf("the description is that of %q", description.Issuer)
	}
	if !validSource(description.JWKS) {
		return "", fmt.Errorf("the description's jwks_uri %q is no address that keys can be had from", description.JWKS)
	}
	return description.JWKS, nil
}

func (s *keySource) get(ctx context.Context, address string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json, application/jwk-set+json")
	response, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: status %d", address, response.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(response.Body, maxKeySet+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("GET %s: %w", address, err)
	case len(b) > maxKeySet:
		return nil, fmt.Errorf("GET %s: more than %d bytes", address, maxKeySet)
	}
	return b, nil
}
