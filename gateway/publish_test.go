package gateway_test

import (
	"net/http"
	"testing"
)

func TestPublish(t *testing.T) {
	w := start(t, nil)
	r := w.do(t, "POST", "/topics/orders/eu", event("A-1"), structured)
	if r.status != http.StatusOK {
		t.Fatalf("POST = %d %s", r.status, r.body)
	}
	t.Log(r.body)
	r = w.do(t, "GET", "/topics/orders/**", "")
	t.Log(r.status, r.header, r.body)
	r = w.do(t, "GET", "/healthz", "")
	t.Log(r.status, r.header, r.body)
	r = w.do(t, "GET", w.https+"/.well-known/outrelay", "")
	t.Log(r.status, r.header, r.body, r.proto)
}
