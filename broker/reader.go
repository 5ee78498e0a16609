package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Settings of the feed's consumer.
const (
	pullBatch     = 1000
	pullBytes     = 16 << 20
	pullExpires   = 30 * time.Second
	pullHeartbeat = time.Second
	// pullSilence without a message or heartbeat makes the consumer anew.
	pullSilence = 5 * pullHeartbeat / 2
	// consumerIdle is when the server removes a consumer that nobody pulls.
	consumerIdle = 30 * time.Second
	// checkInterval is how often the reader asks whether the log is still the same.
	checkInterval = 5 * time.Second
)

// A reader brings a feed the log's events in order, without a hole: a consumer from
// an explicit sequence, whose deliveries are counted, and which is made anew after
// the last event that arrived whenever anything is not as it should be. After each
// such fault, and every few seconds, it compares the log with what it has read.
type reader struct {
	broker *Broker
	log    *eventLog
	feed   *feed
	at     place // owned by run: the log as last seen; last is the newest event read

	checked time.Time
}

// errLogChanged says that the log is not the one that was read so far.
var errLogChanged = errors.New("the log is another one")

// run owns the reading until ctx ends.
func (r *reader) run(ctx context.Context) {
	r.checked = time.Now()
	for delay := 10 * time.Millisecond; ctx.Err() == nil; {
		began := r.at.last
		err := r.consume(ctx)
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, errLogChanged) {
			r.broker.logger.Info("live reader of the log starts again", "namespace", r.log.namespace, "after", r.at.last, "error", err)
		}
		if r.at.last > began {
			delay = 10 * time.Millisecond
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
		delay = min(2*delay, time.Second)
		if err := r.check(ctx); err != nil && !errors.Is(err, errLogChanged) {
			r.broker.logger.Info("log can't be asked", "namespace", r.log.namespace, "error", err)
		}
	}
}

// check compares the log with what was read, and resets the feed if it is another.
func (r *reader) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	now, err := r.log.place(ctx)
	if isCode(err, jetstream.JSErrCodeStreamNotFound) {
		if err := r.log.open(ctx); err != nil {
			return err
		}
		now, err = r.log.place(ctx)
	}
	if err != nil {
		return err
	}
	r.checked = time.Now()
	same, err := r.log.holds(ctx, now, r.at.end())
	if err != nil || same {
		return err
	}
	r.broker.logger.Warn("the log is another one; subscribers are told", "namespace", r.log.namespace)
	r.at = now
	r.at.last, r.at.accepted = now.first-1, 0
	r.feed.reset(now)
	return errLogChanged
}

// consume reads with one consumer until a fault.
func (r *reader) consume(ctx context.Context) error {
	ctx, stop := r.broker.cut.watch(ctx)
	defer stop()
	conn := r.broker.feeding
	name, err := r.create(ctx)
	if err != nil {
		return err
	}
	defer conn.PublishMsg(&nats.Msg{Subject: "$JS.API.CONSUMER.DELETE." + r.log.stream + "." + name}) //nolint:errcheck // it would end by itself
	inbox := conn.NewInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only on a closed connection
	if err := sub.SetPendingLimits(-1, 4*pullBytes); err != nil {
		return err
	}
	pull, err := json.Marshal(map[string]any{
		"batch": pullBatch, "max_bytes": pullBytes, "expires": pullExpires, "idle_heartbeat": pullHeartbeat,
	})
	if err != nil {
		return err
	}
	delivered := uint64(0)
	for {
		if err := conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+r.log.stream+"."+name, inbox, pull); err != nil {
			return err
		}
		if delivered, err = r.drain(ctx, sub, delivered); err != nil {
			return err
		}
	}
}

// drain takes the answers to one pull. delivered is the consumer's count.
func (r *reader) drain(ctx context.Context, sub *nats.Subscription, delivered uint64) (uint64, error) {
	for taken := 0; taken < pullBatch; {
		if time.Since(r.checked) > checkInterval {
			if err := r.check(ctx); err != nil {
				return delivered, err
			}
		}
		m, err := next(ctx, sub)
		if err != nil {
			return delivered, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "100":
			continue
		case "404", "408":
			return delivered, nil
		case "409":
			d := m.Header.Get("Description")
			if strings.Contains(d, "MaxBytes") || strings.Contains(d, "Batch Completed") {
				return delivered, nil
			}
			return delivered, fmt.Errorf("consumer: %s", d)
		default:
			return delivered, fmt.Errorf("consumer: status %s %s", status, m.Header.Get("Description"))
		}
		meta, err := m.Metadata()
		if err != nil {
			return delivered, err
		}
		if meta.Sequence.Consumer != delivered+1 || meta.Sequence.Stream <= r.at.last {
			return delivered, fmt.Errorf("consumer sent its message %d, log %d, after %d, log %d",
				meta.Sequence.Consumer, meta.Sequence.Stream, delivered, r.at.last)
		}
		delivered++
		taken++
		rec := newRecord(meta.Sequence.Stream, m.Subject, m.Header, m.Data, meta.Timestamp)
		r.at.last, r.at.accepted = rec.sequence, rec.accepted
		r.feed.takeStored(rec)
	}
	return delivered, nil
}

// next waits for a message as long as the consumer may be silent.
func next(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, pullSilence)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

// create makes a consumer after the last event read and returns its name.
func (r *reader) create(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	name := "feed" + strconv.FormatUint(r.at.last, 36) + "-" + nats.NewInbox()[len(nats.InboxPrefix):]
	subject := logPrefix + toSubject.Replace(r.log.namespace) + ".>"
	request, err := json.Marshal(map[string]any{
		"stream_name": r.log.stream,
		"config": map[string]any{
			"name":               name,
			"deliver_policy":     "by_start_sequence",
			"opt_start_seq":      r.at.last + 1,
			"ack_policy":         "none",
			"replay_policy":      "instant",
			"filter_subject":     subject,
			"inactive_threshold": consumerIdle,
			"num_replicas":       1,
			"mem_storage":        true,
		},
	})
	if err != nil {
		return "", err
	}
	answer, err := r.broker.feeding.RequestWithContext(ctx, "$JS.API.CONSUMER.CREATE."+r.log.stream+"."+name+"."+subject, request)
	if err != nil {
		return "", err
	}
	var response struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &response); err != nil {
		return "", err
	}
	if response.Error != nil {
		return "", response.Error
	}
	return name, nil
}
