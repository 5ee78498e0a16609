package relay_test

import "testing"

// A message goes each way with its kind, and a Close frame with its code and reason.
func TestSpliceCarriesMessages(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "echo")
	sender, listener := w.pair(t, control, "echo")
	sender.text("hello")
	listener.expect(0x81, "hello")
	listener.binary("\x00\x01")
	sender.expect(0x82, "\x00\x01")
	sender.text("")
	listener.expect(0x81, "")
	sender.close(4001, "that was all")
	listener.expectClose(4001, "that was all")
	listener.text("still here")
	sender.expect(0x81, "still here")
	listener.close(1000, "bye")
	sender.expectClose(1000, "bye")
	sender.expectEnd()
	listener.expectEnd()
}

// Without a listener a sender gets 404 at once.
func TestNoListenerIs404(t *testing.T) {
	w := start(t, nil)
	p := handshake(t, w.host+"/$hc/nobody?sb-hc-action=connect")
	if p.answer.StatusCode != 404 {
		t.Fatalf("got %s, want 404", p.answer.Status)
	}
	t.Log(p.answer.Status)
}
