package broker

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/outrelay/outrelay/schemas"
)

// A disk is the embedded server with what lies under it. NATS's file store takes no
// write any more once one has failed, and must be opened anew. So publishes are refused
// before the disk is full, which leaves room for what subscriptions write; and where a
// write failed all the same the server is started again, in the same process, once there
// is room. Its connections reach whatever server there is.
type disk struct {
	broker *Broker
	wake   chan struct{} // somebody saw the log fail

	failed atomic.Bool // a write failed; nothing is taken until the server was started again
	full   atomic.Bool // the last look at the disk found too little room

	mu     sync.Mutex
	server *server.Server // nil with an external cluster
}

func newDisk(b *Broker) *disk { return &disk{broker: b, wake: make(chan struct{}, 1)} }

// start starts the server.
func (s *disk) start() error {
	started, err := startServer(s.broker.config, s.broker.logger)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server = started
	return nil
}

// stop ends the server, if there is one.
func (s *disk) stop() {
	s.mu.Lock()
	running := s.server
	s.server = nil
	s.mu.Unlock()
	if running != nil {
		running.Shutdown()
		running.WaitForShutdown()
	}
}

var errServerStopped = errors.New("the embedded server is being started again")

// InProcessConn is for NATS's client: a connection to the server of the moment.
func (s *disk) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return nil, errServerStopped
	}
	return s.server.InProcessConn()
}

// embedded says whether the server is this broker's own.
func (s *disk) embedded() bool { return s.broker.config.NATS.URL == "" }

// guarded says whether there is a disk to look after.
func (s *disk) guarded() bool { return s.embedded() && s.broker.config.Log.Storage == "file" }

// room says whether the log may take so many bytes.
func (s *disk) room(bytes int) error {
	if !s.guarded() {
		return nil
	}
	if s.failed.Load() {
		return errDisk("The log's disk failed to take a write, and the log is not open again yet; try again later.")
	}
	free, size, ok := diskSpace(s.broker.config.Dir)
	full := ok && free < s.reserve(size)+2*uint64(bytes)
	if s.full.Swap(full) != full {
		if full {
			s.broker.logger.Error("the log's disk is nearly full, so publishes are refused; make room, or lower the retention",
				"free", free, "kept free", s.reserve(size))
		} else {
			s.broker.logger.Info("the log's disk has room again", "free", free)
		}
	}
	if full {
		return errDisk("The log's disk is full; nothing was stored. Try again when there is space again.")
	}
	return nil
}

// reserve is how many bytes of a disk stay free: the limit, or a twentieth of a small one.
func (s *disk) reserve(size uint64) uint64 {
	return min(uint64(s.broker.config.Limits.DiskReserve), size/20)
}

func errDisk(detail string) error {
	p := schemas.Problemf("storage", "%s", detail)
	p.RetryAfter = retryAfter
	return p
}

// doubt has the log looked at: it did not answer a publish. NATS answers nothing to a
// publish whose write failed.
func (s *disk) doubt() error {
	if !s.guarded() || !s.failed.Load() && !s.broken() {
		return nil
	}
	if !s.failed.Swap(true) {
		s.broker.logger.Error("the log could not be written; it is opened anew once its disk has room")
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return s.room(0)
}

// broken asks the server whether a write of a stream has failed.
func (s *disk) broken() bool {
	s.mu.Lock()
	running := s.server
	s.mu.Unlock()
	if running == nil {
		return true
	}
	health := running.Healthz(&server.HealthzOptions{Details: true})
	for _, fault := range health.Errors {
		if fault.Type == server.HealthzErrorStream {
			s.broker.logger.Error("the log's health", "stream", fault.Stream, "error", fault.Error)
			return true
		}
	}
	return false
}

// Between two tries to open the log again.
const (
	minMend = 100 * time.Millisecond
	maxMend = 5 * time.Second
)

// run starts the server again after a write has failed, until ctx ends.
func (s *disk) run(ctx context.Context) {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		for delay := minMend; s.failed.Load(); delay = min(2*delay, maxMend) {
			if waitFor(ctx, ctx, delay) != nil {
				return
			}
			free, size, ok := diskSpace(s.broker.config.Dir)
			if ok && free < s.reserve(size) {
				continue
			}
			s.stop()
			if err := s.start(); err != nil {
				s.broker.logger.Error("the log can't be opened again", "error", err)
				continue
			}
			if ctx.Err() != nil {
				return
			}
			s.failed.Store(false)
			s.broker.logger.Warn("the log was opened anew after a failed write")
		}
	}
}
