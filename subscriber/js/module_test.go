package js_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/subscriber/js"
)

// What is embedded is the module with all its exports, as package.json names it.
func TestModule(t *testing.T) {
	b, err := os.ReadFile("package.json")
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Exports map[string]struct{ Default string }
	}
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile(p.Exports["."].Default)
	if err != nil {
		t.Fatal(err)
	}
	if string(shipped) != string(js.Module) {
		t.Error("what is embedded is not what package.json exports")
	}
	types, err := os.ReadFile("outrelay.d.ts")
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for line := range strings.Lines(string(types)) {
		words := strings.FieldsFunc(line, func(r rune) bool { return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') })
		if len(words) < 4 || words[0] != "export" || words[1] != "declare" {
			continue
		}
		names++
		if !strings.Contains(string(js.Module), words[3]) {
			t.Errorf("the module has no %s, which the types declare", words[3])
		}
	}
	if names < 4 {
		t.Errorf("the types declare %d values; this test reads them wrongly", names)
	}
}
