package acme_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrelay/outrelay/gateway/acme"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestConfigFaults(t *testing.T) {
	for name, c := range map[string]acme.Config{
		"no hosts":  {Folder: t.TempDir()},
		"no folder": {Hosts: []string{"relay.example.com"}},
	} {
		if _, err := acme.New(c); err == nil {
			t.Errorf("New with %s = nil", name)
		}
	}
}

// An authority that refuses is told of, and the manager ends when it is told to. (That
// certificates are got is tested with a real authority, in deploy/e2e.)
func TestRefusal(t *testing.T) {
	authority := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not today", http.StatusServiceUnavailable)
	}))
	defer authority.Close()
	log := new(buffer)
	m, err := acme.New(acme.Config{
		Hosts: []string{"relay.example.com"}, CA: authority.URL, Folder: t.TempDir(), Port: 1,
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	hello := &tls.ClientHelloInfo{ServerName: "relay.example.com"}
	if _, err := m.TLS().GetCertificate(hello); err == nil {
		t.Error("a certificate before Run")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(log.String(), "no certificate"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is said of the refusal: %s", log)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}
