package relay_test

import (
	"net/url"
	"strings"
	"testing"
)

// Who may send an HTTP request, and what of its credentials the listener sees: in
// Azure's order the parameter, the header of Service Bus, and only if it is needed to
// get in Authorization. What got in is taken out, the application's passes.
func TestRequestTokens(t *testing.T) {
	w := start(t, closedNamespace)
	token := tokenFor("shop/printer", "send", sendKey)
	printer := dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+tokenFor("shop/printer", "listen", listenKey))
	open := dial(t, w.host+"/$hc/open?sb-hc-action=listen", "ServiceBusAuthorization: "+tokenFor("open", "listen", listenKey))
	parameter := "sb-hc-token=" + url.QueryEscape(token)
	openToken := tokenFor("open", "send", sendKey)
	const theirs = "Bearer their.own.token"
	for _, tt := range []struct {
		name, path, query string
		headers           []string
		authorization     string // that the listener sees
	}{
		{"parameter", "/shop/printer", parameter, nil, ""},
		{"parameter, and one of the application's", "/shop/printer", parameter, []string{"Authorization: " + theirs}, theirs},
		{"header", "/shop/printer", "", []string{"ServiceBusAuthorization: " + token}, ""},
		{"header, and one of the application's", "/shop/printer", "", []string{"ServiceBusAuthorization: " + token, "Authorization: " + theirs}, theirs},
		{"parameter before a bad header", "/shop/printer", parameter, []string{"ServiceBusAuthorization: SharedAccessSignature bad"}, ""},
		{"Authorization", "/shop/printer", "", []string{"Authorization: " + token}, ""},
		{"anonymous", "/open", "", nil, ""},
		{"anonymous, with the application's own", "/open", "", []string{"Authorization: " + theirs}, theirs},
		{"anonymous, with a signature of the application's", "/open", "", []string{"Authorization: " + token}, token},
		{"anonymous, with a good token", "/open", "", []string{"ServiceBusAuthorization: " + openToken}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			control := printer
			if tt.path == "/open" {
				control = open
			}
			path := tt.path + "/x?access_token=theirs"
			if tt.query != "" {
				path += "&" + tt.query + "&y"
			} else {
				path += "&y"
			}
			s, q := w.relayed(t, control, "GET", path, tt.headers...)
			if got := q.RequestHeaders["Authorization"]; got != tt.authorization {
				t.Errorf("the listener sees Authorization %q, want %q", got, tt.authorization)
			}
			if *q.RequestTarget != tt.path+"/x?access_token=theirs&y" {
				t.Errorf("requestTarget %q", *q.RequestTarget)
			}
			for name, value := range q.RequestHeaders {
				if strings.EqualFold(name, "ServiceBusAuthorization") || name != "Authorization" && strings.Contains(value, "SharedAccessSignature") {
					t.Errorf("the listener sees %s: %s", name, value)
				}
			}
			if strings.Contains(q.Address, "SharedAccess") {
				t.Errorf("the address is %s", q.Address)
			}
			control.reply(q.ID, `"statusCode":200,"body":false`)
			s.answer("GET")
		})
	}
	for _, tt := range []struct {
		name, path string
		headers    []string
		status     int
		code       string
	}{
		{"no token", "/shop/printer", nil, 401, "TokenMissingOrInvalid"},
		{"a key in clear", "/shop/printer?sb-hc-sas-key-name=send&sb-hc-sas-key=" + url.QueryEscape(sendKey), nil, 401, "TokenMissingOrInvalid"},
		{"a bad parameter before a good header", "/shop/printer?sb-hc-token=bad", []string{"ServiceBusAuthorization: " + token}, 401, "TokenMissingOrInvalid"},
		{"a bad token where anonymous senders are let in", "/open?sb-hc-token=bad", nil, 401, "TokenMissingOrInvalid"},
		{"the application's alone", "/shop/printer", []string{"Authorization: " + theirs}, 401, "TokenMissingOrInvalid"},
		{"access_token does not count", "/shop/printer?access_token=" + url.QueryEscape(token), nil, 401, "TokenMissingOrInvalid"},
		{"another name's", "/shop/other", []string{"ServiceBusAuthorization: " + token}, 401, "TokenMissingOrInvalid"},
		{"a right to listen", "/shop/printer", []string{"ServiceBusAuthorization: " + tokenFor("shop/printer", "listen", listenKey)}, 403, "Forbidden"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, body := w.sender(t, w.http("GET", tt.path, tt.headers...)).answer("GET")
			if r.StatusCode != tt.status && !(tt.name == "another name's" && r.StatusCode == 403) {
				t.Errorf("got %s %s, want %d", r.Status, body, tt.status)
			}
			if !strings.Contains(body, `"code":"`) || strings.Contains(body, "SharedAccessSignature sr") {
				t.Errorf("got %s", body)
			}
			if r.StatusCode == 401 && r.Header.Get("WWW-Authenticate") == "" {
				t.Error("no WWW-Authenticate")
			}
		})
	}
}
