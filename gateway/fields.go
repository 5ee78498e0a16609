package gateway

import (
	"bytes"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// A field is a member that the gateway knows of a session's messages and of the
// bodies of requests about durable subscriptions (protocol sections 5 and 6).
type field uint8

const (
	fieldOp field = iota
	fieldID
	fieldTopic
	fieldFrom
	fieldAfter
	fieldFilter
	fieldSQL
	fieldSlow
	fieldSubscription
	fieldCredit
	fieldAckWait
	fieldMaxDeliver
	fieldDeadLetter
	fieldExclusive
	fieldExpires
	fieldDeliveries
	fieldUpTo
	fieldDelay
	fieldReason
	fieldEvent
	fieldEvents
	fieldToken
	fieldCursors
	fieldCount
)

var fieldNames = [fieldCount]string{
	"op", "id", "topic", "from", "after", "filter", "sql", "slow", "subscription", "credit", "ackwait",
	"maxdeliver", "deadletter", "exclusive", "expires", "deliveries", "upto", "delay", "reason", "event",
	"events", "token", "cursors",
}

var fieldsByName = func() map[string]field {
	m := make(map[string]field, fieldCount)
	for f, name := range fieldNames {
		m[name] = field(f)
	}
	return m
}()

// fields are a JSON object's known members, each the text of its value in the object
// that was read; nil is a member that is not there. Unknown members are passed over.
type fields [fieldCount]jsontext.Value

// A fieldReader is reused; it is reset over its input, which it does not copy.
type fieldReader struct {
	jsontext.Decoder
	buf bytes.Buffer
}

var fieldReaders = sync.Pool{New: func() any { return &fieldReader{} }}

// take finds the fields in an object that was read.
func (f *fields) take(o *schemas.Object) {
	clear(f[:])
	for i := range o.Len() {
		name, value := o.Member(i)
		if k, known := fieldsByName[string(name)]; known {
			f[k] = value
		}
	}
}

// read reads one JSON object, whatever is in it. The error is a problem of name
// "parameter"; what was read before it is in f all the same, so that it can be said whose
// fault it is.
func (f *fields) read(in []byte) error {
	clear(f[:])
	object, ok := schemas.ReadObject(in)
	if !ok {
		return f.readParts(in)
	}
	for all := schemas.MembersOf(object); ; {
		name, value, ok := all.Next()
		if !ok {
			return nil
		}
		if k, known := fieldNamed(name); known {
			f[k] = value
		}
	}
}

// readParts is read for an object of which only the known fields are to be right.
func (f *fields) readParts(in []byte) error {
	r := fieldReaders.Get().(*fieldReader)
	defer func() {
		r.buf = bytes.Buffer{}
		r.Reset(&r.buf)
		fieldReaders.Put(r)
	}()
	r.buf = *bytes.NewBuffer(in)
	// What a known member holds is read strictly by whoever uses it.
	r.Reset(&r.buf, jsontext.AllowDuplicateNames(true))
	if r.PeekKind() != '{' {
		return errNoObject()
	}
	if _, err := r.ReadToken(); err != nil {
		return errNoObject()
	}
	value := func() (jsontext.Value, error) {
		v, err := r.ReadValue()
		end := r.InputOffset()
		return in[end-int64(len(v)) : end], err
	}
	for r.PeekKind() == '"' {
		name, err := value()
		if err != nil {
			return errNoObject()
		}
		v, err := value()
		if err != nil {
			return errNoObject()
		}
		k, known := fieldNamed(name)
		if !known {
			continue
		}
		if f[k] != nil {
			return schemas.Problemf("parameter", "The field %q stands twice.", fieldNames[k])
		}
		f[k] = v
	}
	if _, err := r.ReadToken(); err != nil {
		return errNoObject()
	}
	if r.PeekKind() != 0 || len(bytes.TrimLeft(in[r.InputOffset():], " \t\r\n")) > 0 {
		return schemas.Problemf("parameter", "There is something after the JSON object.")
	}
	return nil
}

func errNoObject() *schemas.Problem {
	return schemas.Problemf("parameter", "This is no JSON object.")
}

func fieldNamed(quoted jsontext.Value) (field, bool) {
	name := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		name, _ = jsontext.AppendUnquote(nil, quoted)
	}
	k, ok := fieldsByName[string(name)]
	return k, ok
}

// given says whether the field is there; null is as if it were not.
func (f *fields) given(k field) bool { return f[k] != nil && f[k].Kind() != 'n' }

func wrongType(k field, what string) *schemas.Problem {
	return schemas.Problemf("parameter", "The field %q is %s.", fieldNames[k], what)
}

// text reads a string; "" if it is not there.
func (f *fields) text(k field) (string, error) {
	if !f.given(k) {
		return "", nil
	}
	if f[k].Kind() != '"' {
		return "", wrongType(k, "text")
	}
	return unquote(f[k]), nil
}

func unquote(quoted jsontext.Value) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	b, _ := jsontext.AppendUnquote(nil, quoted)
	return string(b)
}

// number reads a whole number between two others; 0 if it is not there.
func (f *fields) number(k field, least, most int) (int, error) {
	if !f.given(k) {
		return 0, nil
	}
	n, err := strconv.Atoi(string(f[k])) // no number of JSON begins with a "+"
	if err != nil || f[k].Kind() != '0' || n < least || n > most {
		return 0, schemas.Problemf("parameter", "The field %q is a whole number from %d to %d.", fieldNames[k], least, most)
	}
	return n, nil
}

