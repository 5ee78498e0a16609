package gateway

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// A budget bounds the bytes that clients make the gateway hold at once.
type budget struct {
	most int64
	used atomic.Int64
}

// errBudget says that others hold all there is.
var errBudget = errors.New("no memory left for bodies")

// Take and Give are those of a frame.Memory.
func (b *budget) Take(n int) bool {
	if b.used.Add(int64(n)) > b.most {
		b.used.Add(int64(-n))
		return false
	}
	return true
}

func (b *budget) Give(n int) { b.used.Add(int64(-n)) }

// firstRead is the size of a buffer until more has come than it holds: what a
// client announces is believed no further.
const firstRead = 4 << 10

// firstReads are buffers of that size; most bodies fit one.
var firstReads = sync.Pool{New: func() any { b := make([]byte, 0, firstRead); return &b }}

// readAll reads r to its end. The budget is charged with the buffer until release is called,
// which the caller owes whatever the error is.
func (b *budget) readAll(r io.Reader) (body []byte, release func(), err error) {
	charged := 0
	pooled := firstReads.Get().(*[]byte)
	release = func() { // by one goroutine; a buffer must not be given back twice
		if pooled != nil {
			b.Give(charged)
			firstReads.Put(pooled)
			pooled = nil
		}
	}
	grow := func(to int) bool {
		if !b.Take(to - charged) {
			return false
		}
		charged = to
		body = append(make([]byte, 0, to), body...)
		return true
	}
	if !b.Take(firstRead) {
		return nil, release, errBudget
	}
	charged, body = firstRead, (*pooled)[:0]
	for {
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case err == io.EOF:
			return body, release, nil
		case err != nil:
			return nil, release, err
		}
		if len(body) == cap(body) && !grow(2*cap(body)) {
			return nil, release, errBudget
		}
	}
}
