package relay

import "encoding/json"

// A control is a JSON message of a listener. Members that it does not have are nil.
type control struct {
	RenewToken *renewToken     `json:"renewToken"`
	Response   json.RawMessage `json:"response"` // see [parseResponse]
}

type renewToken struct {
	Token string `json:"token"`
}

// parseControl reads a message of a listener; false if it is none that we know.
func parseControl(text []byte) (c control, ok bool) {
	if json.Unmarshal(text, &c) != nil {
		return control{}, false
	}
	return c, c.RenewToken != nil || c.Response != nil
}
