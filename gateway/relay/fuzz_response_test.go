package relay

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// What a listener says is read without a fault, and nothing of it can break out of a
// header or a status line.
func FuzzControl(f *testing.F) {
	for _, seed := range []string{
		`{"response":{"requestId":"1","statusCode":200,"statusDescription":"OK","responseHeaders":{"a":"b","n":1.5e3,"t":true,"l":["x",2],"Set-Cookie":"a=1, b=2"},"body":true}}`,
		`{"response":{"requestId":"1","statusCode":"404","statusDescription":null,"body":false}}`, `{"renewToken":{"token":"x"}}`, `{"response":7}`, `{"response":null}`,
		`{"response":{"requestId":1,"statusCode":1e2}}`, `{"response":{"responseHeaders":{"a\r\nb":"c\r\nd"},"statusCode":999,"statusDescription":"\r\nX: y"}}`,
		`[]`, `{`, ``, `{"RESPONSE":{"STATUSCODE":200}}`, `{"response":{"statusCode":200,"responseHeaders":{"":"","Connection":"a, b","a":"1","Content-Length":"-1"}}}`,
	} {
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, bodyless bool) {
		c, ok := parseControl(text)
		if !ok || c.Response == nil {
			return
		}
		r, err := parseResponse(c.Response)
		if err != nil {
			return
		}
		if r.status < 200 || r.status > 999 {
			t.Errorf("status %d", r.status)
		}
		if strings.ContainsAny(r.reason, "\r\n\x00") {
			t.Errorf("reason %q", r.reason)
		}
		r.relayed("host", bodyless)
		for name, values := range r.header {
			if !isToken(name) || name != http.CanonicalHeaderKey(name) {
				t.Errorf("header %q", name)
			}
			if hopByHop[name] && !(bodyless && name == "Content-Length") {
				t.Errorf("header %q is of the connection", name)
			}
			for _, v := range values {
				if strings.ContainsAny(v, "\r\n\x00\x7f") {
					t.Errorf("%s: %q", name, v)
				}
			}
		}
		// As it goes to a sender, it is read as it was meant.
		var b bytes.Buffer
		if err := r.header.Write(&b); err != nil {
			t.Fatal(err)
		}
		lines := 0
		for _, values := range r.header {
			lines += len(values)
		}
		if got := strings.Count(b.String(), "\r\n"); got != lines {
			t.Errorf("%d lines for %d values: %q", got, lines, b.String())
		}
	})
}

// Cookies that were joined come apart without a byte lost but commas and blanks, and
// what is one stays one.
func FuzzSplitCookies(f *testing.F) {
	for _, seed := range []string{"a=1", "a=1,b=2", "a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT, b=2", ",", "=,=", "a=,,b=", " a=1 ,\tb=2 ", "a=\xff,\xffb=1"} {
		f.Add(seed)
	}
	strip := func(s string) string { return strings.NewReplacer(",", "", " ", "", "\t", "").Replace(s) }
	f.Fuzz(func(t *testing.T, value string) {
		cookies := splitCookies(value)
		if got := strip(strings.Join(cookies, "")); got != strip(value) {
			t.Errorf("%q came apart to %q", value, cookies)
		}
		for _, c := range cookies {
			if again := splitCookies(c); !slices.Equal(again, []string{c}) {
				t.Errorf("%q of %q comes apart again to %q", c, value, again)
			}
		}
	})
}

// What gateways tell each other is read without a fault, and says the same again.
func FuzzNote(f *testing.F) {
	token := strings.Repeat("0", tokenLength)
	for _, n := range []note{
		{op: noteLost, token: token}, {op: noteDone, listener: 7, id: "x"}, {op: noteGone, listener: 1 << 63, id: ""},
		{op: noteAnswer, token: token, flags: pieceFirst | pieceLast, data: []byte("{}")}, {op: noteAnswer, token: token, number: 1 << 40, data: []byte{}},
		{op: noteTunnel, listener: 7, flags: tunnelData, number: 3, data: []byte("x")},
	} {
		f.Add(n.append(nil))
	}
	f.Add([]byte{noteVersion, noteAnswer})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ok := parseNote(b)
		if !ok {
			return
		}
		again, ok := parseNote(n.append(nil))
		if !ok || again.op != n.op || again.token != n.token || again.listener != n.listener || again.id != n.id || again.flags != n.flags ||
			again.number != n.number || !bytes.Equal(again.data, n.data) {
			t.Errorf("%x: %+v became %+v", b, n, again)
		}
	})
}
