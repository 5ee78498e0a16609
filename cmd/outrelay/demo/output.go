package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// terminal says whether a person reads what is written to w.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// announce says where to look.
func (o options) announce(page string, g Gateway, week []Quake) {
	if !o.text {
		o.json(struct {
			Page  string `json:"page"`
			HTTP  string `json:"http"`
			HTTPS string `json:"https"`
			CA    string `json:"ca"`
		}{page, g.HTTP, g.HTTPS, g.CA})
		return
	}
	first, last := week[0].Time, week[len(week)-1].Time
	fmt.Fprintf(o.out, `
A real week of %s seismic events, %s to %s,
at %v times its speed: it takes %v.

  watch      %s
  subscribe  outrelay subscribe 'quakes/**' --gateway %s

Ctrl-C ends the demo.

`, thousands(len(week)), first.Format("2 January"), last.Format("2 January 2006"),
		float64(o.speed), offset(week, len(week)-1, float64(o.speed)).Round(time.Second), page, g.HTTP)
}

// conclude prints the summary.
func (o options) conclude(s Summary) {
	if !o.text || o.once {
		o.json(s)
		return
	}
	fmt.Fprintf(o.out, "The week is over. Published %d; quakes/** got %d, quakes/ak %d, explosions %d; lost %d, out of order %d.\nThe page stays up until Ctrl-C.\n",
		s.Published, s.Subscribers.All, s.Subscribers.Alaska, s.Subscribers.Explosions, s.Lost, s.OutOfOrder)
}

func (o options) json(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs of text and numbers
	}
	fmt.Fprintf(o.out, "%s\n", line)
}

// progress is the line on a terminal that tells how far the replay is.
type progress struct {
	out        io.Writer // nil shows nothing
	events     int
	collectors []*collector
	shown      time.Time
}

func newProgress(o options, events int, collectors []*collector) *progress {
	p := &progress{events: events, collectors: collectors}
	if o.progress {
		p.out = o.errs
	}
	return p
}

const clearLine = "\r\x1b[K"

func (p *progress) update(published int, last Quake) {
	if p.out == nil || time.Since(p.shown) < 100*time.Millisecond {
		return
	}
	p.shown = time.Now()
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s   published %s of %s", clearLine, last.Time.Format("Mon 2 Jan 15:04"), thousands(published), thousands(p.events))
	for i, c := range p.collectors {
		fmt.Fprintf(&b, "   %s %s", shares[i].name, thousands(len(c.got())))
	}
	fmt.Fprint(p.out, b.String())
}

func (p *progress) clear() {
	if p.out != nil {
		fmt.Fprint(p.out, clearLine)
	}
}

// thousands writes n with commas.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
