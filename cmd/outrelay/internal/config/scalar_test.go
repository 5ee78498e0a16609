package config

import (
	"testing"
	"time"
)

func TestDurationsAndSizesPrintAsTheyRead(t *testing.T) {
	for text, want := range map[string]time.Duration{"168h": 168 * time.Hour, "1m30s": 90 * time.Second, "20ms": 20 * time.Millisecond, "10m": 10 * time.Minute, "1h0m1s": time.Hour + time.Second} {
		var d Duration
		if err := d.parse(text); err != nil || time.Duration(d) != want || d.String() != text {
			t.Errorf("%s reads as %d and prints as %s (%v)", text, d, d, err)
		}
	}
	for text, want := range map[string]Size{"10GiB": 10 << 30, "1500MiB": 1500 << 20, "3B": 3, "0B": 0, "9TiB": 9 << 40} {
		var z Size
		if err := z.parse(text); err != nil || z != want || z.String() != text {
			t.Errorf("%s reads as %d and prints as %s (%v)", text, z, z, err)
		}
	}
	var z Size
	if err := z.parse("4096"); err != nil || z.String() != "4KiB" {
		t.Errorf("4096 prints as %s (%v)", z, err)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"https", "http", "admin", "topics", "maxage"}
	for s, want := range map[string]string{"htpps": "https", "topcis": "topics", "max-age": "maxage", "Admin": "admin", "nothing": ""} {
		if got, near := nearest(s, words); near != (want != "") || near && got != want {
			t.Errorf("nearest(%q) = %q, %v, want %q", s, got, near, want)
		}
	}
}
