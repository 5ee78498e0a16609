package demo

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/schemas"
)

func week(t *testing.T) []Quake {
	t.Helper()
	w, err := Week()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// The numbers of the summary are those of the file.
func TestSharesOfTheFile(t *testing.T) {
	w := week(t)
	for i, want := range []int{1707, 297, 15} {
		ids := shares[i].expect(w)
		if len(ids) != want {
			t.Errorf("the file has %d events for %s, want %d", len(ids), shares[i].name, want)
		}
		unique := slices.Compact(slices.Sorted(slices.Values(ids)))
		if len(unique) != len(ids) {
			t.Errorf("of %d events for %s only %d have an id of their own", len(ids), shares[i].name, len(unique))
		}
	}
}

// The file is the one that README.md describes.
func TestFileIsTheOneDescribed(t *testing.T) {
	unzipped, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, unzipped); err != nil {
		t.Fatal(err)
	}
	readme, err := readmeFile()
	if err != nil {
		t.Fatal(err)
	}
	if hash := hex.EncodeToString(sum.Sum(nil)); !strings.Contains(readme, hash) {
		t.Errorf("the file has the SHA-256 %s, which README.md does not name", hash)
	}
}

// A gateway takes every event of the file as it is, and its data is what the map needs.
func TestWeekIsValid(t *testing.T) {
	w := week(t)
	for i, q := range w {
		e, err := schemas.ParseEvent(q.JSON)
		if err != nil {
			t.Errorf("event %d: %v", i, err)
			continue
		}
		if e.ID() != q.ID || e.Type() != q.Type || q.ID == "" {
			t.Errorf("event %d is read as id %q and type %q, want %q and %q", i, q.ID, q.Type, e.ID(), e.Type())
		}
		if _, err := schemas.ParseTopic(q.Topic()); err != nil {
			t.Errorf("event %d goes to %s: %v", i, q.Topic(), err)
		}
		if i > 0 && q.Time.Before(w[i-1].Time) {
			t.Errorf("event %d, of %v, stands after one of %v", i, q.Time, w[i-1].Time)
		}
	}
}

func TestReadWeekNamesTheLine(t *testing.T) {
	_, err := readWeek(strings.NewReader(`{"id":"1","time":"2018-01-31T01:49:59Z"}` + "\n{\n"))
	if err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("reading a broken second line: %v, want an error that names it", err)
	}
}
