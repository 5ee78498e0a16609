package schemas_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/outrelay/outrelay/schemas"
)

type valuesFile struct {
	About         string
	URIReferences []valueCase
	URIs          []valueCase
	Timestamps    []struct {
		valueCase
		Seconds int64
		Nanos   int
	}
	MediaTypes []struct {
		valueCase
		JSON, Textual bool
	}
}

// withAttribute is an event of which one attribute is s, in structured mode.
func withAttribute(name, s string) (*schemas.Event, error) {
	members := map[string]string{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", name: s}
	b, _ := json.Marshal(members)
	return schemas.ParseEvent(b)
}

func checkValue(t *testing.T, name string, c valueCase) {
	t.Helper()
	e, err := withAttribute(name, c.Text)
	if !c.OK {
		checkProblem(t, err, &wantProblem{Name: "event", Attribute: name})
		return
	}
	if err != nil {
		t.Fatalf("%q is refused: %v", c.Text, err)
	}
	if a, _ := e.Attribute(name); a.Value != c.Text {
		t.Errorf("%q became %q", c.Text, a.Value)
	}
	checkEvent(t, e)
}

func TestURIReferences(t *testing.T) {
	each(t, load[valuesFile](t, "values.json").URIReferences, func(t *testing.T, c valueCase) {
		checkValue(t, "source", c)
		if got := referenceModel.MatchString(c.Text); got != c.OK {
			t.Errorf("the grammar of RFC 3986 takes %q: %t, want %t", c.Text, got, c.OK)
		}
	})
}

func TestURIs(t *testing.T) {
	each(t, load[valuesFile](t, "values.json").URIs, func(t *testing.T, c valueCase) {
		checkValue(t, "dataschema", c)
		if got := uriModel.MatchString(c.Text); got != c.OK {
			t.Errorf("the grammar of RFC 3986 takes %q: %t, want %t", c.Text, got, c.OK)
		}
	})
}

func TestTimestamps(t *testing.T) {
	for i, c := range load[valuesFile](t, "values.json").Timestamps {
		at, err := schemas.ParseTimestamp(c.Text)
		if (err == nil) != c.OK {
			t.Errorf("case %d: ParseTimestamp(%q): %v, want it to pass: %t (%s)", i, c.Text, err, c.OK, c.Why)
		}
		if want := time.Unix(c.Seconds, int64(c.Nanos)); c.OK && !at.Equal(want) {
			t.Errorf("case %d: ParseTimestamp(%q) = %v, want %v", i, c.Text, at, want.UTC())
		}
		if instant, ok := timestampModel(c.Text); ok != c.OK || ok && !instant.Equal(at) {
			t.Errorf("case %d: the model takes %q: %t as %v, want %t, %v", i, c.Text, ok, instant, c.OK, at)
		}
		checkValue(t, "time", c.valueCase)
		checkValue(t, "expirytime", c.valueCase)
	}
}

func TestMediaTypes(t *testing.T) {
	for i, c := range load[valuesFile](t, "values.json").MediaTypes {
		checkValue(t, "datacontenttype", c.valueCase)
		if got := mediaTypeModel.MatchString(c.Text); got != c.OK {
			t.Errorf("case %d: the grammar takes %q: %t, want %t", i, c.Text, got, c.OK)
		}
		if !c.OK {
			continue
		}
		// how the body 1 comes out tells what the type is taken for
		e, err := schemas.ParseBinary(http.Header{
			"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"}, "Content-Type": {c.Text},
		}, []byte("1"))
		if err != nil {
			t.Errorf("case %d: %q is refused in binary mode: %v", i, c.Text, err)
			continue
		}
		want := `,"data_base64":"MQ=="}`
		switch {
		case c.JSON:
			want = `,"data":1}`
		case c.Textual:
			want = `,"data":"1"}`
		}
		if !bytes.HasSuffix(e.JSON(), []byte(want)) {
			t.Errorf("case %d: the body 1 of type %q is %s, want %s", i, c.Text, e.JSON(), want)
		}
	}
}

type headersFile struct {
	About  string
	Encode []struct {
		source
		Value, Header string
	}
	Decode []struct {
		source
		Header string
		Value  *string
	}
}

// withHeader is an event of which the extension ext is a header, in binary mode.
func withHeader(value string) (*schemas.Event, error) {
	return schemas.ParseBinary(http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"}, "Ce-Ext": {value},
	}, nil)
}

func TestHeaderValues(t *testing.T) {
	file := load[headersFile](t, "headers.json")
	if len(file.Encode) == 0 || len(file.Decode) == 0 {
		t.Fatal("headers.json is empty")
	}
	for _, c := range file.Encode {
		if got := schemas.EncodeHeader(c.Value); got != c.Header {
			t.Errorf("EncodeHeader(%q) = %q, want %q (%s)", c.Value, got, c.Header, c.Why)
		}
	}
	for _, c := range file.Decode {
		e, err := withHeader(c.Header)
		if c.Value == nil {
			checkProblem(t, err, &wantProblem{Name: "event", Attribute: "ext"})
			continue
		}
		if err != nil {
			t.Errorf("the header %q is refused: %v (%s)", c.Header, err, c.Why)
			continue
		}
		if a, _ := e.Attribute("ext"); a.Value != *c.Value {
			t.Errorf("the header %q is %q, want %q (%s)", c.Header, a.Value, *c.Value, c.Why)
		}
	}
}

