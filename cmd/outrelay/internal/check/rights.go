package check

import (
	"context"
	"errors"
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
		result.Status, result.Cause, result.Detail = Failed, Network, "a request gets no answer: "+r.network(err)
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
	text := header.Get("Authorization")
	who := "the token may"
	topic, filter := schemas.Topic("outrelay-check"), schemas.TopicFilter("**")
	switch said, err := access.Inspect(strings.TrimPrefix(text, "Bearer ")); {
	case text == "":
		who = "without a token one may"
	case err != nil:
		result.Detail = "the gateway takes the token"
		return
	case said.Rights != nil: // the gateway has checked the signature, so they are true
		expires := said.Expires
		result.Expires = &expires
		result.Rights = claimed(*said.Rights)
		result.Detail = r.sentence(who, result.Rights) + ", until " + expires.Format("2006-01-02 15:04 MST")
		return
	default: // what the key may do only the gateway knows
		expires := said.Expires
		result.Expires = &expires
		u, err := url.Parse(said.Resource)
		if err != nil {
			break
		}
		if name, ok := strings.CutPrefix(strings.Trim(u.Path, "/"), "topics/"); ok {
			if t, err := schemas.ParseTopic(name); err == nil {
				topic, filter = t, schemas.TopicFilter(t)
			}
		} else if name := strings.Trim(u.Path, "/"); name != "" && name != "topics" {
			result.Detail = fmt.Sprintf("the gateway takes the token, which is for the hybrid connection %s", clean(name))
			return
		}
	}
	publish, err := r.may(ctx, http.MethodPost, "/topics/"+string(topic), header, "[]")
	if err == nil {
		what := string(topic)
		if filter == "**" {
			what = "**"
		}
		result.Rights = append(result.Rights, Right{"publish", what, publish})
		var subscribe bool
		subscribe, err = r.may(ctx, http.MethodGet, "/topics/"+string(filter)+"?limit=1", header, "")
		result.Rights = append(result.Rights, Right{"subscribe", string(filter), subscribe})
	}
	if err != nil {
		result.Status, result.Cause, result.Detail = Failed, Network, "a request gets no answer: "+r.network(err)
		return
	}
	result.Detail = r.sentence(who, result.Rights)
}

// may asks for something that does nothing. An error is that there is no answer of the
// gateway's.
func (r *run) may(ctx context.Context, method, path string, header http.Header, body string) (bool, error) {
	h := header.Clone()
	if body != "" {
		h.Set("Content-Type", schemas.MediaTypeBatch)
	} else {
		h.Set("Accept", schemas.MediaTypeBatch)
	}
	a, err := r.ask(ctx, method, path, h, body)
	if err != nil {
		return false, err
	}
	switch p := a.problem(); {
	case p != nil:
		return p.Name != schemas.ErrUnauthorized.Name && p.Name != schemas.ErrForbidden.Name, nil
	case a.status == http.StatusOK || a.status == http.StatusAccepted:
		return true, nil
	}
	return false, errors.New("the answer is not the gateway's: " + http.StatusText(a.status))
}

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

func (r *run) sentence(who string, rights []Right) string {
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
	return clean(s)
}
