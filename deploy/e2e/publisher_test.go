package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

const (
	structured = "application/cloudevents+json"
	batched    = "application/cloudevents-batch+json"
)

// soak says that the long form of the tests is wanted.
func soak() bool { return os.Getenv("OUTRELAY_SOAK") != "" }

// httpClient is a client of HTTP/1.1 of the test's own.
func httpClient(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// tlsClient is one that trusts the gateway's authority and speaks HTTP/2, or not.
func (g *gateway) tlsClient(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(g.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", g.CA)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: http2}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// secure is the HTTPS address of a topic or filter, with query parameters.
func (g *gateway) secure(filter string, query ...string) string {
	return g.HTTPS + strings.TrimPrefix(g.topics(filter, query...), g.HTTP)
}

// untilTaken posts a body of n events again and again until it is answered 200.
func untilTaken(ctx context.Context, client *http.Client, address, contentType, body string, n int) error {
	for {
		status, answer, err := try(ctx, client, address, contentType, body)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("POST %s: %w", address, ctx.Err())
		case err == nil && status == http.StatusOK:
			var taken struct {
				Accepted int
				Cursor   string
			}
			if err := json.Unmarshal(answer, &taken); err != nil || taken.Accepted != n || taken.Cursor == "" {
				return fmt.Errorf("POST %s: %s (%v), want %d accepted and a cursor", address, answer, err, n)
			}
			return nil
		case err == nil && status != http.StatusServiceUnavailable:
			return fmt.Errorf("POST %s: %d %s", address, status, answer)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// try posts once.
func try(ctx context.Context, client *http.Client, address, contentType, body string) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// stored reads what the log has of a filter, page by page, as the ids of the events
// and "gap REASON" for the notice of one. The query may name the limit of a page and
// where to begin.
func (g *gateway) stored(t *testing.T, filter string, query ...string) []string {
	t.Helper()
	client := httpClient(t)
	base, err := url.Parse(g.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for address := g.topics(filter, query...); address != ""; {
		events, next := page(t, client, address)
		for _, e := range events {
			if e.Type == "dev.outrelay.gap" {
				ids = append(ids, "gap "+e.Data.Reason)
			} else {
				ids = append(ids, e.ID)
			}
		}
		address = ""
		if next != "" {
			relative, err := base.Parse(next)
			if err != nil {
				t.Fatal(err)
			}
			address = relative.String()
		}
	}
	return ids
}

// page reads one page of history and the reference of the next, "" if there is none.
func page(t *testing.T, client *http.Client, address string) (events []arrival, next string) {
	t.Helper()
	resp, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != batched || resp.Header.Get("Outrelay-Cursor") == "" {
		t.Fatalf("GET %s: %s, %v, %s (%v)", address, resp.Status, resp.Header, b, err)
	}
	var texts []json.RawMessage
	if err := json.Unmarshal(b, &texts); err != nil {
		t.Fatalf("GET %s: %v: %s", address, err, b)
	}
	for _, text := range texts {
		var a arrival
		if err := a.parse(text); err != nil {
			t.Fatal(err)
		}
		events = append(events, a)
	}
	if link := resp.Header.Get("Link"); link != "" {
		reference, relation, ok := strings.Cut(link, ">; ")
		if !ok || relation != `rel="next"` || !strings.HasPrefix(reference, "<") {
			t.Fatalf("GET %s: Link: %s", address, link)
		}
		next = reference[1:]
	}
	return events, next
}

// difference says where two lists of ids part, "" if they are the same.
func difference(got, want []string) string {
	if slices.Equal(got, want) {
		return ""
	}
	n := 0
	for n < min(len(got), len(want)) && got[n] == want[n] {
		n++
	}
	return fmt.Sprintf("%d ids, want %d; from place %d on they are %q, want %q",
		len(got), len(want), n, got[n:min(n+5, len(got))], want[n:min(n+5, len(want))])
}
