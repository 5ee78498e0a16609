package schemas_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/schemas"
)

// objectSeeds are JSON on both sides of each rule, as an object's only member.
var objectSeeds = func() (seeds []string) {
	for _, value := range []string{
		`""`, `"a"`, `"12345678"`, `"1234567\"12345678"`, `"\\"`, `"\"`, `"\u00e4\n\/\b\f\r\t\\\""`, `"\u00g0"`, `"\u00"`, `"\x"`,
		`"\ud83d\ude00"`, `"\ud83d"`, `"\ude00"`, `"\ud83d\ud83d"`, `"\ud83dx\ude00"`, `"\uD83D\uDE00"`, `"\ud83d\u"`,
		`"ä"`, `"日本語日本語"`, "\"\xff\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"\x7f\"", "\"1234567\x7f89\"", "\"\u0080\"", "\"\x00\"", "\"1234567\x1f\"", "\"\t\"",
		`0`, `-0`, `00`, `01`, `1`, `-`, `-1`, `+1`, `.5`, `0.`, `0.5`, `-12.50e+07`, `1e`, `1e+`, `1E9`, `1e-9`, `1.e1`, `0x1`, `1a`,
		`true`, `false`, `null`, `tru`, `truE`, `nulls`, `True`, `NaN`, `Infinity`,
		`[]`, `[1]`, `[1,]`, `[,1]`, `[1,2]`, `[1 2]`, `[`, `[1`, `[[[]]]`, `[}`, ` [ 1 , [ ] , { } ] `,
		`{}`, `{"a":1}`, `{"a":1,"a":2}`, `{"a":1,"b":{"a":1}}`, `{"a":{"b":1,"b":2}}`, `{"\u0061":1,"a":2}`, `{"\u0061":1}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{1:2}`, `{`, `{"a":1`, `{"ab":1,"ba":2}`,
		" {\r\n\t\"a\" : 1 , \"b\":[ ] } ", "{\v}", "{\u00a0}", ``, `x`, `"`, `"a`,
		strings.Repeat("[", 70) + strings.Repeat("]", 70), strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70),
	} {
		seeds = append(seeds, `{"event":`+value+`}`)
	}
	var many strings.Builder
	for i := range 70 {
		fmt.Fprintf(&many, `,"n%d":%d`, i, i)
	}
	return append(seeds, "{"+many.String()[1:]+"}", "{"+many.String()[1:]+`,"n3":0}`, `{"event":1}x`, `{"event":1} {}`, "\ufeff{}", ` `, `[{"event":1}]`, `"event"`,
		`{"op":"publish","id":"1","topic":"live/0","event":{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":[1,2]}}}`,
		`{"specversion":"1.0","id":"1","source":"/s","type":"t","event":{"event":{"event":1}},"data":"\u0061"}`)
}()

// FuzzObject: what an Object takes, the decoder of JSON takes as the same; what it doesn't,
// the decoder doesn't either, or it is beyond what an Object says that it takes. An event
// is the same event however it was read, or wrong for the same reason.
func FuzzObject(f *testing.F) {
	for _, s := range objectSeeds {
		f.Add([]byte(s))
	}
	for _, c := range load[structuredFile](f, "structured.json").Cases {
		if b := c.body(); len(b) <= maxSeed {
			f.Add(b)
		}
	}
	f.Add(typicalEvent)
	var o schemas.Object
	var arena schemas.Arena
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := bytes.Clone(b)
		took := o.Read(b, "event")
		object, valid := schemas.ReadObject(b)
		switch {
		case took && !valid:
			t.Fatalf("took %q", b)
		case !took && valid && simple(object):
			t.Fatalf("did not take %q", b)
		}
		if took {
			checkObject(t, &o, object)
		}

		e, err := schemas.ParseEvent(b)
		same, sameErr := schemas.ParseDecoding(b)
		checkSameEvent(t, b, e, same, err, sameErr)
		if within, _, ok := o.Within(); ok {
			arena.Reset()
			e, _, err := arena.ParseWithin(&o)
			same, sameErr := schemas.ParseDecoding(within)
			if err == nil || sameErr == nil || asProblem(t, err).Attribute != "" { // not of the whole
				checkSameEvent(t, within, e, same, err, sameErr)
			}
		}
		if !bytes.Equal(b, kept) {
			t.Fatalf("what was read is now %q", b)
		}
	})
}

// checkObject compares an Object with what the decoder read.
func checkObject(t *testing.T, o *schemas.Object, object jsontext.Value) {
	t.Helper()
	var members [][2]string
	for all := schemas.MembersOf(object); ; {
		name, value, ok := all.Next()
		if !ok {
			break
		}
		members = append(members, [2]string{string(name[1 : len(name)-1]), string(value)})
	}
	if o.Len() != len(members) {
		t.Fatalf("%d members of %q", o.Len(), object)
	}
	within := ""
	for i, m := range members {
		if name, value := o.Member(i); string(name) != m[0] || string(value) != m[1] {
			t.Fatalf("the member %q is %q: %q", m, name, value)
		}
		if m[0] == "event" && m[1][0] == '{' {
			within = m[1]
		}
	}
	found, inner, ok := o.Within()
	if ok != (within != "") || string(found) != within {
		t.Fatalf("within is %q: %q", within, found)
	}
	if !ok {
		return
	}
	i := 0
	for all := schemas.MembersOf(found); ; i++ {
		name, value, ok := all.Next()
		if !ok {
			break
		}
		if i == len(inner) || inner[i] != [2]string{string(name[1 : len(name)-1]), string(value)} {
			t.Fatalf("the members of %q are %q", found, inner)
		}
	}
	if i != len(inner) {
		t.Fatalf("the members of %q are %q", found, inner)
	}
}

func checkSameEvent(t *testing.T, b []byte, e, same *schemas.Event, err, sameErr error) {
	t.Helper()
	if !reflect.DeepEqual(err, sameErr) {
		t.Fatalf("%q is wrong with %v and with %v", b, err, sameErr)
	}
	if err == nil && !reflect.DeepEqual(e, same) {
		t.Fatalf("%q is %s and %s", b, e.JSON(), same.JSON())
	}
}

// simple says whether a valid JSON object is one that an Object takes.
func simple(object []byte) bool {
	d := jsontext.NewDecoder(bytes.NewReader(object))
	for {
		at := d.InputOffset()
		token, err := d.ReadToken()
		if errors.Is(err, io.EOF) {
			return true
		}
		kind, n := d.StackIndex(d.StackDepth())
		name := token.Kind() == '"' && kind == '{' && n%2 == 1
		if d.StackDepth() > 64 || kind == '{' && n > 2*64 || name && bytes.IndexByte(object[at:d.InputOffset()], '\\') >= 0 {
			return false
		}
	}
}

func TestObjectReadAgain(t *testing.T) {
	var o schemas.Object
	for _, s := range []string{`{"a":1,"event":{"x":1}}`, `{"event":{"x":1,"y":`, `{"b":2}`} {
		o.Read([]byte(s), "event")
	}
	if _, _, ok := o.Within(); ok || o.Len() != 1 {
		t.Errorf("something is left of what was read before: %d members", o.Len())
	}
	if name, value := o.Member(0); string(name) != "b" || string(value) != "2" {
		t.Errorf("the member is %q: %q", name, value)
	}
}
