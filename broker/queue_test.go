package broker

import (
	"math/rand/v2"
	"testing"
)

// A queue is a list, whatever is pushed and popped.
func TestQueue(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var q queue[int]
	var want []int
	for next, phase := 0, 0; next < 20_000; {
		if phase = phase + 1; r.IntN(8) < 2+phase/1000%5 {
			q.push(next)
			want = append(want, next)
			next++
		} else if len(want) > 0 {
			if got := q.pop(); got != want[0] {
				t.Fatalf("popped %d instead of %d", got, want[0])
			}
			want = want[1:]
		}
		if q.len() != len(want) {
			t.Fatalf("length %d instead of %d", q.len(), len(want))
		}
		if q.n > 0 {
			if i := r.IntN(q.n); q.at(i) != want[i] {
				t.Fatalf("at %d there is %d instead of %d", i, q.at(i), want[i])
			}
		}
		if len(q.held) > leastQueue && len(q.held) > 8*max(q.n, 1) {
			t.Fatalf("%d items hold room for %d", q.n, len(q.held))
		}
	}
}
