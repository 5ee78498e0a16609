package schemas_test

import (
	"testing"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// The signatures were computed with openssl dgst -sha256 -hmac over sr, a line
// feed and se.
func TestSignSAS(t *testing.T) {
	expires := time.Unix(1900000000, 999)
	tests := []struct{ name, resource, key, secret, want string }{
		{
			"whole namespace", "https://relay.example/", "Root", "c2VjcmV0LWtleS10ZXh0LTAwMDE=",
			"SharedAccessSignature sr=https%3A%2F%2Frelay.example%2F&sig=DvEkOLRVIKnyBAzIQnZNypU28%2BZRSHZqxR6oENmRrpU%3D&se=1900000000&skn=Root",
		},
		{
			"key name with a blank", "http://relay.example:443/hc one", "send only", "c2VjcmV0LWtleS10ZXh0LTAwMDE=",
			"SharedAccessSignature sr=http%3A%2F%2Frelay.example%3A443%2Fhc%20one&sig=UUzyCUEHSZ%2FeBmW7O1BmwJgcinOSvZKAwtpqb057X7c%3D&se=1900000000&skn=send%20only",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := schemas.SignSAS(tt.resource, tt.key, tt.secret, expires); got != tt.want {
				t.Errorf("SignSAS(%q) = %q, want %q", tt.resource, got, tt.want)
			}
		})
	}
}
