package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// startTimeout bounds the recovery of the logs at start.
	startTimeout = 5 * time.Minute
	// maxPayload lies above the largest event with its headers.
	maxPayload = 4 << 20
	// headerRoom is what a stored message's headers may take beside its event.
	headerRoom = 1 << 10
	// maxStore bounds the files of all logs; what does bound them is their retention.
	maxStore = 1 << 60
	// changeTimeout bounds making a log or changing its settings: files are made and
	// flushed, on a machine that may be busy. Who starts has nothing else to do.
	changeTimeout = time.Minute
	// requestTimeout bounds one question to NATS.
	requestTimeout = 10 * time.Second
	// retryAfter is what a client is told when the log can't be used.
	retryAfter = time.Second
)

// startServer runs NATS inside this process, without a port.
func startServer(c Config, logger *slog.Logger) (*server.Server, error) {
	always, interval := c.Log.flush()
	options := &server.Options{
		ServerName:   "outrelay",
		DontListen:   true,
		NoSigs:       true,
		JetStream:    true,
		StoreDir:     c.Dir,
		SyncAlways:   always,
		SyncInterval: interval,
		MaxPayload:   maxPayload,
		MaxPending:   256 << 20,
		// Left out, it is a part of the disk's free space, and a log whose retention
		// may grow beyond that is refused, also while it is small.
		JetStreamMaxStore:      maxStore,
		JetStreamMaxMemory:     maxStore, // the same of memory
		DisableJetStreamBanner: true,
	}
	s, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	s.SetLoggerV2(natsLogger{logger}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(startTimeout) {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, errors.New("embedded NATS did not start; see the log above")
	}
	return s, nil
}

// cuts tells those who read from a connection that it was cut and is there again:
// what was asked before is lost.
type cuts struct {
	mu      sync.Mutex
	cancels map[*context.CancelFunc]struct{}
}

// watch returns a context that ends with ctx or the next cut. Call stop after use.
func (c *cuts) watch(ctx context.Context) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancels == nil {
		c.cancels = map[*context.CancelFunc]struct{}{}
	}
	c.cancels[&cancel] = struct{}{}
	return watched, func() {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.cancels, &cancel)
	}
}

func (c *cuts) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for cancel := range c.cancels {
		(*cancel)()
	}
}

// request asks a question of NATS. It fails at once when the connection is cut,
// instead of waiting for an answer that won't come.
func (b *Broker) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	watched, stop := b.cut.watch(ctx)
	defer stop()
	answer, err := b.conn.RequestMsgWithContext(watched, m)
	return answer, cutError(ctx, err)
}

// cutError tells a context that ended with a cut from the caller's.
func cutError(caller context.Context, err error) error {
	if errors.Is(err, context.Canceled) && caller.Err() == nil {
		return nats.ErrDisconnected
	}
	return err
}

// connect opens a connection that never gives up.
func (b *Broker) connect(ctx context.Context, name string, again func()) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		// A publish made while the connection is down fails at once and is retried
		// by its owner; a buffer would answer for what may never arrive.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				b.logger.Warn("NATS disconnected", "connection", name, "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			b.logger.Info("NATS connected again", "connection", name)
			again()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			b.logger.Warn("NATS", "connection", name, "error", err)
		}),
	}
	url := b.config.NATS.URL
	if b.disk.embedded() {
		url = ""
		// It is there; on a busy machine it may be slow to greet.
		options = append(options, nats.InProcessServer(b.disk), nats.Timeout(requestTimeout))
	} else {
		if b.config.NATS.Credentials != "" {
			options = append(options, nats.UserCredentials(b.config.NATS.Credentials))
		}
		if deadline, ok := ctx.Deadline(); ok {
			options = append(options, nats.Timeout(time.Until(deadline)))
		}
	}
	conn, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return conn, nil
}

// closeConn closes a connection and waits for its end.
func closeConn(c *nats.Conn) {
	done := make(chan struct{})
	c.SetClosedHandler(func(*nats.Conn) { close(done) })
	c.Close()
	<-done
}

// natsLogger hands the server's lines to slog. Its infos are for those who run
// NATS, not outrelay.
type natsLogger struct{ l *slog.Logger }

func (n natsLogger) Noticef(format string, v ...any) { n.line(slog.LevelDebug, format, v) }
func (n natsLogger) Warnf(format string, v ...any)   { n.line(slog.LevelWarn, format, v) }
func (n natsLogger) Fatalf(format string, v ...any)  { n.line(slog.LevelError, format, v) }
func (n natsLogger) Errorf(format string, v ...any)  { n.line(slog.LevelError, format, v) }
func (n natsLogger) Debugf(format string, v ...any)  { n.line(slog.LevelDebug, format, v) }
func (n natsLogger) Tracef(format string, v ...any)  { n.line(slog.LevelDebug, format, v) }

func (n natsLogger) line(level slog.Level, format string, v []any) {
	n.l.Log(context.Background(), level, "NATS: "+strings.TrimSpace(fmt.Sprintf(format, v...)))
}
