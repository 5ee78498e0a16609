package subscriber

import "time"

// Hurry shortens the waits between c's attempts, for tests with real sockets.
func Hurry(c *Client) {
	c.backoff = backoff{base: time.Millisecond, cap: 50 * time.Millisecond}
}
