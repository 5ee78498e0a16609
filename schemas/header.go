package schemas

import "strings"

// decodeHeader undoes the encoding of a header value (HTTP binding 1.0.2, section
// 3.1.3.2): optional blanks, then double-quoted parts, then one round of
// percent-decoding. A quote that is not closed stays itself, as a "%" that begins
// no escape does. The result may be no UTF-8.
func decodeHeader(s string) string {
	s = strings.Trim(s, " \t")
	if strings.Contains(s, `"`) {
		s = unquoteParts(s)
	}
	if strings.Contains(s, "%") {
		s = percentDecode(s)
	}
	return s
}

func unquoteParts(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '"' {
			out = append(out, s[i])
			continue
		}
		part, end := out, -1
		for j := i + 1; j < len(s); j++ {
			if s[j] == '"' {
				end = j
				break
			}
			if s[j] == '\\' && j+1 < len(s) {
				j++
			}
			part = append(part, s[j])
		}
		if end < 0 {
			return string(append(out, s[i:]...))
		}
		out, i = part, end
	}
	return string(out)
}

func percentDecode(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi < 16 && lo < 16 {
				out = append(out, hi<<4|lo)
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

// EncodeHeader encodes an attribute's value for a header: what is not printable
// ASCII, and blank, quote and percent, as the escapes of its UTF-8 bytes.
func EncodeHeader(s string) string {
	const hex = "0123456789ABCDEF"
	var out []byte
	for i := range len(s) {
		c := s[i]
		if c > 0x20 && c < 0x7F && c != '"' && c != '%' {
			if out != nil {
				out = append(out, c)
			}
			continue
		}
		if out == nil {
			out = append(make([]byte, 0, len(s)+8), s[:i]...)
		}
		out = append(out, '%', hex[c>>4], hex[c&15])
	}
	if out == nil {
		return s
	}
	return string(out)
}
