package gateway

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// The id of a notice is one that no other notice of any gateway has.
var (
	noticePrefix = func() string {
		var b [10]byte
		rand.Read(b[:])
		return base32.HexEncoding.EncodeToString(b[:]) + "-"
	}()
	noticeCount atomic.Uint64
)

// appendNotice appends a notice in the JSON event format, one of the notices that
// stand in a stream among its events (protocol section 3); data is its payload.
func appendNotice(dst []byte, kind string, now time.Time, data []byte) []byte {
	dst = append(dst, `{"specversion":"1.0","id":"`...)
	dst = append(dst, noticePrefix...)
	dst = strconv.AppendUint(dst, noticeCount.Add(1), 10)
	dst = append(dst, `","source":"`+schemas.NoticeSource+`","type":"`...)
	dst = append(dst, kind...)
	dst = append(dst, `","time":"`...)
	dst = now.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","datacontenttype":"application/json","data":`...)
	dst = append(dst, data...)
	return append(dst, '}')
}

func newNotice(kind string, data []byte) []byte {
	return appendNotice(make([]byte, 0, 200+len(data)), kind, time.Now(), data)
}

func gapNotice(g *broker.Gap) []byte {
	data, _ := json.Marshal(struct {
		Reason string  `json:"reason"`
		Missed *uint64 `json:"missed"`
	}{g.Reason, g.Missed})
	return newNotice(schemas.NoticeGap, data)
}

// cursorNotice is one of type open or position.
func cursorNotice(kind string, c schemas.Cursor) []byte {
	data := append([]byte(`{"cursor":"`), c.String()...)
	return newNotice(kind, append(data, `"}`...))
}

func drainingNotice(after time.Duration) []byte {
	data := strconv.AppendInt([]byte(`{"reconnectafterms":`), after.Milliseconds(), 10)
	return newNotice(schemas.NoticeDraining, append(data, '}'))
}

// rejectedNotice tells a client that a message it sent was not taken. The problem's
// EventID is id, if it is not too long.
func rejectedNotice(p *schemas.Problem, id string) []byte {
	named := *p
	if len(id) <= maxRejectedID {
		named.EventID = id
	}
	data, _ := json.Marshal(&named)
	return newNotice(schemas.NoticeRejected, data)
}

// maxRejectedID is the length in bytes of an id from which on a notice leaves it out.
const maxRejectedID = 1024

// eventID finds the id in what may not be an event, "" if there is none.
func eventID(message []byte) string {
	d := jsontext.NewDecoder(bytes.NewReader(message), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return ""
	}
	for d.PeekKind() == '"' {
		t, err := d.ReadToken()
		if err != nil {
			return ""
		}
		if t.String() != "id" {
			if d.SkipValue() != nil {
				return ""
			}
			continue
		}
		t, err = d.ReadToken()
		if err != nil || t.Kind() != '"' {
			return ""
		}
		return t.String()
	}
	return ""
}
