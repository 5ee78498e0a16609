package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// The rules are told apart on histories written by hand: "SECONDS ACT WHO ID ATTEMPT SEQUENCE".
func TestLedger(t *testing.T) {
	for _, tt := range []struct {
		name    string
		history string
		want    []string // the rules that it breaks
	}{
		{"all is well", "0 answered - a; 1 delivered w a 1 1; 1.1 acked w a 1", nil},
		{"never delivered", "0 answered - a", []string{ruleLost}},
		{"never acked", "0 answered - a; 1 delivered w a 1 1", []string{ruleLost}},
		{"acked, and its answer on its way", "0 answered - a; 1 delivered w a 1 1; 1.1 asked w a 1; 1.2 ended w", nil},
		{"acked as unknown", "0 answered - a; 1 delivered w a 1 1; 1.1 asked w a 1; 1.2 denied w a 1", []string{ruleLost}},
		{"not answered, so not missed", "1 delivered w a 1 1", nil},
		{"again after an ack", "1 delivered w a 1 1; 1.1 acked w a 1; 1.2 delivered v a 2 1", []string{ruleAgain, ruleCauseless}},
		{"again long after an ack", "1 delivered w a 1 1; 1.1 acked w a 1; 20 delivered v a 2 1", []string{ruleAgain}},
		{"again after an ack and a kill at once", "1 delivered w a 1 1; 1.1 acked w a 1; 1.5 killed; 9 delivered v a 2 1", nil},
		{"again after an ack and a kill later", "1 delivered w a 1 1; 1.1 acked w a 1; 2.5 killed; 9 delivered v a 2 1", []string{ruleAgain}},
		{"again before the kill", "1 delivered w a 1 1; 1.1 acked w a 1; 1.2 delivered v a 2 1; 1.5 killed", []string{ruleAgain, ruleCauseless}},
		{"a late ack, and the next attempt on its way", "1 delivered w a 1 1; 7 acked w a 1; 7.1 delivered v a 2 1", nil},
		{"a late ack, and the next attempt much later", "1 delivered w a 1 1; 7 acked w a 1; 13 delivered v a 2 1", []string{ruleAgain}},
		{"an ack that a stalled network held up", "1 delivered w a 1 1; 1.1 stalled; 8 healed; 8.1 acked w a 1; 8.2 delivered v a 2 1", nil},
		{"marked after a lapse", "1 delivered w a 1 1; 6 delivered v a 2 1; 6.1 acked v a 2", nil},
		{"marked after a release", "1 delivered w a 1 1; 1.1 released w a 1; 1.2 delivered v a 2 1", nil},
		{"marked after its subscriber left", "1 delivered w a 1 1; 1.1 ended w; 1.2 delivered v a 2 1", nil},
		{"for no reason", "1 delivered w a 1 1; 1.2 delivered v a 2 1", []string{ruleCauseless}},
		{"the attempt before it was on its way to somebody", "1 delivered w a 2 1", nil},
		{"that attempt comes after a kill", "1 delivered w a 2 1; 1.3 killed; 1.3 ended w; 1.4 delivered v a 1 1", nil},
		{"not marked", "1 delivered w a 1 1; 1.1 ended w; 1.2 delivered v a 1 1", []string{ruleUnmarked}},
		{"not marked after a kill at once", "1 delivered w a 1 1; 1.1 ended w; 1.3 killed; 1.2 ended w; 9 delivered v a 1 1", nil},
		{"not marked after a kill later", "1 delivered w a 1 1; 2.3 killed; 2.3 ended w; 9 delivered v a 1 1", []string{ruleUnmarked}},
		{"marked lower", "1 delivered w a 2 1; 1.1 ended w; 3 delivered v a 1 1", []string{ruleUnmarked}},
		{"in order", "1 delivered w a 1 1; 1.1 delivered v b 1 2; 1.2 delivered w c 1 3", nil},
		{"out of order", "0.5 answered - a; 0.5 answered - b; 1 delivered w b 1 2; 1.1 delivered w a 1 1; 2 acked w a 1; 2 acked w b 1", []string{ruleOrder}},
		{"out of order with another one between", "0.5 answered - a; 1 delivered w c 1 3; 1.1 delivered v b 1 2; 1.2 delivered w a 1 1; 2 acked w a 1", []string{ruleOrder}},
		{"another had it in hand", "0.5 answered - a; 1 delivered w b 1 2; 1.1 ended v; 1.2 delivered w a 1 1; 2 acked w a 1", nil},
		{"another had left before it", "0.3 ended v; 0.5 answered - a; 1 delivered w b 1 2; 1.2 delivered w a 1 1; 2 acked w a 1", []string{ruleOrder}},
		{"redelivered behind", "0.5 answered - a; 1 delivered w b 1 2; 1.1 released w a 1; 1.2 delivered w a 2 1; 2 acked w a 2", nil},
		{"twice in the log", "1 delivered w a 1 1; 1.1 acked w a 1; 1.2 delivered w a 1 2", []string{ruleDoubled, ruleUnmarked, ruleAgain}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger(5*time.Second, 500*time.Millisecond)
			start := time.Unix(1e9, 0)
			for text := range strings.SplitSeq(tt.history, "; ") {
				var seconds float64
				var e entry
				fmt.Sscanf(text, "%g %s %s %s %d %d", &seconds, &e.Act, &e.Who, &e.ID, &e.Attempt, &e.Sequence)
				e.At = start.Add(time.Duration(seconds * float64(time.Second)))
				e.Began = e.At
				l.record(e)
			}
			var got []string
			for _, f := range l.faults() {
				if !slices.Contains(got, f.rule) {
					got = append(got, f.rule)
				}
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("it breaks %q, want %q: %v", got, tt.want, l.faults())
			}
		})
	}
}
