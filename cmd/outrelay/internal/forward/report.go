package forward

import "time"

// A Report is what became of a request or a stream.
type Report struct {
	// Kind is "request" or "stream".
	Kind string `json:"kind"`
	// Name is the hybrid connection's.
	Name string `json:"name"`
	// From is where it came from: an address.
	From string `json:"from,omitempty"`
	// Method, Path and Status are a request's; the status is 101 for a WebSocket.
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
	Status int    `json:"status,omitempty"`
	// Received is how many bytes came over the relay, and Sent how many went. Of a
	// request, its body and the answer's.
	Received int64 `json:"received"`
	Sent     int64 `json:"sent"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`
	// Error is why it ended badly.
	Error string `json:"error,omitempty"`
}

// since is a duration in the unit of a report, to a tenth of a millisecond.
func since(began time.Time) float64 {
	return float64(time.Since(began).Round(100*time.Microsecond)) / float64(time.Second)
}
