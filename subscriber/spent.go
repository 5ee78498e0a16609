package subscriber

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// errSpent is why nothing was tried.
var errSpent = errors.New("the token is still the one that was refused; waiting for another")

// A spentToken is the token that the gateway refused last, so that no connection is
// tried with it again and again.
type spentToken struct {
	mu    sync.Mutex
	token string
	at    time.Time
	why   *schemas.Problem
}

// refuse remembers what a token's refusal was, if err is one.
func (s *spentToken) refuse(token string, err error) {
	var problem *schemas.Problem
	var c *CloseError
	switch {
	case token == "":
		return
	case errors.As(err, &problem) && problem.Status() == http.StatusUnauthorized:
	case errors.As(err, &c) && c.Reason.Word == schemas.CloseTokenExpired.Word:
		problem = schemas.Problemf("unauthorized", "The token has expired.")
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.at, s.why = token, time.Now(), problem
}

// check is the refusal of a token that is not worth another try: never once its time
// is over, and now and then before that, for the gateway's keys may have changed.
func (s *spentToken) check(token string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token == "" || token != s.token {
		return nil
	}
	now := time.Now()
	if expires, ok := expiry(token); ok && !now.Before(expires) || now.Sub(s.at) < backoffCap {
		return fmt.Errorf("%w: %w", errSpent, s.why)
	}
	return nil
}

// renewable says whether err is a refusal that a new token may change, where there is
// somebody to ask for one.
func (c *Client) renewable(err error) bool {
	var problem *schemas.Problem
	return c.config.Token != nil && errors.As(err, &problem) && problem.Status() == http.StatusUnauthorized
}
