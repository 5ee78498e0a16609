package check

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// bear puts the token into a header, if there is one.
func (r *run) bear(ctx context.Context, h http.Header) error {
	if r.Client.Token == nil {
		return nil
	}
	token, err := r.Client.Token(ctx)
	if err != nil || token == "" {
		return err
	}
	if !strings.HasPrefix(token, "SharedAccessSignature ") {
		token = "Bearer " + token
	}
	h.Set("Authorization", token)
	return nil
}

// checkRights asks whether the gateway takes the token, and what it may do.
func (r *run) checkRights() {
	if r.skip(StepRights, StepName, StepProxy, StepTCP, StepTLS, StepGateway) {
		return
	}
	result := Result{Step: StepRights}
	defer func() { r.say(result) }()
	ctx, cancel := r.limited()
	defer cancel()
	header := http.Header{}
	if err := r.bear(ctx, header); err != nil {
		result.Status, result.Cause, result.Detail = Failed, Access, "there is no token to be had: "+clean(err.Error())
		return
	}
	given := header.Get("Authorization") != ""
	// A session without a handshake: rights are looked at first, then it is refused.
	a, err := r.ask(ctx, http.MethodGet, "/connect", header, "")
	if err != nil {
		result.Status, result.Cause, result.Detail = Failed, Network, "a request fails: "+network(err)
		return
	}
	p := a.problem()
	switch {
	case p == nil:
		result.Status, result.Cause = Failed, Network
		result.Detail = fmt.Sprintf("somebody between here and the gateway answers in its place, with HTTP %d", a.status)
		result.Tell = fmt.Sprintf("tell the owner of the firewall or proxy to let HTTPS to %s pass as it is", r.address(r.port))
		return
	case !given && p.Name == schemas.ErrUnauthorized.Name:
		result.Status = Skipped
		result.Detail = "not done, because no token was given, and the gateway allows nothing without"
		return
	case p.Name == schemas.ErrUnauthorized.Name:
		result.Status, result.Cause = Failed, Access
		result.Detail = "the gateway does not take the token: " + clean(p.Detail)
		result.Tell = "ask whoever gave out the token for a new one"
		if r.failed[StepClock] != "" {
			result.Tell = "set this machine's clock right first: " + apart(r.skew)
		}
		return
	case p.Name == schemas.ErrForbidden.Name:
		result.Status, result.Cause = Failed, Access
		result.Detail = "the gateway takes the token, but it gives no right: " + clean(p.Detail)
		result.Tell = "ask whoever gave out the token, or runs the gateway, for the rights that are needed"
		return
	}
	result.Status = OK
	r.list(ctx, header, &result)
}

// list says what may be done.
func (r *run) list(ctx context.Context, header http.Header, result *Result) {
	who, asks := "the token may", r.Asks
	switch said, err := access.Inspect(strings.TrimPrefix(header.Get("Authorization"), "Bearer ")); {
	case header.Get("Authorization") == "":
		who = "without a token one may"
		if asks == nil {
			asks = likely("")
		}
	case err == nil:
		result.Expires = &said.Expires
		switch {
		case asks != nil:
		case said.Rights != nil: // the gateway has checked the signature, so they are true
			result.Rights = claimed(*said.Rights)
		default: // what the key may do only the gateway knows
			asks = likely(said.Resource)
		}
	}
	refused, unknown := false, ""
	for _, ask := range asks {
		allowed, known, err := r.may(ctx, header, ask)
		if err != nil {
			result.Status, result.Cause, result.Detail = Failed, Network, "a request fails: "+network(err)
			result.Tell = "try again; the requests before it had answers"
			return
		}
		if !known {
			refused = true
			unknown = "; without a WebSocket it can't be asked about listening"
		} else {
			result.Rights = append(result.Rights, Right{ask.Action, clean(ask.Object), allowed})
			refused = refused || !allowed
		}
	}
	result.Detail = sentence(who, result.Rights)
	if result.Expires != nil {
		result.Detail += ", until " + result.Expires.UTC().Format("2006-01-02 15:04 MST")
	}
	result.Detail += unknown
	if refused && r.Asks != nil {
		result.Status, result.Cause = Failed, Access
		result.Tell = "ask whoever gave out the token, or runs the gateway, for the rights that are needed"
	}
}

