package broker

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/schemas"
)

// The trie finds what matching every filter would, while filters come and go.
func TestRoutesAgreeWithMatching(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	segments := []string{"a", "b", schemas.NoticeSegment}
	name := func(wild bool) string {
		var s []string
		for range 1 + random.IntN(4) {
			s = append(s, segments[random.IntN(len(segments))])
			if wild && random.IntN(3) == 0 {
				s[len(s)-1] = "*"
			}
		}
		if wild && random.IntN(3) == 0 {
			s[len(s)-1] = "**"
		}
		return strings.Join(s, "/")
	}
	var r routes
	var views []*view
	for range 3000 {
		if len(views) > 0 && random.IntN(3) == 0 {
			i := random.IntN(len(views))
			r.remove(views[i])
			views = slices.Delete(views, i, i+1)
		} else {
			v := &view{key: viewKey{topics: schemas.TopicFilter(name(true))}}
			views = append(views, v)
			r.add(v)
		}
		topic := schemas.Topic(name(false))
		got := r.find(topic)
		matching := 0
		for _, v := range views {
			if v.key.topics.Match(topic) {
				matching++
				if !slices.Contains(got, v) {
					t.Fatalf("%s: the view of %s is not found", topic, v.key.topics)
				}
			}
		}
		if len(got) != matching {
			t.Fatalf("%s: %d views found, %d match", topic, len(got), matching)
		}
	}
	for _, v := range views {
		r.remove(v)
	}
	if len(r.root.children)+len(r.root.rest) != 0 {
		t.Error("branches are left though no filter is")
	}
}
