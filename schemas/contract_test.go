package schemas_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/outrelay/outrelay/schemas"
)

// These tests hold the written contract to the code, as far as one package sees it.

func readText(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tree reads a YAML or JSON file.
func tree(t *testing.T, name string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal([]byte(readText(t, name)), &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// at finds a node of a tree by the parts of its path, nil if there is none.
func at(v any, path ...string) any {
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

var (
	statusRow = regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (\\d{3}) \\|")
	statusIn  = regexp.MustCompile("`([a-z-]+)` \\((\\d{3})\\)")
	closeRow  = regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| (\\d{4}) \\| ([a-z]+) \\|")
)

func TestProseNamesEveryProblem(t *testing.T) {
	prose := readText(t, "protocol.md")
	var names []string
	for _, m := range append(statusRow.FindAllStringSubmatch(prose, -1), statusIn.FindAllStringSubmatch(prose, -1)...) {
		names = append(names, m[1])
		if got := strconv.Itoa((&schemas.Problem{Name: m[1]}).Status()); got != m[2] {
			t.Errorf("protocol.md says %s for %s, the code %s", m[2], m[1], got)
		}
	}
	slices.Sort(names)
	if want := schemas.ProblemNames(); !slices.Equal(names, want) {
		t.Errorf("protocol.md names the problems %v, want %v", names, want)
	}
}

func TestProseListsEveryCloseReason(t *testing.T) {
	var got []schemas.CloseReason
	for _, m := range closeRow.FindAllStringSubmatch(readText(t, "protocol.md"), -1) {
		code, _ := strconv.Atoi(m[2])
		got = append(got, schemas.CloseReason{Word: m[1], Code: code, Retry: schemas.Retry(m[3])})
	}
	if want := schemas.CloseReasons(); !slices.Equal(got, want) {
		t.Errorf("protocol.md lists the close reasons %v, want %v", got, want)
	}
}

func TestProseStatesTheLimits(t *testing.T) {
	prose := strings.Join(strings.Fields(readText(t, "protocol.md")), " ")
	thousands := func(n int) string { return fmt.Sprintf("%d,%03d", n/1000, n%1000) }
	for _, want := range []string{
		fmt.Sprintf("without what the broker adds | %d MiB |", schemas.MaxEvent>>20),
		fmt.Sprintf("a batch, as sent | %d MiB and %s events |", schemas.MaxBatch>>20, thousands(schemas.MaxBatchEvents)),
		fmt.Sprintf("attributes, together | %d KiB |", schemas.MaxAttributes>>10),
		fmt.Sprintf("a message on a stream | %d MiB |", schemas.MaxStreamMessage>>20),
		fmt.Sprintf("in `data` | %s deep |", thousands(schemas.MaxDepth)),
		fmt.Sprintf("1-%d segments joined by `/`. A segment has 1-%d of", schemas.MaxSegments, schemas.MaxSegment),
		fmt.Sprintf("at most %d bytes in all", schemas.MaxTopic),
		fmt.Sprintf("text of at most %d of the characters", schemas.MaxCursor),
		fmt.Sprintf("begin with `%s/`", schemas.NoticeSegment),
		fmt.Sprintf("subprotocol `%s`", schemas.SubprotocolCloudEvents),
		fmt.Sprintf("`%sTOKEN`", schemas.SubprotocolBearerPrefix),
	} {
		if !strings.Contains(prose, want) {
			t.Errorf("protocol.md does not say: %s", want)
		}
	}
	for _, name := range []string{
		schemas.NoticeGap, schemas.NoticeRejected, schemas.NoticeDraining, schemas.NoticeOpen, schemas.NoticePosition,
		schemas.GapSlow, schemas.GapExpired, schemas.GapReset, schemas.GapUnstored,
		schemas.AttributeTopic, schemas.AttributeCursor, schemas.AttributeDeadPrefix, schemas.NoticeSource,
		schemas.MediaTypeEvent, schemas.MediaTypeBatch, schemas.MediaTypeProblem,
	} {
		if !strings.Contains(prose, name+"`") {
			t.Errorf("protocol.md does not name `%s`", name)
		}
	}
}

func TestSchemaAgreesWithTheCode(t *testing.T) {
	defs := at(tree(t, "event.schema.json"), "$defs")
	check := func(got, want any, path ...string) {
		t.Helper()
		if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
			t.Errorf("event.schema.json has %s at %v, want %s", g, path, w)
		}
	}
	var types []string
	for _, v := range at(defs, "problem", "properties", "type", "enum").([]any) {
		types = append(types, strings.TrimPrefix(v.(string), schemas.ProblemBase))
	}
	slices.Sort(types)
	check(types, schemas.ProblemNames(), "problem")
	check(at(defs, "gap", "properties", "data", "properties", "reason", "enum"),
		[]string{schemas.GapSlow, schemas.GapExpired, schemas.GapReset, schemas.GapUnstored}, "gap")
	for name, want := range map[string]string{
		"gap": schemas.NoticeGap, "rejected": schemas.NoticeRejected, "draining": schemas.NoticeDraining,
		"open": schemas.NoticeOpen, "position": schemas.NoticePosition,
	} {
		check(at(defs, name, "properties", "type", "const"), want, name)
		check(at(defs, name, "properties", "source", "const"), schemas.NoticeSource, name)
	}
	limits := at(defs, "wellknown", "properties", "limits", "properties")
	for name, want := range map[string]int{
		"event": schemas.MaxEvent, "batch": schemas.MaxBatch, "attributes": schemas.MaxAttributes,
		"message": schemas.MaxStreamMessage, "batchevents": schemas.MaxBatchEvents,
	} {
		check(at(limits, name, "const"), want, name)
	}
	check(at(defs, "topic", "maxLength"), schemas.MaxTopic, "topic")
	check(at(defs, "topicfilter", "maxLength"), schemas.MaxTopic, "topicfilter")
	check(at(defs, "cursor", "maxLength"), schemas.MaxCursor, "cursor")
	check(at(defs, "attributes", "properties", "specversion", "const"), schemas.SpecVersion, "specversion")
}

// Every reference within and between the documents leads somewhere.
func TestReferencesLeadSomewhere(t *testing.T) {
	documents := map[string]map[string]any{}
	for _, name := range []string{"event.schema.json", "session.schema.json", "openapi.yaml", "asyncapi.yaml"} {
		documents[name] = tree(t, name)
	}
	for name, document := range documents {
		found := 0
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				if ref, ok := v["$ref"].(string); ok {
					found++
					file, pointer, ok := strings.Cut(ref, "#/")
					if file == "" {
						file = name
					}
					if !ok || at(documents[file], strings.Split(pointer, "/")...) == nil {
						t.Errorf("%s: %s leads nowhere", name, ref)
					}
				}
				for _, below := range v {
					walk(below)
				}
			case []any:
				for _, below := range v {
					walk(below)
				}
			}
		}
		walk(document)
		if found < 10 {
			t.Errorf("%s has %d references; this test reads it wrongly", name, found)
		}
	}
}

// Every problem that an HTTP endpoint answers with stands in its description, but
// for those of addresses that are not described.
func TestOpenAPINamesTheProblems(t *testing.T) {
	responses := at(tree(t, "openapi.yaml"), "components", "responses").(map[string]any)
	var described strings.Builder
	for _, r := range responses {
		described.WriteString(at(r, "description").(string) + "\n")
	}
	elsewhere := []string{"method"}
	for _, name := range schemas.ProblemNames() {
		if slices.Contains(elsewhere, name) == strings.Contains(described.String(), "`"+name+"`") {
			t.Errorf("openapi.yaml should name the problem %s: %t", name, !slices.Contains(elsewhere, name))
		}
	}
}

// No file of vectors is left out of the README, which is how others find them.
func TestVectorsAreDescribed(t *testing.T) {
	readme := readText(t, "vectors/README.md")
	files, err := filepath.Glob("vectors/*.json")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files of vectors: %v", len(files), err)
	}
	for _, f := range files {
		if !strings.Contains(readme, "`"+filepath.Base(f)+"`") {
			t.Errorf("vectors/README.md does not describe %s", f)
		}
		var groups map[string]json.RawMessage
		if err := json.Unmarshal([]byte(readText(t, f)), &groups); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		for group := range groups {
			if group != "about" && !strings.Contains(readme, "`"+group+"`") {
				t.Errorf("vectors/README.md does not describe the group %s of %s", group, f)
			}
		}
	}
}

