package schemas_test

import (
	"math"
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

type cursorsFile struct {
	About string
	Good  []struct {
		source
		Text     string
		Log      uint64 `json:",string"`
		Sequence uint64 `json:",string"`
		Accepted int64  `json:",string"`
	}
	Bad []struct {
		source
		Text string
	}
}

var urlSafe = regexp.MustCompile(`^[A-Za-z0-9_.~-]{1,64}$`)

func TestCursorVectors(t *testing.T) {
	file := load[cursorsFile](t, "cursors.json")
	if len(file.Good) == 0 || len(file.Bad) == 0 {
		t.Fatal("cursors.json is empty")
	}
	for _, c := range file.Good {
		want := schemas.Cursor{Log: c.Log, Sequence: c.Sequence, Accepted: c.Accepted}
		got, err := schemas.ParseCursor(c.Text)
		if err != nil || got != want {
			t.Errorf("ParseCursor(%q) = %+v, %v, want %+v (%s)", c.Text, got, err, want, c.Why)
		}
		if s := want.String(); s != c.Text || !urlSafe.MatchString(s) {
			t.Errorf("%+v is %q, want %q", want, s, c.Text)
		}
		if !got.Time().Equal(time.Unix(0, c.Accepted)) {
			t.Errorf("Time() = %v", got.Time())
		}
	}
	for _, c := range file.Bad {
		got, err := schemas.ParseCursor(c.Text)
		if err == nil {
			t.Errorf("ParseCursor(%q) = %+v, want it refused (%s)", c.Text, got, c.Why)
			continue
		}
		checkProblem(t, err, &wantProblem{Name: "cursor"})
	}
}

func TestCursorRoundTrip(t *testing.T) {
	check := func(c schemas.Cursor) {
		t.Helper()
		s := c.String()
		if !urlSafe.MatchString(s) {
			t.Errorf("%+v is %q", c, s)
		}
		if got, err := schemas.ParseCursor(s); err != nil || got != c {
			t.Errorf("ParseCursor(%q) = %+v, %v, want %+v", s, got, err, c)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		check(schemas.Cursor{
			Log:      r.Uint64() >> r.IntN(64),
			Sequence: r.Uint64() >> r.IntN(64),
			Accepted: r.Int64() >> r.IntN(63),
		})
	}
	check(schemas.Cursor{})
	check(schemas.Cursor{Log: math.MaxUint64, Sequence: math.MaxUint64, Accepted: math.MaxInt64})
}

// A time before 1970 can't be one of acceptance; it is written as none.
func TestCursorBefore1970(t *testing.T) {
	if got, want := (schemas.Cursor{Log: 1, Accepted: -1}).String(), (schemas.Cursor{Log: 1}).String(); got != want {
		t.Errorf("the cursor is %q, want %q", got, want)
	}
}
