package schemas_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/schemas"
)

// A valueCase is a text that is or is not of some grammar.
type valueCase struct {
	source
	Text string `json:"text"`
	OK   bool   `json:"ok"`
}

type topicsFile struct {
	About    string
	Topics   []valueCase
	Filters  []valueCase
	Segments []valueCase
}

func checkName(t *testing.T, c valueCase, got string, err error) {
	t.Helper()
	switch {
	case !c.OK:
		checkProblem(t, err, &wantProblem{Name: "name"})
		if got != "" {
			t.Errorf("refused, and %q returned", got)
		}
	case err != nil:
		t.Errorf("%q is refused: %v", c.Text, err)
	case got != c.Text:
		t.Errorf("%q became %q", c.Text, got)
	}
}

func TestParseTopic(t *testing.T) {
	each(t, load[topicsFile](t, "topics.json").Topics, func(t *testing.T, c valueCase) {
		topic, err := schemas.ParseTopic(c.Text)
		checkName(t, c, string(topic), err)
	})
}

func TestParseTopicFilter(t *testing.T) {
	each(t, load[topicsFile](t, "topics.json").Filters, func(t *testing.T, c valueCase) {
		filter, err := schemas.ParseTopicFilter(c.Text)
		checkName(t, c, string(filter), err)
		if err == nil && filter.Concrete() == strings.Contains(c.Text, "*") {
			t.Errorf("Concrete() of %q is %t", c.Text, filter.Concrete())
		}
	})
}

func TestParseSegment(t *testing.T) {
	each(t, load[topicsFile](t, "topics.json").Segments, func(t *testing.T, c valueCase) {
		s, err := schemas.ParseSegment("subscription name", c.Text)
		checkName(t, c, s, err)
	})
}

// The answer to a bad name says which rule it broke.
func TestNameProblemsNameTheRule(t *testing.T) {
	for s, want := range map[string]string{
		"":                        "empty",
		"a//b":                    "empty segment",
		"a/../b":                  `".."`,
		strings.Repeat("a", 65):   "segment of 65 bytes",
		strings.Repeat("a/b/", 9): "segments",
		strings.Repeat("aa/", 99): "297 bytes",
		"a b":                     "' '",
		"a*":                      "segment of its own",
		"**/a":                    "only the last",
		"\xff":                    "\uFFFD",
	} {
		_, err := schemas.ParseTopicFilter(s)
		if p := asProblem(t, err); !strings.Contains(p.Detail, want) {
			t.Errorf("ParseTopicFilter(%q): %s, want a word of %s", s, p.Detail, want)
		}
	}
	_, err := schemas.ParseTopic("a/*")
	if p := asProblem(t, err); !strings.Contains(p.Detail, "wildcard") {
		t.Errorf("ParseTopic of a filter: %s", p.Detail)
	}
}

type filtersFile struct {
	About string
	Match []struct {
		source
		Filter, Topic string
		Match         bool
	}
	Pairs []struct {
		source
		Filter, Other      string
		Contains, Overlaps bool
	}
}

func TestFilterVectors(t *testing.T) {
	file := load[filtersFile](t, "filters.json")
	if len(file.Match) == 0 || len(file.Pairs) == 0 {
		t.Fatal("filters.json is empty")
	}
	for _, c := range file.Match {
		f, topic := mustFilter(t, c.Filter), mustTopic(t, c.Topic)
		if got := f.Match(topic); got != c.Match {
			t.Errorf("%q matches %q: %t, want %t (%s)", c.Filter, c.Topic, got, c.Match, c.Why)
		}
	}
	for _, c := range file.Pairs {
		f, g := mustFilter(t, c.Filter), mustFilter(t, c.Other)
		if got := f.Contains(g); got != c.Contains {
			t.Errorf("%q contains %q: %t, want %t (%s)", f, g, got, c.Contains, c.Why)
		}
		if f.Overlaps(g) != c.Overlaps || g.Overlaps(f) != c.Overlaps {
			t.Errorf("%q overlaps %q: %t, the other way %t, want %t (%s)", f, g, f.Overlaps(g), g.Overlaps(f), c.Overlaps, c.Why)
		}
	}
}

func mustTopic(t testing.TB, s string) schemas.Topic {
	t.Helper()
	topic, err := schemas.ParseTopic(s)
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

func mustFilter(t testing.TB, s string) schemas.TopicFilter {
	t.Helper()
	f, err := schemas.ParseTopicFilter(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// filterModel is a filter as a regular expression over topics that are no notices,
// or over notices alone.
func filterModel(f string) func(topic string) bool {
	pattern := regexp.QuoteMeta(f)
	if rest, ok := strings.CutSuffix(pattern, `\*\*`); ok {
		pattern = rest + `.+`
	}
	pattern = strings.ReplaceAll(pattern, `\*`, `[^/]+`)
	re := regexp.MustCompile(`^` + pattern + `$`)
	wild := strings.HasPrefix(f, "*")
	return func(topic string) bool {
		return re.MatchString(topic) && !(wild && strings.HasPrefix(topic, "outrelay/"))
	}
}

// paths are all sequences of 1 to most segments of the alphabet; the last may also
// be one of ends.
func paths(alphabet, ends []string, most int) []string {
	var all []string
	level := []string{""}
	for range most {
		var next []string
		for _, p := range level {
			for _, s := range alphabet {
				next = append(next, p+s+"/")
				all = append(all, p+s)
			}
			for _, s := range ends {
				all = append(all, p+s)
			}
		}
		level = next
	}
	return all
}

// Match, Contains and Overlaps agree with what they mean, for every filter of up to
// 3 segments and every topic of up to 4 of a small alphabet. It has a segment, z,
// that no filter names, so that a wildcard is more than the names together.
func TestFiltersExhaustively(t *testing.T) {
	topics := paths([]string{"a", "b", "z", "outrelay"}, nil, 4)
	filters := paths([]string{"a", "b", "outrelay", "*"}, []string{"**"}, 3)
	sets := make([][]bool, len(filters)) // which topics a filter matches
	for i, f := range filters {
		model, filter := filterModel(f), mustFilter(t, f)
		sets[i] = make([]bool, len(topics))
		any := false
		for j, topic := range topics {
			sets[i][j] = model(topic)
			any = any || sets[i][j]
			if got := filter.Match(schemas.Topic(topic)); got != sets[i][j] {
				t.Fatalf("%q matches %q: %t, want %t", f, topic, got, sets[i][j])
			}
			if sets[i][j] && schemas.Topic(topic).Notices() != filter.Notices() {
				t.Fatalf("%q matches %q; which of them are notices: %t, %t", f, topic, filter.Notices(), !filter.Notices())
			}
		}
		if !any {
			t.Fatalf("%q matches no topic; the model is too small", f)
		}
	}
	for i, f := range filters {
		for j, g := range filters {
			contains, overlaps := true, false
			for k := range topics {
				contains = contains && (sets[i][k] || !sets[j][k])
				overlaps = overlaps || sets[i][k] && sets[j][k]
			}
			if got := mustFilter(t, f).Contains(mustFilter(t, g)); got != contains {
				t.Fatalf("%q contains %q: %t, want %t", f, g, got, contains)
			}
			if got := mustFilter(t, f).Overlaps(mustFilter(t, g)); got != overlaps {
				t.Fatalf("%q overlaps %q: %t, want %t", f, g, got, overlaps)
			}
		}
	}
	t.Logf("%d filters, %d topics", len(filters), len(topics))
}
