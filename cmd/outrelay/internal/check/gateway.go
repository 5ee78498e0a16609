package check

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// maxDocument is how much of an answer is read, in bytes.
const maxDocument = 64 << 10

// An answer is what came back of a request, whole.
type answer struct {
	status int
	header http.Header
	body   []byte
	// The local times around it.
	asked, answered time.Time
}

// problem is the gateway's own refusal; nil if the answer is none.
func (a *answer) problem() *schemas.Problem {
	media, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	p := new(schemas.Problem)
	if media != schemas.MediaTypeProblem || json.Unmarshal(a.body, p) != nil || p.Name == "" || p.Status() != a.status {
		return nil
	}
	return p
}

// ask sends a request to the gateway. The token goes with it if there is one in header.
func (r *run) ask(ctx context.Context, method, path string, header http.Header, body string) (*answer, error) {
	q, err := http.NewRequestWithContext(ctx, method, r.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if header != nil {
		q.Header = header.Clone()
	}
	q.Header.Set("User-Agent", userAgent)
	a := &answer{asked: r.Now()}
	resp, err := r.client.Do(q)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	a.answered = r.Now()
	a.status, a.header = resp.StatusCode, resp.Header
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	return a, err
}

const userAgent = "outrelay-check"

// A document is what the check needs of the well-known one (protocol section 2).
type document struct {
	Version string   `json:"version"`
	Hosts   []string `json:"hosts"`
	Ports   []int    `json:"ports"`
}

const wellKnown = "/.well-known/outrelay"

// fetch gets the document.
func (r *run) fetch() (*document, *answer, error) {
	ctx, cancel := r.limited()
	defer cancel()
	a, err := r.ask(ctx, http.MethodGet, wellKnown, nil, "")
	if err != nil {
		return nil, a, err
	}
	if p := a.problem(); p != nil {
		return nil, a, p
	}
	d := new(document)
	if a.status != http.StatusOK || json.Unmarshal(a.body, d) != nil || d.Version == "" {
		return nil, a, fmt.Errorf("HTTP %d, %s", a.status, clean(a.header.Get("Content-Type")))
	}
	return d, a, nil
}

// checkGateway asks for the well-known document, and by its answer looks at the clock.
func (r *run) checkGateway() {
	if r.skip(StepGateway, StepName, StepProxy, StepTCP, StepTLS) {
		r.skip(StepClock, StepGateway)
		return
	}
	d, a, err := r.fetch()
	result := Result{Step: StepGateway, Status: Failed, Cause: Network, Host: r.host, Port: r.port}
	switch p, refused := err.(*schemas.Problem); {
	case refused && p.Name == schemas.ErrMisdirected.Name:
		result.Detail = fmt.Sprintf("there is a gateway, but it serves nothing under the name %s", r.host)
		result.Tell = "check the host name; else tell whoever runs the gateway to add it to hosts in its config, or a proxy before it to pass the header Host on"
	case refused:
		result.Detail = "the gateway refuses to say what it is: " + clean(p.Error())
		result.Tell = "tell whoever runs the gateway"
	case err != nil && a != nil && a.status != 0:
		result.Detail = fmt.Sprintf("what answers at %s is no gateway, or somebody answers in its place: %s gets %v", r.address(r.port), wellKnown, err)
		result.Tell = "check the address; else ask the firewall's owner whether a portal or a proxy answers for it"
	case err != nil:
		result.Detail = "a request fails: " + network(err)
		result.Tell = fmt.Sprintf("tell the firewall's owner to let HTTPS to %s pass as it is", r.address(r.port))
	default:
		result.Status, result.Cause = OK, 0
		result.Milliseconds = milliseconds(a.answered.Sub(a.asked))
		result.Detail = "outrelay " + clean(d.Version) + " answers"
		for _, p := range d.Ports {
			if p != r.port && p > 0 && p <= math.MaxUint16 && len(r.ports) < mostPorts && !slices.Contains(r.ports, p) {
				r.ports = append(r.ports, p)
			}
		}
	}
	r.say(result)
	if err == nil || a != nil && a.problem() != nil { // then it is the gateway's clock
		r.clock(a)
	} else {
		r.skip(StepClock, StepGateway)
	}
}

// mostPorts is how many ports of a document are tried.
const mostPorts = 8

const (
	// tokenClock is what the gateway forgives a clock (gateway/access: the leeway of
	// nbf); what is beyond may cost a token.
	tokenClock = 5 * time.Second
	// wrongClock is what no token should be made or used with.
	wrongClock = time.Minute
)

// clock compares the header Date with this machine's clock.
func (r *run) clock(a *answer) {
	result := Result{Step: StepClock}
	defer func() { r.say(result) }()
	date, err := http.ParseTime(a.header.Get("Date"))
	if err != nil {
		result.Status, result.Detail = Skipped, "not done, because the answer has no Date"
		return
	}
	middle := a.asked.Add(a.answered.Sub(a.asked) / 2)
	r.skew = middle.Sub(date.Add(500 * time.Millisecond)) // Date leaves fractions out
	seconds := math.Round(r.skew.Seconds()) + 0           // and no -0
	result.Skew = &seconds
	switch far := r.skew.Abs(); {
	case far > wrongClock:
		result.Status, result.Cause = Failed, Access
	case far > tokenClock+time.Second:
		result.Status = Warning
	default:
		result.Status, result.Detail = OK, "this machine's clock agrees with the gateway's"
		return
	}
	result.Detail = fmt.Sprintf("this machine's clock is %s; tokens depend on it, and may be refused or expire too early", apart(r.skew))
	result.Tell = "set this machine's clock right, with NTP (UDP port 123 to a time server, if the firewall's owner allows it); if it is right, tell whoever runs the gateway"
}

// apart is how far this machine's clock is ahead, in words.
func apart(d time.Duration) string {
	if d < 0 {
		return fmt.Sprintf("%v behind the gateway's", (-d).Round(time.Second))
	}
	return fmt.Sprintf("%v ahead of the gateway's", d.Round(time.Second))
}
