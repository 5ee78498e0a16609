package subscriber

import (
	"encoding/json"
	"testing"
)

// What a subscriber got as an event of the SDK it can publish again unchanged,
// whatever kind of JSON its data is.
func TestDataOfEveryJSONTypeStaysAValue(t *testing.T) {
	for _, contentType := range []string{
		"application/json", "text/json", "application/geo+json", "APPLICATION/JSON",
		"application/json; charset=utf-8", "application/vnd.example+json; v=1",
	} {
		for _, data := range []string{`{"n":1.50,"html":"<&>"}`, `[null]`, `"text"`, `7`} {
			raw := `{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"` + contentType + `","data":` + data + `,"relaytopic":"a"}`
			d := Delivery{Raw: []byte(raw)}
			e, err := d.Event()
			if err != nil {
				t.Errorf("Event() of %s: %v", raw, err)
				continue
			}
			if got := string(e.Data()); got != data || e.DataContentType() != contentType || e.Extensions()["relaytopic"] != "a" {
				t.Errorf("Event() of %s has the data %s, the type %s and the extensions %v", raw, got, e.DataContentType(), e.Extensions())
			}
			b, err := writeEvent(e)
			if err != nil {
				t.Errorf("publishing %s again: %v", raw, err)
				continue
			}
			var again struct {
				ID   string
				Data json.RawMessage
			}
			if err := json.Unmarshal(b, &again); err != nil || string(again.Data) != data || again.ID != "1" {
				t.Errorf("publishing %s again sends %s (%v)", raw, b, err)
			}
		}
	}
}

// Data that is not JSON, though its type says so, never makes broken JSON.
func TestBrokenJSONIsNoValue(t *testing.T) {
	e, err := readEvent([]byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/geo+json"}`))
	if err != nil {
		t.Fatal(err)
	}
	e.DataEncoded = []byte(`{"broken`)
	b, err := writeEvent(e)
	if err != nil || !json.Valid(b) {
		t.Errorf("writeEvent() = %s, %v, want valid JSON", b, err)
	}
	e.SetDataContentType("application/json")
	if b, err := writeEvent(e); err == nil {
		t.Errorf("writeEvent() = %s, want an error", b)
	}
}