// Every character of the basic plane is allowed or not as the specification says, in both
// modes, and comes back from a header as it went in.
func TestEveryCharacter(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		// of the higher planes, where only the ends differ, the ends and some
		if !utf8.ValidRune(r) || r > 0x11000 && r&0xFFFF < 0xFFF0 && r%61 != 0 {
			continue
		}
		s := "a" + string(r) + "b"
		want := !unicode.Is(unicode.Cc, r) && !unicode.Is(unicode.Noncharacter_Code_Point, r)
		e, err := withHeader(schemas.EncodeHeader(s))
		if (err == nil) != want {
			t.Errorf("U+%04X in a header: %v, want it to pass: %t", r, err, want)
			continue
		}
		structured, err := withAttribute("ext", s)
		if (err == nil) != want {
			t.Errorf("U+%04X in structured mode: %v, want it to pass: %t", r, err, want)
			continue
		}
		if want && !bytes.Equal(e.JSON(), structured.JSON()) {
			t.Errorf("U+%04X: %s in binary mode, %s in structured mode", r, e.JSON(), structured.JSON())
		}
	}
}

// The models below are the grammars as regular expressions, written without a look
// at the code that they judge.

func group(alternatives ...string) string { return `(?:` + strings.Join(alternatives, `|`) + `)` }

// RFC 3986, appendix A.
var referenceModel, uriModel = func() (*regexp.Regexp, *regexp.Regexp) {
	const unreserved, subDelims = `A-Za-z0-9\-._~`, `!$&'()*+,;=`
	const escape = `%[0-9A-Fa-f]{2}`
	pchar := group(`[`+unreserved+subDelims+`:@]`, escape)
	h16, octet := `[0-9A-Fa-f]{1,4}`, group(`25[0-5]`, `2[0-4][0-9]`, `1[0-9]{2}`, `[1-9]?[0-9]`)
	v4 := octet + `(?:\.` + octet + `){3}`
	ls32 := group(h16+`:`+h16, v4)
	front := func(most string) string { return `(?:(?:` + h16 + `:){0,` + most + `}` + h16 + `)?::` }
	v6 := group(
		`(?:`+h16+`:){6}`+ls32,
		`::(?:`+h16+`:){5}`+ls32,
		`(?:`+h16+`)?::(?:`+h16+`:){4}`+ls32,
		front("1")+`(?:`+h16+`:){3}`+ls32,
		front("2")+`(?:`+h16+`:){2}`+ls32,
		front("3")+h16+`:`+ls32,
		front("4")+ls32,
		front("5")+h16,
		front("6"),
	)
	future := `[vV][0-9A-Fa-f]+\.[` + unreserved + subDelims + `:]+`
	host := group(`\[`+group(v6, future)+`\]`, group(`[`+unreserved+subDelims+`]`, escape)+`*`)
	authority := `(?:` + group(`[`+unreserved+subDelims+`:]`, escape) + `*@)?` + host + `(?::[0-9]*)?`
	abEmpty := `(?:/` + pchar + `*)*`
	absolute := `/(?:` + pchar + `+` + abEmpty + `)?`
	rootless := pchar + `+` + abEmpty
	noScheme := group(`[`+unreserved+subDelims+`@]`, escape) + `+` + abEmpty
	tail := `(?:\?` + group(pchar, `[/?]`) + `*)?(?:#` + group(pchar, `[/?]`) + `*)?`
	uri := `[A-Za-z][A-Za-z0-9+\-.]*:` + group(`//`+authority+abEmpty, absolute, rootless, ``) + tail
	relative := group(`//`+authority+abEmpty, absolute, noScheme, ``) + tail
	return regexp.MustCompile(`^` + group(uri, relative) + `$`), regexp.MustCompile(`^` + uri + `$`)
}()

// RFC 3339, section 5.6 and 5.7: the form as a regular expression, the calendar by
// way of the standard library, which knows no leap second.
var timestampForm = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$`)

func timestampModel(s string) (time.Time, bool) {
	const second = len("2026-01-31T12:00:")
	s = strings.NewReplacer("t", "T", "z", "Z").Replace(s)
	if !timestampForm.MatchString(s) {
		return time.Time{}, false
	}
	leap := s[second:second+2] == "60"
	if leap {
		s = s[:second] + "59" + s[second+2:]
	}
	var at time.Time
	if err := at.UnmarshalText([]byte(s)); err != nil {
		return time.Time{}, false
	}
	if leap {
		if at.UTC().Format("15:04") != "23:59" {
			return time.Time{}, false
		}
		at = at.Add(time.Second)
	}
	return at, true
}

// RFC 2046 with the semicolons of RFC 9110, section 5.6.6.
var mediaTypeModel = func() *regexp.Regexp {
	const token = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]+"
	parameter := token + `=` + group(token, `"`+group(`[^"\\\x80-\x{10FFFF}]`, `\\[\x00-\x7F]`)+`*"`)
	return regexp.MustCompile(`^` + token + `/` + token + `(?:[ \t]*;(?:[ \t]*` + parameter + `)?)*$`)
}()
