package filter_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	sqlerrors "github.com/cloudevents/sdk-go/sql/v2/errors"
	"go.yaml.in/yaml/v3"

	"github.com/outrelay/outrelay/broker/filter"
)

// TestConformance runs the test cases of the CloudEvents SQL specification, which
// come with the module.
func TestConformance(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cloudevents/sdk-go/sql/v2").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "test", "tck", "*.yaml"))
	if err != nil || len(files) != 18 {
		t.Fatalf("there are %d files of test cases (%v), want 18", len(files), err)
	}
	cases := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// Nodes, because an expression such as TRUE is no YAML string and a time must
		// keep its text.
		var suite struct {
			Tests []struct {
				Name           string
				Expression     yaml.Node
				Result         yaml.Node
				Error          string
				Event          map[string]yaml.Node
				EventOverrides map[string]yaml.Node `yaml:"eventOverrides"`
			}
		}
		if err := yaml.Unmarshal(text, &suite); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, c := range suite.Tests {
			cases++
			attributes := map[string]any{
				"specversion": "1.0", "id": "myId", "source": "http://example.com/source", "type": "myType",
				"subject": "topic", "time": "2020-03-21T12:34:56.78Z",
			}
			if c.Event != nil {
				clear(attributes)
			}
			for _, more := range []map[string]yaml.Node{c.Event, c.EventOverrides} {
				for name, n := range more {
					attributes[name] = value(t, n)
				}
			}
			e := event(t, object(t, attributes))
			t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml")+"/"+c.Name, func(t *testing.T) {
				expression := c.Expression.Value
				if c.Error == "parse" || c.Error == "missingFunction" {
					refused(t, "", expression, "")
					return
				}
				got, err := filter.Evaluate(expression, e)
				if c.Error != "" {
					is := map[string]func(error) bool{
						"math":               sqlerrors.IsMathError,
						"cast":               sqlerrors.IsCastError,
						"missingAttribute":   sqlerrors.IsMissingAttributeError,
						"functionEvaluation": sqlerrors.IsFunctionEvaluationError,
					}[c.Error]
					if is == nil || !is(err) {
						t.Errorf("%s on %v = %v, %v; want an error of kind %s", expression, attributes, got, err, c.Error)
					}
					got = nil
				} else if want := value(t, c.Result); err != nil || got != want {
					t.Errorf("%s on %v = %#v, %v; want %#v", expression, attributes, got, err, want)
				}
				if passes := parse(t, "", expression).Match(e); passes != (got == true) {
					t.Errorf("Match of %s on %v = %v, want %v", expression, attributes, passes, got == true)
				}
			})
		}
	}
	if cases < 200 {
		t.Errorf("there are %d test cases, want more than 200", cases)
	}
}

func value(t *testing.T, n yaml.Node) any {
	t.Helper()
	switch n.Tag {
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int":
		i, err := strconv.ParseInt(n.Value, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return int32(i)
	case "!!str", "!!timestamp":
		return n.Value
	}
	t.Fatalf("a value of kind %s", n.Tag)
	return nil
}

func object(t *testing.T, members map[string]any) string {
	t.Helper()
	b, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
