package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A Duration is written with units, such as 168h or 1m30s.
type Duration time.Duration

func (d *Duration) parse(s string) error {
	v, err := time.ParseDuration(s)
	if err == nil {
		*d = Duration(v)
		return nil
	}
	if number, ok := strings.CutSuffix(s, "d"); ok {
		if days, err := strconv.ParseUint(number, 10, 16); err == nil {
			return fmt.Errorf("%q: days are not read; write %dh", s, days*24)
		}
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return fmt.Errorf("%q has no unit; write %ss for seconds, %sm for minutes or %sh for hours", s, s, s, s)
	}
	return fmt.Errorf("%q is no duration; write numbers with h, m, s or ms, such as 168h or 1m30s", s)
}

// String is the duration without parts that are zero: 168h, not 168h0m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// A Size is a number of bytes, written with a unit such as 10GiB, or without one.
type Size int64

// units from the largest; each is 1024 of the next.
var units = []struct {
	name string
	size int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

func (z *Size) parse(s string) error {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || '9' < r })
	if end < 0 {
		end = len(s)
	}
	number, unit := s[:end], strings.TrimSpace(s[end:])
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return fmt.Errorf("%q is no size; write a whole number with KiB, MiB or GiB, such as 10GiB", s)
	}
	for _, u := range units {
		switch {
		case unit == u.name || unit == "" && u.name == "B":
			if n > math.MaxInt64/u.size {
				return fmt.Errorf("%q is more than can be counted; write less", s)
			}
			*z = Size(n * u.size)
			return nil
		case unit != "" && strings.EqualFold(unit[:1], u.name[:1]) && u.name != "B":
			return fmt.Errorf("%q has a unit that is not read; write %s%s, which is in steps of 1024", s, number, u.name)
		}
	}
	return fmt.Errorf("%q has a unit that is not read; write B, KiB, MiB, GiB or TiB", s)
}

// String is the size in the largest unit that divides it.
func (z Size) String() string {
	for _, u := range units {
		if z != 0 && int64(z)%u.size == 0 {
			return fmt.Sprintf("%d%s", int64(z)/u.size, u.name)
		}
	}
	return "0B"
}
