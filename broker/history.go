package broker

import (
	"context"

	"github.com/outrelay/outrelay/schemas"
)

// maxScan bounds the events that one page looks at, and maxPage its bytes.
const (
	maxScan = 10_000
	maxPage = 8 << 20
)

// History reads a page of stored events. It may be short or empty and still have
// more: it looks at a bounded number of events.
//
// Errors are of type [schemas.Problem], or ctx's.
func (b *Broker) History(ctx context.Context, namespace string, o HistoryOptions) (HistoryPage, error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return HistoryPage{}, err
	}
	page, err := b.history(ctx, ns, o)
	if err != nil {
		return HistoryPage{}, b.errStorage("read the log", err)
	}
	return page, nil
}

func (b *Broker) history(ctx context.Context, ns *namespace, o HistoryOptions) (page HistoryPage, err error) {
	log := ns.log
	now, err := log.place(ctx)
	if err != nil {
		return page, err
	}
	begin, err := log.begin(ctx, now, o.Topics, o.Start)
	if err != nil {
		return page, err
	}
	defer func() {
		if len(begin.gaps) > 0 {
			page.Gap = begin.gaps[0]
		} else if err == nil && log.damaged(begin.sequence, page.Next.Sequence) {
			page.Gap = &Gap{Reason: GapExpired}
		}
	}()
	select {
	case b.readers <- struct{}{}:
		defer func() { <-b.readers }()
	case <-ctx.Done():
		return page, ctx.Err()
	}
	// A page goes through the same sieve as a stream.
	s := &Stream{
		broker: b, namespace: ns, topics: o.Topics, filter: o.Filter,
		notBefore: begin.notBefore, log: now.log, place: begin.position,
	}
	subject := filterSubject(logPrefix, log.namespace, o.Topics)
	size := 0
	for scanned := 0; ; {
		records, more, err := log.read(ctx, subject, s.place.sequence, now.last, readRecords, readBytes)
		if err != nil {
			return page, err
		}
		for _, r := range records {
			if len(page.Events) == o.Limit || size >= maxPage {
				page.Next, page.More = s.cursor(s.place), true
				return page, nil
			}
			scanned++
			s.out = s.out[:0]
			s.deliver(r)
			for _, d := range s.out {
				page.Events = append(page.Events, d.Event)
				size += len(d.Event)
			}
		}
		if !more {
			if s.place.sequence < now.last {
				s.place = position{now.last, now.accepted}
			}
			page.Next = schemas.Cursor{Log: now.log, Sequence: s.place.sequence, Accepted: s.place.accepted}
			return page, nil
		}
		if scanned >= maxScan {
			page.Next, page.More = s.cursor(s.place), true
			return page, nil
		}
	}
}
