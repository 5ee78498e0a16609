package main

import (
	"bytes"
	"encoding/json"
)

// notice takes what is no event of the load: outrelay's notices.
func (e *engine) notice(c *client, m []byte) {
	if !bytes.Contains(m, []byte(`"dev.outrelay.gap"`)) || !c.stuck {
		e.fault("a subscriber got %q", m[:min(len(m), 300)])
		return
	}
	var gap struct {
		Data struct {
			Reason string
			Missed *int
		}
	}
	if err := json.Unmarshal(m, &gap); err != nil || gap.Data.Missed == nil {
		e.fault("a gap notice without a count: %s", m)
		return
	}
	c.notices++
	c.missed += *gap.Data.Missed
	c.skipped += *gap.Data.Missed
}
