package broker_test

import (
	"encoding/base64"
	"regexp"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// A tag is worth nothing but on its own subscription: not in another namespace, not on
// another subscription, not in another life, not changed, not made up.
func TestTagsAreSealed(t *testing.T) {
	b, _ := start(t, broker.Config{Namespaces: map[string]broker.NamespaceConfig{ns: {}, "other": {}}})
	tag := func(namespace, name string) string {
		t.Helper()
		if _, err := b.PutSubscription(limited(t), namespace, name, broker.SubscriptionOptions{Topics: "a"}, broker.Start{From: broker.FromEarliest}); err != nil {
			t.Fatal(err)
		}
		all, err := b.Receive(limited(t), namespace, name, broker.ReceiveOptions{Max: 1})
		if err != nil || len(all) != 1 {
			t.Fatalf("Receive(%s, %s) = %v, %v", namespace, name, all, err)
		}
		return all[0].Tag
	}
	for _, namespace := range []string{ns, "other"} {
		if _, err := b.Publish(limited(t), namespace, "a", batch(t, "e1")); err != nil {
			t.Fatal(err)
		}
	}
	mine, sibling, foreign := tag(ns, "s"), tag(ns, "s2"), tag("other", "s")
	if !regexp.MustCompile(`^[A-Za-z0-9_-]{40,200}$`).MatchString(mine) {
		t.Errorf("the tag %q is no short URL-safe text", mine)
	}
	raw, err := base64.RawURLEncoding.DecodeString(mine)
	if err != nil {
		t.Fatal(err)
	}
	for _, telling := range []string{"JS.ACK", "LOG_", "sub0", ns} {
		if strings.Contains(string(raw), telling) {
			t.Errorf("the tag tells %q", telling)
		}
	}
	forged := []string{sibling, foreign, mine[:len(mine)-1], mine + "AAAA", strings.Repeat("A", len(mine)), strings.Repeat("A", 1<<20)}
	for i := range raw {
		changed := append([]byte(nil), raw...)
		changed[i] ^= 1
		forged = append(forged, base64.RawURLEncoding.EncodeToString(changed))
	}
	for verb := range broker.Extend + 1 {
		unknown(t, b, "s", broker.Settlement{Verb: verb, Tags: forged})
	}
	settled, err := b.Settle(limited(t), ns, "s", broker.Settlement{Tags: []string{sibling, mine, foreign}})
	if err != nil || len(settled.Accepted) != 1 || settled.Accepted[0] != mine || len(settled.Unknown) != 2 || settled.Unknown[0] != sibling {
		t.Errorf("Settle = %+v, %v, want only its own tag accepted", settled, err)
	}
	settle(t, b, "s2", broker.Ack, broker.SubscriptionDelivery{Tag: sibling})
}

func batch(t testing.TB, ids ...string) []*schemas.Event {
	t.Helper()
	var events []*schemas.Event
	for _, id := range ids {
		events = append(events, event(t, id))
	}
	return events
}
