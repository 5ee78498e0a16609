package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// A gateway that is killed while batches are published has each of them whole or not
// at all when it comes back, and each whose publish was answered.
func TestKillBetweenBatches(t *testing.T) {
	rounds := 2
	if soak() {
		rounds = 20
	}
	const publishers = 4
	random := chance(t)
	g := start(t)
	for round := range rounds {
		topic := fmt.Sprint("kill/", round)
		address := g.topics(topic)
		var publishing sync.WaitGroup
		var count atomic.Int64
		killAt, enough := int64(4+random.IntN(16)), make(chan struct{})
		answered := make([][]string, publishers)
		for p := range publishers {
			size := 1 + random.IntN(100)
			client := httpClient(t)
			publishing.Go(func() { // until the gateway is gone
				for n := 0; ; n++ {
					size = 1 + size*7%401
					name := fmt.Sprintf("%d-%d-%d-%d", round, p, n, size)
					var events []string
					for i := range size {
						events = append(events, sample(fmt.Sprint(name, ".", i)))
					}
					status, answer, err := try(t.Context(), client, address, batched, "["+strings.Join(events, ",")+"]")
					if err != nil {
						return
					}
					if status != http.StatusOK {
						t.Errorf("batch %s: %d %s", name, status, answer)
						return
					}
					answered[p] = append(answered[p], name)
					if count.Add(1) == killAt {
						close(enough)
					}
				}
			})
		}
		ended := make(chan struct{})
		go func() { // ends with the publishers
			publishing.Wait()
			close(ended)
		}()
		select {
		case <-enough:
		case <-ended:
			t.Fatalf("the publishers ended after %d batches, before the gateway was killed:\n%s", count.Load(), g.output)
		}
		g.kill(t)
		<-ended
		g.run(t)

		here := map[string]int{}
		for _, id := range g.stored(t, topic, "limit", "1000") {
			batch, _, _ := strings.Cut(id, ".")
			here[batch]++
		}
		for batch, n := range here {
			if size := batch[strings.LastIndex(batch, "-")+1:]; strconv.Itoa(n) != size {
				t.Errorf("round %d: the log has %d events of a batch of %s", round, n, size)
			}
		}
		for _, batch := range slices.Concat(answered...) {
			if here[batch] == 0 {
				t.Errorf("round %d: batch %s was answered and is not in the log", round, batch)
			}
		}
	}
}
