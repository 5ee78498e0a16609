package deliver

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

func event(t *testing.T, text string) *Event {
	t.Helper()
	e, err := schemas.ParseStored([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &Event{e, []byte(text)}
}

// What the service gets in either mode is the event as the contract's own reader has it.
func TestModes(t *testing.T) {
	var got *http.Request
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	}))
	defer server.Close()
	for _, text := range []string{
		`{"specversion":"1.0","id":"1","source":"/s","type":"t"}`,
		`{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1.50}}`,
		`{"specversion":"1.0","id":"1","source":"/s","type":"t","data":null}`,
		`{"specversion":"1.0","id":"\u20ac 100 %","source":"/s?a=%20","type":"\"t\"","subject":"a\u00a0b","datacontenttype":"text/plain","data":"text \u20ac"}`,
		`{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"AAEC/w=="}`,
		`{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/x","count":7,"flag":true,"data_base64":"AAEC/w=="}`,
	} {
		for _, mode := range []Mode{Binary, Structured} {
			h, err := NewHTTP(HTTPConfig{To: server.URL + "/hook", Mode: mode, Timeout: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			delivered := strings.TrimSuffix(text, "}") + `,"relaytopic":"a/b","relaycursor":"x"}`
			if a := h.Deliver(t.Context(), event(t, delivered), 3); a.Outcome != Acked {
				t.Fatalf("%s: %+v", text, a)
			}
			h.Close()
			if got.Method != http.MethodPost || got.URL.Path != "/hook" || got.Header.Get("Outrelay-Attempt") != "3" {
				t.Errorf("the request was %s %s %v", got.Method, got.URL, got.Header)
			}
			if mode == Structured {
				if string(body) != delivered || got.Header.Get("Content-Type") != "application/cloudevents+json" {
					t.Errorf("structured: %s as %s, want %s", body, got.Header.Get("Content-Type"), delivered)
				}
				continue
			}
			if got.Header.Get("Ce-Relaytopic") != "a/b" || got.Header.Get("Ce-Relaycursor") != "x" {
				t.Errorf("binary: the broker's attributes are missing in %v", got.Header)
			}
			read, err := schemas.ParseBinary(got.Header, body)
			if err != nil {
				t.Errorf("binary: %v of %v", err, got.Header)
				continue
			}
			want := event(t, text)
			for _, a := range want.Attributes() {
				if b, ok := read.Attribute(a.Name); !ok || a.Value != b.Value {
					t.Errorf("binary: %s is %q, want %q", a.Name, b.Value, a.Value)
				}
			}
			wantData, wantOK := want.Data()
			data, ok := read.Data()
			if !bytes.Equal(data, wantData) || ok != wantOK {
				t.Errorf("binary: the data of %s is %q, %v", text, data, ok)
			}
			if strings.Contains(text, `"data":`) != (got.Header.Get("Content-Type") != "" && !strings.Contains(text, "base64")) {
				t.Errorf("binary: %s has the content type %q", text, got.Header.Get("Content-Type"))
			}
			if !json.Valid(read.JSON()) {
				t.Errorf("binary: %s", read.JSON())
			}
		}
	}
}

// An answer that is cut is no answer, whatever its status; a long one is read no further
// than need be.
func TestAnswersThatEndBadly(t *testing.T) {
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
	})
	mux.HandleFunc("/reset", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-release
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/good", http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/good", func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
	server := httptest.NewServer(mux)
	defer server.Close()
	defer close(release)
	for path, want := range map[string]Answer{
		"/cut":     {Outcome: Released, health: failing},
		"/reset":   {Outcome: Released, health: failing},
		"/slow":    {Outcome: Released, health: stalled},
		"/endless": {Outcome: Acked, health: working},
		"/moved":   {Outcome: Released, health: failing},
	} {
		h, err := NewHTTP(HTTPConfig{To: server.URL + path, Timeout: 500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		a := h.Deliver(t.Context(), event(t, `{"specversion":"1.0","id":"1","source":"/s","type":"t"}`), 1)
		if a.Outcome != want.Outcome || a.health != want.health {
			t.Errorf("%s: %+v, want %+v", path, a, want)
		}
		h.Close()
	}
}

func TestHeaderFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "headers")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got http.Header
	var host string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got, host = r.Header, r.Host }))
	defer server.Close()
	write("# ours\nAuthorization: Bearer one\r\n\nhost: shop.example\nX-A: 1\nX-A: 2\n")
	h, err := NewHTTP(HTTPConfig{To: server.URL, Timeout: 10 * time.Second, Headers: file})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	e := event(t, `{"specversion":"1.0","id":"1","source":"/s","type":"t"}`)
	if a := h.Deliver(t.Context(), e, 1); a.Outcome != Acked {
		t.Fatalf("%+v", a)
	}
	if got.Get("Authorization") != "Bearer one" || host != "shop.example" || len(got.Values("X-A")) != 2 {
		t.Errorf("the service got %v for %s", got, host)
	}
	write("Authorization: Bearer two")
	h.Deliver(t.Context(), e, 1)
	if got.Get("Authorization") != "Bearer two" {
		t.Errorf("after a change the service got %v", got)
	}
	write("secret")
	if a := h.Deliver(t.Context(), e, 1); a.Outcome != Released || a.health != down || strings.Contains(a.Why, "secret") {
		t.Errorf("a bad file gave %+v", a)
	}
	for _, text := range []string{"a b: c", ": c", "A: \x01", "Ce-Id: 1", "content-type: x", "Content-Length: 1", "Outrelay-Attempt: 1", strings.Repeat("A: b\n", maxHeaders)} {
		write(text)
		if _, err := NewHTTP(HTTPConfig{To: server.URL, Headers: file}); err == nil {
			t.Errorf("the headers %.20q are taken", text)
		}
	}
}
