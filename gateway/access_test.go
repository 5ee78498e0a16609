package gateway_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"time"
)

const testKey = "dGVzdC1rZXktb2YtdGhlLWdhdGV3YXktMDAwMDE="

// signature is a shared access signature of testKey's for a resource.
func signature(resource string, life time.Duration) string {
	sr := url.QueryEscape(resource)
	expires := fmt.Sprint(time.Now().Add(life).Unix())
	mac := hmac.New(sha256.New, []byte(testKey))
	mac.Write([]byte(sr + "\n" + expires))
	sig := url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return "SharedAccessSignature sr=" + sr + "&sig=" + sig + "&se=" + expires + "&skn=Root"
}

func base64URL(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
