package subscriber_test

import (
	"context"
	"io"
	"net/http"
	"testing"
)

// What a relayed stream carries, through a gateway in the same process.
func BenchmarkRelayedStream(b *testing.B) {
	w := newWorld(b)
	l, err := w.client().Listen(context.Background(), "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	sender, err := w.client().Dial(b.Context(), "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer sender.Close()
	listener, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	const size = 1 << 20
	sent := make([]byte, size)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		done := make(chan error, 1)
		go func() { // ends when all has come
			_, err := io.CopyN(io.Discard, listener, size)
			done <- err
		}()
		if _, err := sender.Write(sent); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

// What an HTTP request to a handler behind the firewall costs, one after the other.
func BenchmarkRelayedRequest(b *testing.B) {
	w := newWorld(b)
	l, err := w.client().Listen(context.Background(), "bench")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }() // ends with the server
	defer func() {
		server.Close()
		<-served
	}()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	b.ReportAllocs()
	for b.Loop() {
		resp, err := client.Get("http://" + w.proxy.listener.Addr().String() + "/bench/")
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status)
		}
	}
}