// likely is what to ask about for a token that is for a resource, "" for everything.
func likely(resource string) []Right {
	u, err := url.Parse(resource)
	if err != nil {
		return nil
	}
	path := strings.Trim(u.Path, "/")
	topic, events := strings.CutPrefix(path, "topics/")
	switch {
	case path == "":
		return []Right{{Action: "publish", Object: "**"}, {Action: "subscribe", Object: "**"}, {Action: "listen", Object: "**"}}
	case path == "topics":
		return []Right{{Action: "publish", Object: "**"}, {Action: "subscribe", Object: "**"}}
	case events:
		return []Right{{Action: "publish", Object: topic}, {Action: "subscribe", Object: topic}}
	}
	return []Right{{Action: "listen", Object: path}}
}

// probe is a name that stands for all of them: who may publish to it, or listen on it, may
// do so everywhere. It is another each time, because the gateway makes a listener wait
// that was refused a moment ago.
func probe() string { return "outrelay-check-" + strings.ToLower(rand.Text()[:8]) }

// may asks about a right with a request that does nothing. It is not known if the way is
// not good enough to ask; an error is that there is no answer of the gateway's.
func (r *run) may(ctx context.Context, header http.Header, ask Right) (allowed, known bool, err error) {
	h := header.Clone()
	name := strings.ReplaceAll(ask.Object, "**", probe())
	var a *answer
	switch ask.Action {
	case "publish":
		h.Set("Content-Type", schemas.MediaTypeBatch)
		a, err = r.ask(ctx, http.MethodPost, "/topics/"+escape(name), h, "[]")
	case "subscribe":
		h.Set("Accept", schemas.MediaTypeBatch)
		a, err = r.ask(ctx, http.MethodGet, "/topics/"+escape(ask.Object)+"?limit=1", h, "")
	case "subscription":
		a, err = r.ask(ctx, http.MethodGet, "/subscriptions/"+escape(name), h, "")
	case "listen":
		if r.failed[StepWebSocket] != "" {
			return false, false, nil
		}
		// A listener with an id that is none: rights are looked at first, then it is refused.
		if token := strings.TrimPrefix(h.Get("Authorization"), "Bearer "); token != "" {
			h.Set("ServiceBusAuthorization", token)
			h.Del("Authorization")
		}
		upgrading(h)
		a, err = r.ask(ctx, http.MethodGet, "/$hc/"+escape(name)+"?sb-hc-action=listen&sb-hc-listener=%2F", h, "")
	default:
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	switch p := a.problem(); {
	case p != nil:
		return p.Name != schemas.ErrUnauthorized.Name && p.Name != schemas.ErrForbidden.Name, true, nil
	case a.status == http.StatusOK || a.status == http.StatusAccepted:
		return true, true, nil
	}
	return false, false, fmt.Errorf("the answer, HTTP %d, is not the gateway's", a.status)
}

// escape makes a path of a name, whose slashes stay.
func escape(name string) string { return (&url.URL{Path: name}).EscapedPath() }

func claimed(r access.Rights) (rights []Right) {
	for _, kind := range []struct {
		action string
		names  []string
	}{{"publish", r.Publish}, {"subscribe", r.Subscribe}, {"subscription", r.Subscriptions}, {"listen", r.Listen}, {"send", r.Send}} {
		for _, n := range kind.names {
			rights = append(rights, Right{kind.action, clean(n), true})
		}
	}
	if r.Manage {
		rights = append(rights, Right{"manage", "", true})
	}
	return rights
}

func sentence(who string, rights []Right) string {
	var yes, no []string
	for _, right := range rights {
		text := strings.TrimSpace(map[string]string{
			"publish": "publish to", "subscribe": "subscribe to", "subscription": "use the subscription",
			"listen": "listen on", "send": "send to", "manage": "manage the namespace",
		}[right.Action] + " " + right.Object)
		if right.Allowed {
			yes = append(yes, text)
		} else {
			no = append(no, text)
		}
	}
	s := who
	if len(yes) > 0 {
		s += " " + strings.Join(yes, ", ")
	}
	if len(no) > 0 {
		if len(yes) > 0 {
			s += ", but"
		}
		s += " not " + strings.Join(no, ", not ")
	}
	if s == who {
		return "the gateway takes the token"
	}
	return clean(s)
}
