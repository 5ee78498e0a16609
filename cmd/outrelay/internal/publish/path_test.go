package publish

import (
	"errors"
	"testing"

	"github.com/outrelay/outrelay/schemas"
)

func TestPathMakesATopic(t *testing.T) {
	const event = `{"id":"7","source":"/s","data":{"net":"ak","n":3,"ok":true,"none":null,"a b":"x/y","tags":["one","two"],"bad":"a b","empty":""}}`
	tests := []struct {
		path, want string
		err        error
	}{
		{"data.net", "quakes/ak", nil},
		{"$.data.net", "quakes/ak", nil},
		{"$['data']['net']", "quakes/ak", nil},
		{`$["data"].net`, "quakes/ak", nil},
		{"data.n", "quakes/3", nil},
		{"data.ok", "quakes/true", nil},
		{"data['a b']", "quakes/x/y", nil},
		{"data.tags[1]", "quakes/two", nil},
		{"id", "quakes/7", nil},
		{"data.tags[2]", "", schemas.ErrName},
		{"data.tags", "", schemas.ErrName},
		{"data.none", "", schemas.ErrName},
		{"data.missing", "", schemas.ErrName},
		{"data.net.deeper", "", schemas.ErrName},
		{"data.bad", "", schemas.ErrName},
		{"data.empty", "", schemas.ErrName},
		{"source", "", schemas.ErrName}, // an empty segment
	}
	for _, tt := range tests {
		p, err := ParsePath(tt.path)
		if err != nil {
			t.Errorf("ParsePath(%q) = %v", tt.path, err)
			continue
		}
		got, err := p.topic("quakes", []byte(event))
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("topic at %s = %q, %v; want %q, %v", tt.path, got, err, tt.want, tt.err)
		}
	}
}

func TestParsePathRefusesWhatIsNone(t *testing.T) {
	for _, in := range []string{"", "$", ".", "a.", "a..b", "a[", "a[x]", "a[-1]", "a[*]", "a.*", "$..a", "['a", "['']", "a b", "a[0]b", "a[?@.x]", "a['b\\'c']"} {
		if p, err := ParsePath(in); err == nil {
			t.Errorf("ParsePath(%q) = %v, want an error", in, p.steps)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add("$.data.net", `{"data":{"net":"ak"}}`)
	f.Add("a[0]['b']", `{"a":[{"b":1}]}`)
	f.Fuzz(func(t *testing.T, path, event string) {
		p, err := ParsePath(path)
		if err != nil {
			return
		}
		if topic, err := p.topic("a", []byte(event)); err == nil {
			if _, err := schemas.ParseTopic(topic); err != nil {
				t.Errorf("the topic %q of %s is none: %v", topic, event, err)
			}
		}
	})
}
