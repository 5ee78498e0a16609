package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// A stream goes on where it was when its gateway comes back, says so, and ends well
// when it is interrupted.
func TestSubscribeGoesOnAfterARestart(t *testing.T) {
	data := t.TempDir()
	gateway := start(t, "--dev", "--data", data, "--http", "127.0.0.1:0", "--https", "127.0.0.1:0")
	base := gateway.HTTP
	publish := func(ids ...string) {
		t.Helper()
		cmd := exec.Command("outrelay", "publish", "a/b", "--gateway", base)
		var in strings.Builder
		for _, id := range ids {
			fmt.Fprintf(&in, `{"specversion":"1.0","id":%q,"source":"/s","type":"t"}`+"\n", id)
		}
		cmd.Stdin = strings.NewReader(in.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("publish: %v\n%s", err, out)
		}
	}
	out, errs := new(buffer), new(buffer)
	cmd := exec.Command("outrelay", "subscribe", "a/**", "--from", "earliest", "--gateway", base)
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process
	t.Cleanup(func() { _ = cmd.Process.Kill() })

	publish("1", "2")
	eventually(t, "event 2", func() bool { return strings.Contains(out.String(), `"id":"2"`) })
	gateway.signal(t, os.Interrupt)
	if err := <-gateway.ended; err != nil {
		t.Fatalf("serve: %v\n%s", err, gateway.errs)
	}
	start(t, "--dev", "--data", data, "--http", strings.TrimPrefix(base, "http://"), "--https", "127.0.0.1:0")
	publish("3")
	eventually(t, "event 3", func() bool { return strings.Contains(out.String(), `"id":"3"`) })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("subscribe ended with %v after an interrupt, want exit code 0", err)
		}
	case <-time.After(patience):
		t.Fatal("subscribe did not end")
	}
	var ids []string
	for line := range strings.Lines(out.String()) {
		switch {
		case strings.Contains(line, schemas.NoticeDraining):
		case strings.Contains(line, schemas.NoticeGap):
			t.Errorf("a gap: %s", line)
		default:
			_, rest, _ := strings.Cut(line, `"id":"`)
			id, _, _ := strings.Cut(rest, `"`)
			ids = append(ids, id)
		}
	}
	if got := strings.Join(ids, " "); got != "1 2 3" {
		t.Errorf("printed %q, want 1 2 3:\n%s", got, out)
	}
	if !strings.Contains(out.String(), schemas.NoticeDraining) {
		t.Errorf("the draining notice is not printed:\n%s", out)
	}
	if !strings.Contains(errs.String(), "connecting again") || !strings.Contains(errs.String(), "connected again") {
		t.Errorf("standard error does not tell of the reconnect:\n%s", errs)
	}
}

// What strangers wrote can't play tricks on a terminal.
func TestDescribeIsPlain(t *testing.T) {
	missed := uint64(3)
	tests := []struct {
		name string
		d    subscriber.Delivery
		want []string
	}{
		{"event", subscriber.Delivery{
			Topic: "a/b",
			Raw:   []byte("{\"specversion\":\"1.0\",\"id\":\"A-17\",\"source\":\"/s\",\"type\":\"order.paid\",\"subject\":\"x\u202ey\",\"data\":\"\\u001b[2J\\u009b\\nhello\"}"),
		}, []string{"a/b  order.paid  A-17", `"xy"`, "hello"}},
		{"gap", subscriber.Delivery{Notice: &subscriber.Notice{Type: schemas.NoticeGap, Gap: &subscriber.Gap{Reason: "slow", Missed: &missed}}}, []string{"-- gap", "3 events"}},
		{"draining", subscriber.Delivery{Notice: &subscriber.Notice{Type: schemas.NoticeDraining}}, []string{"about to stop"}},
		{"something new", subscriber.Delivery{Notice: &subscriber.Notice{Type: "dev.outrelay.news", Raw: []byte("{\"x\":\"\u009b\"}")}}, []string{`{"x":""}`}},
		{"no event", subscriber.Delivery{Raw: []byte("{\"a\":\"\u001b\"}")}, []string{`{"a":""}`}},
		{"long", subscriber.Delivery{Raw: []byte(strings.Repeat("x", 1000))}, []string{"xxx..."}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := describe(&tt.d)
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("describe() = %q, want %q in it", got, want)
				}
			}
			if strings.ContainsAny(got, "\u001b\u009b\u202e\n") || len(got) > 500 {
				t.Errorf("describe() = %q, want plain and short text", got)
			}
		})
	}
}
