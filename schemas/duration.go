package schemas

import (
	"strings"
	"time"
)

// ParseDuration reads a duration of the contract: whole or decimal numbers with the
// units h, m, s, ms, us and ns, such as "30s", "1m30s" or "720h"; "0" needs none. The
// error is a [Problem] of name "parameter"; what says where it stood.
func ParseDuration(what, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || s[0] == '+' || s[0] == '-' || strings.Contains(s, "µ") || strings.Contains(s, "μ") {
		return 0, Problemf("parameter", "The %s is a duration such as \"30s\", \"1m30s\" or \"720h\".", what)
	}
	return d, nil
}

// FormatDuration writes a duration as [ParseDuration] takes it, without parts that
// are zero: "30s", "1h30m", "720h".
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-len("0s")]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-len("0m")]
	}
	return strings.Replace(s, "µ", "u", 1)
}
