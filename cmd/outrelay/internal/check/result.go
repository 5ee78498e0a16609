package check

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Status is how a step ended.
type Status string

// The statuses.
const (
	OK      Status = "ok"
	Warning Status = "warning" // it works, and somebody should look at it
	Failed  Status = "failed"
	Skipped Status = "skipped" // it could not be done; the detail says why
)

// A Cause is where a failure lies.
type Cause uint8

// The causes.
const (
	Network Cause = iota + 1
	Access        // the proxy's password, the token or its rights, or the clock that tokens depend on
)

// The steps, in the order in which they are done.
const (
	StepName       = "name"
	StepProxy      = "proxy"
	StepTCP        = "tcp"
	StepTLS        = "tls"
	StepGateway    = "gateway"
	StepClock      = "clock"
	StepWebSocket  = "websocket"
	StepPing       = "ping"
	StepThroughput = "throughput"
	StepRights     = "rights"
)

// A Result is what one step found. All text in it is printable, whoever it came from.
type Result struct {
	Step   string `json:"step"`
	Status Status `json:"status"`
	// Detail is what was found, in a sentence.
	Detail string `json:"detail"`
	// Tell is whom to tell what, where the step did not end well.
	Tell string `json:"tell,omitempty"`

	Host      string     `json:"host,omitempty"`
	Port      int        `json:"port,omitempty"`
	Addresses []string   `json:"addresses,omitempty"`
	Proxy     string     `json:"proxy,omitempty"` // host and port
	Issuer    string     `json:"issuer,omitempty"`
	Expires   *time.Time `json:"expires,omitempty"` // of the certificate, or the token
	// Milliseconds is how long a connection or a round trip took.
	Milliseconds float64 `json:"milliseconds,omitempty"`
	// Up and Down are in bytes a second.
	Up   int64 `json:"up,omitempty"`
	Down int64 `json:"down,omitempty"`
	// Skew is by how many seconds this machine's clock is ahead of the gateway's.
	Skew   *float64 `json:"skewseconds,omitempty"`
	Rights []Right  `json:"rights,omitempty"`

	// Cause is where the failure lies; 0 for what is none.
	Cause Cause `json:"-"`
}

// A Right is what was asked about, and the answer.
type Right struct {
	Action  string `json:"action"` // publish, subscribe, subscription, listen, send, manage
	Object  string `json:"object,omitempty"`
	Allowed bool   `json:"allowed"`
}

// String is the result as a line for people.
func (r Result) String() string {
	line := fmt.Sprintf("%-8s %-11s %s.", r.Status, r.Step, r.Detail)
	if r.Tell != "" {
		first, size := utf8.DecodeRuneInString(r.Tell)
		line += " " + string(unicode.ToUpper(first)) + r.Tell[size:] + "."
	}
	return line
}

// clean is a stranger's text, fit for one line: printable, and not too long.
func clean(s string) string {
	const most = 200
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	if r := []rune(s); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return s
}
