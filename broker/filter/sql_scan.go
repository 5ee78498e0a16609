package filter

import (
	"strings"
	"unicode/utf8"
)

// kind is what a token of an SQL expression is.
type kind uint8

const (
	end     kind = iota
	word         // an attribute, a function or a keyword
	digits       // a number without its sign
	literal      // a text in quotes
	symbol
)

// A token is a piece of an SQL expression.
type token struct {
	kind kind
	// text is what stands there; of a keyword the upper-case form.
	text string
	// at and to are the bytes of the expression where it begins and ends.
	at, to int
}

var keywords = map[string]bool{
	"AND": true, "OR": true, "XOR": true, "NOT": true,
	"LIKE": true, "EXISTS": true, "IN": true, "TRUE": true, "FALSE": true,
}

// scan breaks an SQL expression into tokens, the last of kind end.
func scan(s string) ([]token, error) {
	tokens := make([]token, 0, len(s)/4+2)
	for i := 0; i < len(s); {
		c := s[i]
		t := token{at: i}
		switch {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			i++
			continue
		case wordByte(c):
			t.kind = digits
			for ; i < len(s) && wordByte(s[i]); i++ {
				if s[i] < '0' || s[i] > '9' {
					t.kind = word
				}
			}
			t.text = s[t.at:i]
			if upper := strings.ToUpper(t.text); keywords[upper] {
				t.kind, t.text = symbol, upper
			}
		case c == '\'' || c == '"':
			var err error
			if i, err = quoted(s, i); err != nil {
				return nil, err
			}
			t.kind, t.text = literal, s[t.at:i]
		case strings.IndexByte("(),*/%+-=", c) >= 0:
			i++
			t.kind, t.text = symbol, s[t.at:i]
		case c == '<' || c == '>' || c == '!':
			i++
			if i < len(s) && (s[i] == '=' || c == '<' && s[i] == '>') {
				i++
			}
			if t.kind, t.text = symbol, s[t.at:i]; t.text == "!" {
				return nil, wrong(s, t.at, `"!" is no operator; write NOT, or != between two values`)
			}
		default:
			r, _ := utf8.DecodeRuneInString(s[i:])
			return nil, wrong(s, i, "the character %q has no meaning here; texts stand in quotes", r)
		}
		t.to = i
		tokens = append(tokens, t)
	}
	return append(tokens, token{kind: end, at: len(s), to: len(s)}), nil
}

func wordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
}

// quoted returns where the text ends that begins at i with its quote. A backslash
// keeps the next character from ending it.
func quoted(s string, i int) (int, error) {
	for j := i + 1; j < len(s); j++ {
		switch s[j] {
		case '\\':
			j++
		case s[i]:
			if j+1 < len(s) && s[j+1] == s[i] {
				return 0, wrong(s, j, `a quote in a text is written \%c, not twice`, s[i])
			}
			return j + 1, nil
		}
	}
	return 0, wrong(s, i, "the text that begins here has no closing quote")
}

// unquote is the value of a literal: of the escapes only the one of its own quote
// means another text.
func unquote(text string) string {
	quote := text[:1]
	return strings.ReplaceAll(text[1:len(text)-1], `\`+quote, quote)
}

// wrong is the problem of the expression s at the byte i.
func wrong(s string, i int, format string, args ...any) error {
	p := problemf(format, args...)
	near := ""
	if rest := s[i:]; rest != "" {
		if len(rest) > 16 {
			rest = rest[:16] + "..."
		}
		near = problemf(" (%q)", strings.ToValidUTF8(rest, "")).Detail
	}
	return problemf("The SQL expression is wrong at character %d%s: %s.", utf8.RuneCountInString(s[:i])+1, near, p.Detail)
}
