package schemas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// SignSAS makes a shared access signature, the token that the holder of a shared
// key writes without asking anyone (protocol section 7): the value of an
// Authorization or ServiceBusAuthorization header, or of sb-hc-token once escaped.
//
// The resource is an address, of which scheme and port count for nothing:
// "https://HOST/" is for the whole namespace, "https://HOST/topics/orders" for that
// topic and those below it, "https://HOST/printer" for that hybrid connection.
// The token holds until expires, in whole seconds.
func SignSAS(resource, keyName, key string, expires time.Time) string {
	sr := escapeSAS(resource)
	se := strconv.FormatInt(expires.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(sr + "\n" + se))
	sig := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return "SharedAccessSignature sr=" + sr + "&sig=" + escapeSAS(sig) + "&se=" + se + "&skn=" + escapeSAS(keyName)
}

// escapeSAS percent-encodes all but unreserved characters. A blank is %20 for
// verifiers that do not take "+" for one.
func escapeSAS(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}
