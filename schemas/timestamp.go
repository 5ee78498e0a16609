package schemas

import (
	"errors"
	"time"
)

var errTimestamp = errors.New("no RFC 3339 timestamp")

// ParseTimestamp reads an RFC 3339 timestamp: any offset, a fraction of any
// length, lower-case t and z, and the leap second, which is the last one of a day
// in UTC and counts as the next one. Of the fraction it keeps nanoseconds.
func ParseTimestamp(s string) (time.Time, error) {
	number := func(from, to int) (n int) {
		if to > len(s) {
			return -1
		}
		for _, c := range []byte(s[from:to]) {
			if c < '0' || c > '9' {
				return -1
			}
			n = n*10 + int(c-'0')
		}
		return n
	}
	if len(s) < len("2006-01-02T15:04:05Z") || s[4] != '-' || s[7] != '-' || s[10]|0x20 != 't' || s[13] != ':' || s[16] != ':' {
		return time.Time{}, errTimestamp
	}
	year, month, day := number(0, 4), number(5, 7), number(8, 10)
	hour, minute, second := number(11, 13), number(14, 16), number(17, 19)
	if year < 0 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) ||
		hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60 {
		return time.Time{}, errTimestamp
	}
	i, nanos := 19, 0
	if s[i] == '.' {
		i++
		start, unit := i, 100_000_000
		for ; i < len(s) && '0' <= s[i] && s[i] <= '9'; i++ {
			nanos += int(s[i]-'0') * unit
			unit /= 10
		}
		if i == start {
			return time.Time{}, errTimestamp
		}
	}
	offset := 0
	switch rest := s[i:]; {
	case len(rest) == 1 && rest[0]|0x20 == 'z':
	case len(rest) == 6 && (rest[0] == '+' || rest[0] == '-') && rest[3] == ':':
		h, m := number(i+1, i+3), number(i+4, i+6)
		if h < 0 || h > 23 || m < 0 || m > 59 {
			return time.Time{}, errTimestamp
		}
		offset = h*3600 + m*60
		if rest[0] == '-' {
			offset = -offset
		}
	default:
		return time.Time{}, errTimestamp
	}
	const day24 = 24 * 3600
	if second == 60 && ((hour*60+minute)*60-offset+day24)%day24 != day24-60 {
		return time.Time{}, errTimestamp
	}
	return time.Date(year, time.Month(month), day, hour, minute, second-offset, nanos, time.UTC), nil
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}
