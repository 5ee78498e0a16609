package relay

import (
	"bytes"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Whatever path and query a client asks for: what of the query is passed on has no
// parameter of ours left, and all that is not ours, in order; a name is one of the
// grammar, and name and suffix together are the path.
func FuzzAddress(f *testing.F) {
	for _, a := range []string{
		"/$hc/name?sb-hc-action=listen", "/$hc/a/b/c?x=1&SB-HC-id=2&&y", "/name/x%2Fy", "/$hc/name%3Fsb-hc-action=connect&x=1",
		"/%24HC/name?%73b-hc-token=a%20b", "/$hc//?sb-hc-x", "/$hc/a%zz?%zz=1&sb-hc-%zz=1", "/a?null&sb-hc-action=accept&sb-hc-rendezvous=00",
	} {
		path, query, _ := strings.Cut(a, "?")
		f.Add(path, query)
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		u, err := url.ParseRequestURI("/" + strings.TrimPrefix(path, "/"))
		if err != nil || u.RawQuery != "" || u.Host != "" {
			return // net/http would have refused it
		}
		q := httptest.NewRequest("GET", "/", nil)
		u.RawQuery = query
		q.URL = u
		q.Header.Set("Connection", "upgrade")
		q.Header.Set("Upgrade", "websocket")
		v := (&Relay{}).visit(httptest.NewRecorder(), q, "default", "")
		readErr := v.read()

		kept := filterQuery(v.query)
		if kept != filterQuery(kept) {
			t.Errorf("of %q stays %q, and of that %q", v.query, kept, filterQuery(kept))
		}
		if len(parameters(kept)) != 0 {
			t.Errorf("of %q stays %q with parameters of ours", v.query, kept)
		}
		var rest []string
		for part := range strings.SplitSeq(v.query, "&") {
			name, _, hasValue := strings.Cut(part, "=")
			if decoded, err := url.QueryUnescape(name); hasValue && err == nil && len(decoded) >= 6 && strings.EqualFold(decoded[:6], "sb-hc-") {
				continue
			}
			rest = append(rest, part)
		}
		if want := strings.Join(rest, "&"); kept != want {
			t.Errorf("of %q stays %q, want %q", v.query, kept, want)
		}
		if readErr != nil {
			return
		}
		names, err := prefixes(v.segments)
		if err != nil {
			return
		}
		for _, name := range names {
			if len(name) > maxName || strings.Count(name, "/") >= maxSegments || strings.ContainsAny(name, " *>$%\r\n") || name != fold(name) {
				t.Errorf("%q is taken for a name", name)
			}
			suffix := v.suffixOf(name)
			if !strings.HasSuffix(v.path, suffix) {
				t.Errorf("the suffix of %q behind %q is %q", v.path, name, suffix)
			}
			own, err := url.PathUnescape(strings.TrimPrefix(strings.TrimSuffix(v.path, suffix), "/"))
			if err != nil || fold(own) != name {
				t.Errorf("%q is %q and %q", v.path, name, suffix)
			}
		}
		v.entity = entity{"default", names[0]}
		o := offer{kind: kindAccept, path: v.path, query: kept, token: "00", id: v.tracking}
		if address := o.address("ws", "host", o.id); strings.ContainsAny(address, " \r\n") && !strings.ContainsAny(v.path+v.query, " \r\n") {
			t.Errorf("the address is %q", address)
		}
		if text := reasonPhrase(v.traced("x")); strings.ContainsAny(text, "\r\n") || len(text) > 1024 {
			t.Errorf("the reason phrase is %q", text)
		}
	})
}

// No token but the one that was made is good for a meeting, and none twice.
func FuzzRendezvous(f *testing.F) {
	f.Add("", "name")
	f.Add(strings.Repeat("0", tokenLength), "name")
	f.Add("0123456789abcdef"+strings.Repeat("f", tokenLength-16), "name")
	f.Fuzz(func(t *testing.T, token, name string) {
		var m meetings
		m.init("0123456789abcdef", 10)
		open, err := m.open(kindAccept, entity{"default", "name"})
		if err != nil {
			t.Fatal(err)
		}
		if got, genuine := m.take(kindAccept, "default", []string{name}, token); got != nil || genuine {
			t.Fatalf("the token %q is taken for one", token)
		}
		for _, wrong := range []struct {
			kind            byte
			namespace, name string
		}{{kindRequest, "default", "name"}, {kindAccept, "other", "name"}, {kindAccept, "default", name + "x"}} {
			if got, _ := m.take(wrong.kind, wrong.namespace, []string{wrong.name}, open.token); got != nil {
				t.Fatalf("the token is good for %v", wrong)
			}
		}
		if got, _ := m.take(kindAccept, "default", []string{"name"}, open.token); got != open {
			t.Fatal("the token is not good where it was made for")
		}
		if got, _ := m.take(kindAccept, "default", []string{"name"}, open.token); got != nil {
			t.Fatal("the token is good twice")
		}
		m.close(open)
	})
}

// What a gateway is offered by another is read without harm, and as it was written.
func FuzzOffer(f *testing.F) {
	o := offer{kind: kindAccept, gateway: "0123456789abcdef", token: "t", path: "/name/x", query: "a=1", id: "id", members: []byte(`,"x":1`)}
	f.Add(o.append(nil))
	o.kind, o.pointer, o.hasBody, o.body = kindRequest, true, true, []byte("body")
	f.Add(o.append(nil))
	f.Add([]byte{offerVersion, kindAccept, 0, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseOffer(b)
		if err != nil {
			return
		}
		again, err := parseOffer(o.append(nil))
		if err != nil || !reflect.DeepEqual(normal(o), normal(again)) {
			t.Errorf("%+v is read again as %+v (%v)", o, again, err)
		}
	})
}

func normal(o offer) offer {
	o.members, o.body = slices.Clone(bytes.TrimSpace(o.members)), slices.Clone(o.body)
	if len(o.members) == 0 {
		o.members = nil
	}
	if len(o.body) == 0 {
		o.body = nil
	}
	return o
}
