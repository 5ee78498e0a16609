package gateway

import (
	"time"

	"github.com/outrelay/outrelay/gateway/frame"
	"github.com/outrelay/outrelay/schemas"
)

// run writes until the session is to end, lets what was asked until then come to its
// end, and closes the socket.
func (s *session) run() {
	end := ending{reason: schemas.CloseFault, detail: "the gateway failed"}
	func() {
		defer s.guard()
		end = s.write()
	}()
	s.finish(end.reason, end.detail) // if it was the writer that found an end
	func() {
		defer s.guard()
		s.wind(end.reason != connectionLost)
	}()
	s.gateway.metrics.session.closed(s, end.reason)
	defer s.gateway.leave(s.namespace, s)
	s.socket.close(end, s.read)
}

// write sends what there is until the session is to end, and returns why.
func (s *session) write() ending {
	var out frame.Chunk
	announced := false
	nextAlive := time.Now().Add(s.interval)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		end, drainAt, retry := s.gather(&out)
		now := time.Now()
		expires := s.grant.Load().Expires
		switch {
		case end != nil:
		case !expires.IsZero() && !now.Before(expires):
			end = &ending{reason: schemas.CloseTokenExpired}
		case !drainAt.IsZero() && !announced:
			announced = true
			out.Text(drainingMessage(retry))
		case !drainAt.IsZero() && !now.Before(drainAt):
			end = &ending{reason: schemas.CloseDrain}
		}
		if !now.Before(nextAlive) {
			if s.socket.Ping() != nil {
				return ending{reason: connectionLost}
			}
			nextAlive = now.Add(s.interval)
		}
		if end != nil && end.reason == connectionLost {
			return *end
		}
		wrote := len(out.Ends) > 0
		if s.send(&out) != nil {
			return ending{reason: connectionLost}
		}
		if end != nil {
			return *end
		}
		if wrote {
			continue // there may be more by now
		}
		timer.Reset(time.Until(earlier(earlier(nextAlive, expires), drainAt)))
		select {
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// gather takes what waits to be written, answers first, then a chunk of each source
// in turn until there is enough for one write.
func (s *session) gather(out *frame.Chunk) (end *ending, drainAt time.Time, retry time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*out, s.answers = s.answers, *out
	if s.answered > 0 {
		s.gathered.Add(uint64(s.answered))
		s.answered = 0
		select {
		case s.slots <- struct{}{}:
		default:
		}
	}
	s.writing += s.held // with those of answers that nobody was left to read
	s.held = 0
	n := 0
	for ; n < len(s.ready) && len(out.Bytes) < joined; n++ {
		u := s.ready[n]
		joinChunk(out, u.waiting)
		freeChunk(u.waiting)
		u.waiting = nil
		select {
		case u.room <- struct{}{}:
		default:
		}
	}
	rest := copy(s.ready, s.ready[n:])
	clear(s.ready[rest:])
	s.ready = s.ready[:rest]
	return s.end, s.drainAt, s.retry
}

// send writes what was gathered, or what the reader left, and empties it.
func (s *session) send(out *frame.Chunk) error {
	var err error
	if len(out.Ends) > 0 {
		err = s.socket.Write(out)
	} else {
		err = s.socket.Flush()
	}
	s.giveBack()
	if cap(out.Bytes) > 4*joined {
		*out = frame.Chunk{}
	}
	out.Reset()
	return err
}

// giveBack gives the budget back what the requests hold whose answers were gathered,
// written or not.
func (s *session) giveBack() {
	s.gateway.bodies.Give(s.writing)
	s.writing = 0
}

// wind takes no more requests, ends the sources, and waits until all that was asked
// is answered, or until closeWait is over. Answers are written if there is still
// somebody to read them.
func (s *session) wind(connected bool) {
	s.mu.Lock()
	s.closing = true
	for _, l := range s.lines {
		if l.source != nil { // it stays open for what is settled yet
			l.source.ended = true
			l.source.dropLocked()
			l.source.cancel()
		}
	}
	s.mu.Unlock()
	done := make(chan struct{})
	s.gateway.tasks.Go(func() {
		s.tasks.Wait()
		close(done)
		s.rouse()
	})
	patience := time.NewTimer(closeWait)
	defer patience.Stop()
	var out frame.Chunk
	for over := false; !over; {
		select {
		case <-done:
			over = true
		case <-patience.C:
			s.cancel()
		case <-s.wake:
		}
		if s.gather(&out); connected {
			connected = s.send(&out) == nil
		} else {
			out.Reset()
		}
	}
	s.giveBack()
	for _, l := range s.lines { // nobody else is left
		if l.source != nil {
			l.source.stop()
		}
	}
	s.cancel()
}
