package broker_test

import (
	"testing"

	"github.com/outrelay/outrelay/broker"
)

// Several namespaces may be kept in memory at the default retention, which is more than
// the memory that there is.
func TestMemoryOfSeveralNamespaces(t *testing.T) {
	config := broker.Config{Namespaces: map[string]broker.NamespaceConfig{}}
	config.Log.Storage = "memory"
	for _, name := range []string{"a", "b", ns} {
		config.Namespaces[name] = broker.NamespaceConfig{}
	}
	b, _ := start(t, config)
	publish(t, b, "a", "e1")
}
