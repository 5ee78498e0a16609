package schemas

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// ProblemBase begins the type of every problem; its name follows.
const ProblemBase = "https://outrelay.dev/problems/"

// A Problem is an error as it crosses the wire: RFC 9457 problem details
// (protocol section 4). Name decides the status and the title.
//
// Compare with [errors.Is] against one of the Err variables: two problems of one
// name are the same error.
type Problem struct {
	// Name is the last part of the type, such as "event".
	Name string
	// Detail says what is wrong and what to do about it.
	Detail string
	// Index is the place of the offending event in a batch, from 0; nil outside one.
	Index *int
	// Attribute is the context attribute at fault, if one is.
	Attribute string
	// EventID is the id of the event that a stream's notice rejects.
	EventID string
	// RetryAfter is when to try again, for rate, draining and storage. Zero: not said.
	RetryAfter time.Duration

	// as received, of a name that is not in the table
	status int
	title  string
}

// One for each name of the contract, to compare with.
var (
	ErrName            = &Problem{Name: "name"}
	ErrEvent           = &Problem{Name: "event"}
	ErrFilter          = &Problem{Name: "filter"}
	ErrParameter       = &Problem{Name: "parameter"}
	ErrCursor          = &Problem{Name: "cursor"}
	ErrUnauthorized    = &Problem{Name: "unauthorized"}
	ErrForbidden       = &Problem{Name: "forbidden"}
	ErrNotFound        = &Problem{Name: "not-found"}
	ErrNoListener      = &Problem{Name: "no-listener"}
	ErrMethod          = &Problem{Name: "method"}
	ErrNotAcceptable   = &Problem{Name: "not-acceptable"}
	ErrConflict        = &Problem{Name: "conflict"}
	ErrTooLarge        = &Problem{Name: "too-large"}
	ErrMediaType       = &Problem{Name: "media-type"}
	ErrMisdirected     = &Problem{Name: "misdirected"}
	ErrUpgrade         = &Problem{Name: "upgrade"}
	ErrRate            = &Problem{Name: "rate"}
	ErrDraining        = &Problem{Name: "draining"}
	ErrStorage         = &Problem{Name: "storage"}
	ErrListenerTimeout = &Problem{Name: "listener-timeout"}
	ErrListenerFailed  = &Problem{Name: "listener-failed"}
	ErrInternal        = &Problem{Name: "internal"}
)

// problems is the one table from a problem's name to its HTTP status and title.
var problems = map[string]struct {
	status int
	title  string
}{
	"name":             {http.StatusBadRequest, "The name is outside its grammar"},
	"event":            {http.StatusBadRequest, "The event breaks a rule of CloudEvents"},
	"filter":           {http.StatusBadRequest, "The filter can't be used"},
	"parameter":        {http.StatusBadRequest, "A parameter is out of range"},
	"cursor":           {http.StatusBadRequest, "The cursor can't be used"},
	"unauthorized":     {http.StatusUnauthorized, "A valid token is needed"},
	"forbidden":        {http.StatusForbidden, "The token's rights do not cover this"},
	"not-found":        {http.StatusNotFound, "There is nothing here"},
	"no-listener":      {http.StatusNotFound, "No listener is connected"},
	"method":           {http.StatusMethodNotAllowed, "The method is not allowed here"},
	"not-acceptable":   {http.StatusNotAcceptable, "None of the accepted media types is offered"},
	"conflict":         {http.StatusConflict, "It exists already, and differs"},
	"too-large":        {http.StatusRequestEntityTooLarge, "A limit is exceeded"},
	"media-type":       {http.StatusUnsupportedMediaType, "The body is no CloudEvent"},
	"misdirected":      {http.StatusMisdirectedRequest, "This host name is not served here"},
	"upgrade":          {http.StatusUpgradeRequired, "This address speaks WebSocket"},
	"rate":             {http.StatusTooManyRequests, "Too many requests"},
	"draining":         {http.StatusServiceUnavailable, "The gateway is about to stop"},
	"storage":          {http.StatusServiceUnavailable, "The log can't take this now"},
	"listener-timeout": {http.StatusGatewayTimeout, "The listener did not answer in time"},
	"listener-failed":  {http.StatusBadGateway, "The listener's answer can't be used"},
	"internal":         {http.StatusInternalServerError, "The gateway failed"},
}

// Problemf makes a problem of a name of the table, with a detail.
func Problemf(name, format string, args ...any) *Problem {
	return &Problem{Name: name, Detail: fmt.Sprintf(format, args...)}
}

// Status is the HTTP status of the problem. For a name that is not in the table
// it is the one that was received with it, or 500.
func (p *Problem) Status() int {
	if e, ok := problems[p.Name]; ok {
		return e.status
	}
	return cmp.Or(p.status, http.StatusInternalServerError)
}

// Title is the problem's name in words.
func (p *Problem) Title() string {
	if e, ok := problems[p.Name]; ok {
		return e.title
	}
	return cmp.Or(p.title, p.Name)
}

// Error is the title and the detail.
func (p *Problem) Error() string {
	switch {
	case p.Detail == "":
		return p.Title()
	case p.Index != nil:
		return fmt.Sprintf("%s: event %d: %s", p.Title(), *p.Index, p.Detail)
	}
	return p.Title() + ": " + p.Detail
}

// Is says whether target is a problem of the same name.
func (p *Problem) Is(target error) bool {
	t, ok := target.(*Problem)
	return ok && t.Name == p.Name
}

// At returns a copy of p that names the place of the event in its batch.
func (p *Problem) At(index int) *Problem {
	c := *p
	c.Index = &index
	return &c
}

// problemJSON is the wire form; the order of fields is that of RFC 9457 section 3.1.
type problemJSON struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	Index     *int   `json:"index,omitempty"`
	Attribute string `json:"attribute,omitempty"`
	EventID   string `json:"eventid,omitempty"`
}

// MarshalJSON writes the problem details. RetryAfter is a header, not a member.
func (p *Problem) MarshalJSON() ([]byte, error) {
	kind := p.Name
	if _, ok := problems[p.Name]; ok || !strings.Contains(p.Name, ":") {
		kind = ProblemBase + p.Name
	}
	return json.Marshal(problemJSON{
		kind, p.Title(), p.Status(), p.Detail, p.Index, p.Attribute, p.EventID,
	})
}

// UnmarshalJSON reads problem details. A type that is not the contract's keeps
// its whole address as Name, "about:blank" where there is none. A member of the
// wrong type counts as missing (RFC 9457 section 3.1).
func (p *Problem) UnmarshalJSON(b []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return err
	}
	q := Problem{
		Detail:    member[string](members, "detail"),
		Index:     member[*int](members, "index"),
		Attribute: member[string](members, "attribute"),
		EventID:   member[string](members, "eventid"),
	}
	kind := cmp.Or(member[string](members, "type"), "about:blank")
	q.Name = kind
	if name, ok := strings.CutPrefix(kind, ProblemBase); ok && name != "" {
		q.Name = name
	}
	if _, ok := problems[q.Name]; !ok {
		q.status, q.title = member[int](members, "status"), member[string](members, "title")
	}
	*p = q
	return nil
}

// member reads one member, zero if it is missing or of another type.
func member[T any](members map[string]json.RawMessage, name string) (v T) {
	if err := json.Unmarshal(members[name], &v); err != nil {
		return *new(T)
	}
	return v
}