// duration reads a duration between two others; 0 if it is not there.
func (f *fields) duration(k field, least, most time.Duration) (time.Duration, error) {
	s, err := f.text(k)
	if err != nil || !f.given(k) {
		return 0, err
	}
	d, err := schemas.ParseDuration("field \""+fieldNames[k]+"\"", s)
	if err == nil && (d < least || d > most) {
		err = schemas.Problemf("parameter", "The field %q is a duration from %s to %s.", fieldNames[k], schemas.FormatDuration(least), schemas.FormatDuration(most))
	}
	return d, err
}

// list reads an array of strings, each of at most longest bytes.
func (f *fields) list(k field, most, longest int) ([]string, error) {
	if f[k].Kind() != '[' {
		return nil, wrongType(k, "an array of text")
	}
	var list []string
	for rest := f[k][1:]; ; {
		rest = bytes.TrimLeft(rest, " \t\r\n,")
		switch {
		case rest[0] == ']':
			return list, nil
		case rest[0] != '"':
			return nil, wrongType(k, "an array of text")
		case len(list) == most:
			return nil, schemas.Problemf("parameter", "The field %q has more than %d items; send several messages.", fieldNames[k], most)
		}
		end := 1
		for ; rest[end] != '"'; end++ {
			if rest[end] == '\\' {
				end++
			}
		}
		s := unquote(rest[:end+1])
		if len(s) > longest {
			return nil, schemas.Problemf("parameter", "The field %q has an item of more than %d bytes, as no gateway makes one.", fieldNames[k], longest)
		}
		list, rest = append(list, s), rest[end+1:]
	}
}

// start reads where a stream or a subscription begins.
func (f *fields) start() (broker.Start, error) {
	var p streamParams
	from, err := f.text(fieldFrom)
	if err == nil && f.given(fieldFrom) {
		err = p.takeFrom(from, wayWebSocket)
	}
	if err != nil {
		return p.start, err
	}
	after, err := f.text(fieldAfter)
	if err == nil && f.given(fieldAfter) {
		err = p.takeAfter(after)
	}
	return p.start, err
}

// content reads the content filters as text, "" where there is none, and compiles them.
func (f *fields) content() (dialects, sql string, compiled *filter.Filter, err error) {
	if f.given(fieldFilter) {
		// An object or an array as it stands, or the text of one as in a query.
		if dialects = string(f[fieldFilter]); f[fieldFilter].Kind() == '"' {
			dialects = unquote(f[fieldFilter])
		}
		if err := notEmpty("filter", dialects); err != nil {
			return "", "", nil, err
		}
	}
	if sql, err = f.text(fieldSQL); err == nil && f.given(fieldSQL) {
		err = notEmpty("sql", sql)
	}
	if err != nil {
		return "", "", nil, err
	}
	compiled, err = filter.Parse(dialects, sql)
	return dialects, sql, compiled, err
}

// topics reads the topic filter, "" if it is not there.
func (f *fields) topics() (schemas.TopicFilter, error) {
	name, err := f.text(fieldTopic)
	if err != nil || !f.given(fieldTopic) {
		return "", err
	}
	return schemas.ParseTopicFilter(name)
}

// durable reads the options of a durable subscription. Those that are not there are
// zero, for not said.
func (f *fields) durable() (o broker.SubscriptionOptions, err error) {
	if o.Topics, err = f.topics(); err != nil {
		return o, err
	}
	if o.Filter, o.SQL, _, err = f.content(); err != nil {
		return o, err
	}
	if o.AckWait, err = f.duration(fieldAckWait, broker.MinAckWait, broker.MaxAckWait); err != nil {
		return o, err
	}
	if o.MaxDeliver, err = f.number(fieldMaxDeliver, 1, broker.MaxMaxDeliver); err != nil {
		return o, err
	}
	if o.Expires, err = f.duration(fieldExpires, broker.MinExpires, broker.MaxExpires); err != nil {
		return o, err
	}
	if f.given(fieldExclusive) {
		exclusive := f[fieldExclusive].Kind() == 't'
		if !exclusive && f[fieldExclusive].Kind() != 'f' {
			return o, wrongType(fieldExclusive, "true or false")
		}
		o.Exclusive = &exclusive
	}
	if f.given(fieldDeadLetter) {
		name, err := f.text(fieldDeadLetter)
		if err != nil {
			return o, err
		}
		topic := schemas.Topic(name)
		if name != "" {
			if topic, err = schemas.ParseTopic(name); err != nil {
				return o, err
			}
			if topic.Notices() {
				return o, schemas.Problemf("parameter", "The field \"deadletter\" is one of the broker's own topics; take another.")
			}
		}
		o.DeadLetter = &topic
	}
	return o, nil
}

// settlement reads what is to be done with deliveries. upTo is "" unless it stands
// in for them.
func (f *fields) settlement(verb broker.Verb) (s broker.Settlement, upTo string, err error) {
	s.Verb = verb
	if verb == broker.Ack && f.given(fieldUpTo) {
		if f.given(fieldDeliveries) {
			return s, "", schemas.Problemf("parameter", "An ack has either \"deliveries\" or \"upto\".")
		}
		upTo, err = f.text(fieldUpTo)
		if err == nil && (upTo == "" || len(upTo) > schemas.MaxTag) {
			err = schemas.Problemf("parameter", "The field \"upto\" is a delivery's tag.")
		}
		return s, upTo, err
	}
	if s.Tags, err = f.list(fieldDeliveries, schemas.MaxTags, schemas.MaxTag); err != nil {
		return s, "", err
	}
	switch verb {
	case broker.Release:
		s.Delay, err = f.duration(fieldDelay, 0, broker.MaxDelay)
	case broker.Reject:
		s.Reason, err = f.text(fieldReason)
	}
	return s, "", err
}
