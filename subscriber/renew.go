package subscriber

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// renewUnknown is when a token is renewed that does not say when it expires.
	renewUnknown = time.Hour
	// renewLeast is the least time between two renewals.
	renewLeast = time.Second
)

// renewal is how long it is until a token that was received then is to be renewed:
// when three quarters of its time are over.
func renewal(token string, received, now time.Time) time.Duration {
	expires, ok := expiry(token)
	if !ok {
		return renewUnknown
	}
	at := received.Add(expires.Sub(received) / 4 * 3)
	return max(at.Sub(now), renewLeast)
}

// expiry is when a token says that it expires, unchecked: se of a shared access
// signature, exp of a JWT.
func expiry(token string) (time.Time, bool) {
	if scheme, fields, ok := strings.Cut(token, " "); ok && strings.EqualFold(scheme, "SharedAccessSignature") {
		q, err := url.ParseQuery(fields)
		if err != nil {
			return time.Time{}, false
		}
		n, err := strconv.ParseInt(q.Get("se"), 10, 64)
		return time.Unix(n, 0), err == nil
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(b, &claims) != nil || claims.Exp <= 0 || claims.Exp > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(claims.Exp), 0), true
}

// renew asks for a new token and sends it to the gateway, which does not answer one
// that is good. It returns how long it is until the next time. Where no new token is
// to be had, it asks again when half of what is left of the old one's time is over.
func (ch *channel) renew(ctx context.Context, token *string, received *time.Time) time.Duration {
	now := time.Now()
	fresh, err := ch.listener.client.token(ctx)
	if err != nil || fresh == "" || fresh == *token {
		if err != nil {
			ch.listener.client.config.Logger.LogAttrs(ctx, levelRetry, "no new token", attrName(ch.listener.name), attrErr(err))
		}
		expires, ok := expiry(*token)
		if !ok {
			return renewUnknown
		}
		return max(expires.Sub(now)/2, renewLeast)
	}
	type renewToken struct {
		Token string `json:"token"`
	}
	text, err := json.Marshal(map[string]renewToken{"renewToken": {fresh}})
	if err == nil {
		err = ch.send(finalBit|opText, text)
	}
	if err != nil {
		return renewUnknown // the channel is over
	}
	*token, *received = fresh, now
	return renewal(fresh, now, now)
}
