package demo

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

//go:embed data/earthquakes.ndjson.gz
var compressed []byte

// A Quake is one event of the week.
type Quake struct {
	ID   string
	Type string
	// Time is when the earth shook.
	Time time.Time
	// Network is the code of the seismic network that reported it, such as "ak".
	Network string
	// JSON is the whole CloudEvent, as it stands in the file.
	JSON []byte
}

// Topic is where the demo publishes the event.
func (q Quake) Topic() string { return "quakes/" + q.Network }

// Week reads the file: one week of real seismic events, oldest first.
func Week() ([]Quake, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("the demo's data: %w", err)
	}
	return readWeek(unzipped)
}

func readWeek(r io.Reader) ([]Quake, error) {
	var week []Quake
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, schemas.MaxEvent)
	for lines.Scan() {
		var event struct {
			ID   string    `json:"id"`
			Type string    `json:"type"`
			Time time.Time `json:"time"`
			Data struct {
				Properties struct {
					Net string `json:"net"`
				} `json:"properties"`
			} `json:"data"`
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("the demo's data: line %d: %w", len(week)+1, err)
		}
		week = append(week, Quake{
			ID: event.ID, Type: event.Type, Time: event.Time, Network: event.Data.Properties.Net,
			JSON: bytes.Clone(lines.Bytes()),
		})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("the demo's data: line %d: %w", len(week)+1, err)
	}
	return week, nil
}