// The session's schema and its prose know each op of the code, with its members.
func TestSessionOpsAreDescribed(t *testing.T) {
	defs := at(tree(t, "session.schema.json"), "$defs")
	prose := readText(t, "protocol.md")
	ops := map[string][]string{
		"client": {
			schemas.OpSubscribe, schemas.OpUnsubscribe, schemas.OpAck, schemas.OpRelease, schemas.OpReject,
			schemas.OpExtend, schemas.OpPublish, schemas.OpToken, schemas.OpPing,
		},
		"gateway": {
			schemas.OpWelcome, schemas.OpSubscribed, schemas.OpPosition, schemas.OpEvent, schemas.OpGap,
			schemas.OpPublished, schemas.OpOK, schemas.OpPong, schemas.OpDraining, schemas.OpError,
		},
	}
	for side, want := range ops {
		var got []string
		for _, v := range at(defs, side, "oneOf").([]any) {
			got = append(got, strings.TrimPrefix(at(v, "$ref").(string), "#/$defs/"))
		}
		if !slices.Equal(got, want) {
			t.Errorf("session.schema.json has the messages %v of the %s, want %v", got, side, want)
		}
		for _, op := range want {
			if at(defs, op, "properties", "op", "const") != op {
				t.Errorf("session.schema.json tells %s apart by %v", op, at(defs, op, "properties", "op", "const"))
			}
			if !strings.Contains(prose, "\n| `"+op+"` |") {
				t.Errorf("protocol.md has no row for the op %s", op)
			}
		}
	}
}
