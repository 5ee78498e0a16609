package relay

import "encoding/json"

// A control is a JSON message of a listener. Members that it does not have are nil.
type control struct {
	RenewToken *renewToken `json:"renewToken"`
	Response   *response   `json:"response"`
}

type renewToken struct {
	Token string `json:"token"`
}

// A response is the answer to an HTTP request, as the listener has put it.
type response struct {
	RequestID         string          `json:"requestId"`
	StatusCode        json.RawMessage `json:"statusCode"`
	StatusDescription *string         `json:"statusDescription"`
	ResponseHeaders   map[string]any  `json:"responseHeaders"`
	Body              bool            `json:"body"`
}

// parseControl reads a message of a listener; false if it is none that we know.
func parseControl(text []byte) (c control, ok bool) {
	if json.Unmarshal(text, &c) != nil {
		return control{}, false
	}
	return c, c.RenewToken != nil || c.Response != nil
}
