package broker

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// last reads the last stored event of each topic of a filter, in stored order, as
// of one place in the log.
type last struct {
	log     *eventLog
	subject string
	upTo    uint64
	end     position // of the log at upTo

	after     uint64   // what has been read
	sequences []uint64 // what is still to be read, if one request can't find it
	many      bool
}

// first is the sequence of the first event, 0 if there is none.
func (l *last) first(ctx context.Context) (uint64, error) {
	if l.upTo == 0 {
		return 0, nil
	}
	records, _, err := l.log.direct(ctx, directGet{MultiLast: []string{l.subject}, UpTo: l.upTo, Batch: 1, MaxBytes: readBytes})
	if errors.Is(err, errTooMany) {
		if err = l.list(ctx); err == nil && len(l.sequences) > 0 {
			return l.sequences[0], nil
		}
		return 0, err
	}
	if err != nil || len(records) == 0 {
		return 0, err
	}
	return records[0].sequence, nil
}

// read returns the next events and whether there may be more.
func (l *last) read(ctx context.Context) ([]record, bool, error) {
	if l.upTo == 0 || l.after >= l.upTo {
		return nil, false, nil
	}
	if !l.many {
		records, _, err := l.log.direct(ctx, directGet{
			MultiLast: []string{l.subject}, Sequence: l.after + 1, UpTo: l.upTo, Batch: readRecords, MaxBytes: readBytes,
		})
		if err != nil || len(records) == 0 {
			return nil, false, err
		}
		l.after = records[len(records)-1].sequence
		return records, l.after < l.upTo, nil
	}
	var records []record
	size := 0
	for len(l.sequences) > 0 && len(records) < readRecords && size < readBytes {
		r, err := l.log.at(ctx, l.sequences[0])
		if err != nil && !errors.Is(err, errGone) {
			return nil, false, err
		}
		if err == nil {
			records = append(records, r)
			size += len(r.data)
		}
		l.sequences = l.sequences[1:]
	}
	return records, len(l.sequences) > 0, nil
}

// list finds the sequences with a short-lived consumer, for more topics than one
// request may ask for (1,024).
func (l *last) list(ctx context.Context) error {
	l.many = true
	conn := l.log.broker.conn
	inbox := conn.NewInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only on a closed connection
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	name := "last-" + nats.NewInbox()[len(nats.InboxPrefix):]
	request, err := json.Marshal(map[string]any{
		"stream_name": l.log.stream,
		"config": map[string]any{
			"name": name, "deliver_policy": "last_per_subject", "ack_policy": "none", "replay_policy": "instant",
			"filter_subject": l.subject, "headers_only": true, "inactive_threshold": consumerIdle,
			"num_replicas": 1, "mem_storage": true,
		},
	})
	if err != nil {
		return err
	}
	answer, err := conn.RequestWithContext(ctx, "$JS.API.CONSUMER.CREATE."+l.log.stream+"."+name+"."+l.subject, request)
	if err != nil {
		return err
	}
	var created struct {
		Pending uint64              `json:"num_pending"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &created); err != nil {
		return err
	}
	if created.Error != nil {
		return created.Error
	}
	defer conn.Publish("$JS.API.CONSUMER.DELETE."+l.log.stream+"."+name, nil) //nolint:errcheck // it would end by itself
	for left := int(created.Pending); left > 0; {
		batch := min(left, pullBatch)
		pull := []byte(`{"no_wait":true,"batch":` + strconv.Itoa(batch) + `}`)
		if err := conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+l.log.stream+"."+name, inbox, pull); err != nil {
			return err
		}
		for n := 0; n < batch; n++ {
			m, err := sub.NextMsgWithContext(ctx)
			if err != nil {
				return err
			}
			if m.Header.Get("Status") != "" { // fewer are left than there were
				left = 0
				break
			}
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			if meta.Sequence.Stream <= l.upTo {
				l.sequences = append(l.sequences, meta.Sequence.Stream)
			}
			left--
		}
	}
	slices.Sort(l.sequences)
	return nil
}
