package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A record is what is kept of a workload's last measurement, as results/NAME.json, so
// that workloads may be measured at different times.
type record struct {
	When    time.Time
	Commit  string
	Command string
	Took    float64             // seconds
	Rounds  map[string][]result // by the run's label
	Faults  []string
}

func recordFile(out, workload string) string {
	return filepath.Join(out, "results", workload+".json")
}

// save keeps a measurement in the folder of results.
func (m *measurement) save(out string) error {
	m.record.Rounds = map[string][]result{}
	for i, r := range m.runs {
		m.record.Rounds[r.label] = m.results[i]
	}
	b, err := json.MarshalIndent(m.record, "", " ")
	if err != nil {
		return err
	}
	file := recordFile(out, m.name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// kept reads what is kept of all workloads, in the plan's order.
func kept(out string) (all []*measurement, err error) {
	for _, w := range plan(options{rounds: 1, measure: time.Second}) {
		b, err := os.ReadFile(recordFile(out, w.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m := &measurement{workload: w, results: make([][]result, len(w.runs))}
		if err := json.Unmarshal(b, &m.record); err != nil {
			return nil, fmt.Errorf("%s: %w", recordFile(out, w.name), err)
		}
		for i, r := range w.runs {
			m.results[i] = m.record.Rounds[r.label]
		}
		all = append(all, m)
	}
	return all, nil
}

// section puts text between the markers of a name in a file's text, at its end if
// they are not there. What lies outside is somebody else's.
func section(file, name, text string) string {
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->\n"
	before, rest, ok := strings.Cut(file, begin)
	if !ok {
		if file != "" {
			file = strings.TrimRight(file, "\n") + "\n\n"
		}
		return file + begin + text + end
	}
	_, after, _ := strings.Cut(rest, end)
	return before + begin + text + end + after
}

// publish writes RESULTS.md and cost.svg from what is kept.
func publish(out string) error {
	all, err := kept(out)
	if err != nil {
		return err
	}
	file := filepath.Join(out, "RESULTS.md")
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(file, []byte(section(string(old), "peers", report(all))), 0o644); err != nil {
		return err
	}
	if svg := plot(all); svg != "" {
		return os.WriteFile(filepath.Join(out, "cost.svg"), []byte(svg), 0o644)
	}
	return nil
}
