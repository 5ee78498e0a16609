package subscriber

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// serverFrame is a frame as a gateway sends it.
func serverFrame(first byte, payload string) string {
	return string([]byte{first, byte(len(payload))}) + payload
}

// What is read of frames does not depend on how they come apart.
func FuzzFrames(f *testing.F) {
	f.Add([]byte(serverFrame(0x82, "hello")+serverFrame(0x89, "ping")+serverFrame(0x88, "\x03\xe8bye")), byte(3))
	f.Add([]byte(serverFrame(0x02, "part")+serverFrame(0x00, "")+serverFrame(0x80, "end")), byte(1))
	f.Add([]byte("\x82\x7e\x01\x00"+strings.Repeat("x", 256)), byte(7))
	f.Add([]byte("\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x01x"), byte(2))
	f.Add([]byte("\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff"), byte(2))
	f.Add([]byte(serverFrame(0xC2, "reserved")+serverFrame(0x8F, "")), byte(2))
	f.Fuzz(func(t *testing.T, b []byte, step byte) {
		read := func(step int) (data, controls []byte, err error) {
			d := deframer{control: func(op byte, payload []byte) error {
				controls = append(append(controls, op), payload...)
				if op == opClose {
					return errClosing
				}
				return nil
			}}
			for rest := b; len(rest) > 0 && err == nil; {
				part := bytes.Clone(rest[:min(step, len(rest))])
				rest = rest[len(part):]
				var n int
				n, err = d.feed(part)
				data = append(data, part[:n]...)
			}
			return data, controls, err
		}
		whole, controls, err := read(max(len(b), 1))
		parts, others, again := read(int(step)%50 + 1)
		if !bytes.Equal(whole, parts) || !bytes.Equal(controls, others) || !errors.Is(again, err) {
			t.Errorf("%x at once is %x %x %v, in parts %x %x %v", b, whole, controls, err, parts, others, again)
		}
		// And whoever reads messages reads the same bytes, up to what is not whole.
		m := &messages{link: &link{closed: true}, in: bufio.NewReader(bytes.NewReader(b))}
		var got []byte
		for {
			if _, err := m.next(); err != nil {
				break
			}
			part, _ := io.ReadAll(m)
			got = append(got, part...)
		}
		if !bytes.HasPrefix(whole, got) && !bytes.HasPrefix(got, whole) {
			t.Errorf("%x is %x as a stream and %x as messages", b, whole, got)
		}
	})
}

// Whatever a gateway offers, what a server gets is one HTTP request, and no more.
func FuzzRequestOffer(f *testing.F) {
	for _, s := range []string{
		`{"request":{"address":"wss://h/$hc/a?sb-hc-action=request","id":"1","requestTarget":"/a/b?c","method":"GET","requestHeaders":{"Host":"h","Via":"1.1 h"},"body":false}}`,
		`{"request":{"method":"POST","requestTarget":"/","requestHeaders":{"X":"a\r\nY: b","Content-Length":"7","Transfer-Encoding":"chunked","Expect":"100-continue"},"body":true}}`,
		`{"request":{"method":"GET / HTTP/1.1\r\nX: y","requestTarget":"/ HTTP/1.1","body":true}}`,
		`{"request":{"address":"wss://h/"}}`,
		`{"accept":{"address":"wss://h/","connectHeaders":{"a":"b"},"remoteEndpoint":{"address":"::1","port":70000}}}`,
	} {
		f.Add([]byte(s), "body")
	}
	f.Fuzz(func(t *testing.T, text []byte, body string) {
		var o offer
		if json.Unmarshal(text, &o) != nil || o.Request == nil {
			return
		}
		l := &Listener{name: "a"}
		if !o.Request.hasBody() {
			body = ""
		}
		head, ok := o.Request.head(l.strip(o.Request.RequestTarget), len(body))
		if !ok {
			return
		}
		in := bufio.NewReader(strings.NewReader(string(head) + body))
		r, err := http.ReadRequest(in)
		if err != nil {
			return // a server answers 400
		}
		got, err := io.ReadAll(r.Body)
		if err != nil || string(got) != body || r.Method != o.Request.Method {
			t.Errorf("%q is read as %s with body %q, %v", head, r.Method, got, err)
		}
		if rest, _ := io.ReadAll(in); len(rest) > 0 {
			t.Errorf("%q has %q behind it", head, rest)
		}
	})
}

// A token's expiry is read of whatever a program calls a token.
func FuzzExpiry(f *testing.F) {
	f.Add("SharedAccessSignature sr=a&sig=b&se=1900000000&skn=c")
	f.Add("e30.eyJleHAiOjE5MDAwMDAwMDB9.x")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, s string) {
		at, ok := expiry(s)
		if ok && renewal(s, at, at) < renewLeast {
			t.Errorf("%q is renewed at once, for ever", s)
		}
	})
}
