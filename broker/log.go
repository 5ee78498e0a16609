package broker

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outrelay/outrelay/broker/vet"
	"github.com/outrelay/outrelay/schemas"
)

// Headers of a stored message.
const (
	headerAccepted = "Outrelay-Accepted" // nanoseconds since 1970
	headerExpires  = "Outrelay-Expires"  // the same, where the event has an expirytime
)

// metadataLog is the key of the log's id in the stream's metadata. A copy of the
// data keeps it, a log made anew has another.
const metadataLog = "outrelay.log"

// maxConsumers lies far above the bound on subscriptions, so that a feed can always
// be made anew. A stream can't change it later.
const maxConsumers = 1_000_000

// An eventLog is a namespace's JetStream stream. Its methods may be called from
// any goroutine once open has returned.
type eventLog struct {
	broker    *Broker
	namespace string
	stream    string
	rules     *rulebook
	places    shared[place]
	id        uint64        // of the log that open found
	fullAt    atomic.Int64  // when the log was last seen near its limit of bytes
	lost      vet.Sequences // what damage has taken; fixed before anybody subscribes
	gaps      gaps          // owned by notes
	expiring  atomic.Bool   // some events are kept for less time than the rest
}

func newEventLog(b *Broker, namespace string, r *rulebook) *eventLog {
	return &eventLog{broker: b, namespace: namespace, stream: streamName(namespace), rules: r}
}

// open finds the stream or makes it, and brings its settings up to date.
func (l *eventLog) open(ctx context.Context) error {
	for {
		existing, err := l.broker.js.Stream(ctx, l.stream)
		switch {
		case err == nil:
			return l.adopt(ctx, existing)
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			return err
		}
		if l.broker.notes.unopened(l.stream) {
			return errors.New("NATS could not open it (see above), and a new one would lie over it; restore a copy of the data folder, or move the folder of the stream " + l.stream + " away to begin with an empty log")
		}
		var id [8]byte
		rand.Read(id[:])
		config := l.config(l.rules.now())
		config.Metadata = map[string]string{metadataLog: fmt.Sprintf("%x", id)}
		_, err = l.broker.js.CreateStream(ctx, config)
		if err == nil {
			l.id = binary.BigEndian.Uint64(id[:])
			return nil
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // else another gateway was first
			return err
		}
	}
}

// adopt takes over a stream that is there already.
func (l *eventLog) adopt(ctx context.Context, existing jetstream.Stream) error {
	info := existing.CachedInfo()
	id, err := logID(info.Config.Metadata)
	if err != nil {
		return fmt.Errorf("stream %s: %w", l.stream, err)
	}
	config := l.config(l.rules.now())
	if info.Config.Storage != config.Storage {
		return fmt.Errorf("stream %s has storage %s, and the config says %s: a log can't change it; keep the old setting, or use a new data folder",
			l.stream, info.Config.Storage, config.Storage)
	}
	config.Metadata = map[string]string{metadataLog: info.Config.Metadata[metadataLog]}
	if _, err := l.broker.js.UpdateStream(ctx, config); err != nil {
		return err
	}
	l.id = id
	return nil
}

// config is what the stream is to be under the rules, without its metadata.
func (l *eventLog) config(r *rules) jetstream.StreamConfig {
	storage := jetstream.FileStorage
	if l.broker.config.Log.Storage == "memory" {
		storage = jetstream.MemoryStorage
	}
	token := toSubject.Replace(l.namespace)
	return jetstream.StreamConfig{
		Name:               l.stream,
		Description:        "outrelay's log of namespace " + l.namespace,
		Subjects:           []string{logPrefix + token + ".>", requeuePrefix + token + ".>"},
		Storage:            storage,
		Replicas:           l.broker.config.Log.Replicas,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardOld,
		MaxAge:             r.maxAge,
		MaxBytes:           r.retention.MaxBytes,
		MaxMsgs:            -1,
		Duplicates:         min(r.retention.Dedup, r.maxAge),
		MaxConsumers:       maxConsumers,
		AllowDirect:        true,
		AllowMsgTTL:        true,
		AllowAtomicPublish: true,
	}
}

func logID(metadata map[string]string) (uint64, error) {
	id, err := strconv.ParseUint(metadata[metadataLog], 16, 64)
	if err != nil {
		return 0, errors.New("it is not a log of outrelay; rename it, or use another cluster")
	}
	return id, nil
}

// A place is where the log begins and ends.
type place struct {
	log         uint64
	first, last uint64 // first is last+1 while the log is empty
	// accepted is when the event at last was accepted, in nanoseconds since 1970.
	accepted int64
	// deleted counts the messages missing between first and last.
	deleted int
	bytes   int64
	// firstAt is when the message at first was stored, in nanoseconds since 1970; 0: there
	// is none.
	firstAt int64
	// fullAt is when this gateway last saw the log near its limit of bytes, so that
	// the oldest may have gone for that; in nanoseconds since 1970.
	fullAt int64
}

func (p place) end() schemas.Cursor {
	return schemas.Cursor{Log: p.log, Sequence: p.last, Accepted: p.accepted}
}

// place asks the log's leader. Callers that wait at the same time share an answer,
// which is never older than their call.
func (l *eventLog) place(ctx context.Context) (place, error) {
	return l.places.get(ctx, l.broker, l.askPlace)
}

// askPlace is place for one caller.
func (l *eventLog) askPlace(ctx context.Context) (place, error) {
	p, err := l.bounds(ctx)
	if err != nil || p.last == 0 {
		return p, err
	}
	// The last message may be gone; then the time of its storing stands for it.
	if r, err := l.at(ctx, p.last); err == nil {
		p.accepted = r.accepted
	} else if !errors.Is(err, errGone) {
		return place{}, err
	}
	return p, nil
}

// bounds is place, but accepted is when the last message was stored. It reads no message:
// JetStream keeps what was read of a file in memory for ten seconds.
func (l *eventLog) bounds(ctx context.Context) (place, error) {
	var info struct {
		Config struct {
			Metadata map[string]string `json:"metadata"`
		} `json:"config"`
		State struct {
			First     uint64    `json:"first_seq"`
			FirstTime time.Time `json:"first_ts"`
			Last      uint64    `json:"last_seq"`
			LastTime  time.Time `json:"last_ts"`
			Deleted   int       `json:"num_deleted"`
			Bytes     int64     `json:"bytes"`
		} `json:"state"`
		Error *jetstream.APIError `json:"error"`
	}
	answer, err := l.broker.request(ctx, &nats.Msg{Subject: "$JS.API.STREAM.INFO." + l.stream})
	if err != nil {
		return place{}, err
	}
	if err := json.Unmarshal(answer.Data, &info); err != nil {
		return place{}, err
	}
	if info.Error != nil {
		return place{}, info.Error
	}
	p := place{first: info.State.First, last: info.State.Last, deleted: info.State.Deleted, bytes: info.State.Bytes}
	if info.State.FirstTime.Unix() > 0 {
		p.firstAt = info.State.FirstTime.UnixNano()
	}
	if p.log, err = logID(info.Config.Metadata); err != nil {
		return place{}, err
	}
	if info.State.Bytes > l.rules.now().retention.MaxBytes/2 {
		l.fullAt.Store(time.Now().UnixNano())
	}
	p.fullAt = l.fullAt.Load()
	if p.last == 0 {
		p.first = 1
		return p, nil
	}
	p.accepted = info.State.LastTime.UnixNano()
	return p, nil
}

// A record is a stored message.
type record struct {
	sequence uint64
	subject  string
	accepted int64
	expires  int64 // 0: never
	header   nats.Header
	data     []byte
}

func (r record) expired(now int64) bool { return r.expires != 0 && r.expires <= now }

// newRecord reads a message's headers. stored is its time in the log, for one that
// outrelay did not write.
func newRecord(sequence uint64, subject string, header nats.Header, data []byte, stored time.Time) record {
	r := record{sequence: sequence, subject: subject, header: header, data: data}
	if v, err := strconv.ParseInt(header.Get(headerAccepted), 10, 64); err == nil {
		r.accepted = v
	} else {
		r.accepted = stored.UnixNano()
	}
	if v, err := strconv.ParseInt(header.Get(headerExpires), 10, 64); err == nil {
		r.expires = v
	}
	return r
}

var errGone = errors.New("no such message")

// at reads the message at sequence; errGone is the leader's word that there is none.
func (l *eventLog) at(ctx context.Context, sequence uint64) (record, error) {
	records, _, err := l.direct(ctx, directGet{Sequence: sequence})
	if err == nil && len(records) == 1 && records[0].sequence == sequence {
		return records[0], nil
	}
	if err != nil {
		return record{}, err
	}
	return l.leader(ctx, leaderGet{Sequence: sequence}) // a replica may lag
}

type leaderGet struct {
	Sequence uint64 `json:"seq"`
	Next     string `json:"next_by_subj,omitempty"`
}

// leader reads one message from the log's leader.
func (l *eventLog) leader(ctx context.Context, get leaderGet) (record, error) {
	request, err := json.Marshal(get)
	if err != nil {
		return record{}, err
	}
	answer, err := l.broker.request(ctx, &nats.Msg{Subject: "$JS.API.STREAM.MSG.GET." + l.stream, Data: request})
	if err != nil {
		return record{}, err
	}
	var response struct {
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &response); err != nil {
		return record{}, err
	}
	if response.Error != nil {
		if response.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return record{}, errGone
		}
		return record{}, response.Error
	}
	m := response.Message
	header, err := nats.DecodeHeadersMsg(m.Header)
	if err != nil {
		header = nil
	}
	return newRecord(m.Sequence, m.Subject, header, m.Data, m.Time), nil
}

// directGet is a request to read without a consumer (ADR-31).
type directGet struct {
	Sequence  uint64     `json:"seq,omitempty"`
	StartTime *time.Time `json:"start_time,omitempty"`
	Next      string     `json:"next_by_subj,omitempty"`
	MultiLast []string   `json:"multi_last,omitempty"`
	UpTo      uint64     `json:"up_to_seq,omitempty"`
	Batch     int        `json:"batch,omitempty"`
	MaxBytes  int        `json:"max_bytes,omitempty"`
}

var errTooMany = errors.New("more topics than one request may ask for")

// direct sends a direct get and gathers the answers. pending says how many more
// messages match, as the replica that answered sees it.
func (l *eventLog) direct(ctx context.Context, get directGet) (records []record, pending int, err error) {
	request, err := json.Marshal(get)
	if err != nil {
		return nil, 0, err
	}
	conn := l.broker.conn
	inbox := conn.NewInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return nil, 0, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only on a closed connection
	caller := ctx
	ctx, stop := l.broker.cut.watch(ctx)
	defer stop()
	if err := conn.PublishRequest("$JS.API.DIRECT.GET."+l.stream, inbox, request); err != nil {
		return nil, 0, err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, 0, cutError(caller, err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204":
			pending, err := strconv.Atoi(m.Header.Get("Nats-Num-Pending"))
			return records, pending, err
		case "404":
			return records, 0, nil
		case "413":
			return nil, 0, errTooMany
		case "503":
			return nil, 0, nats.ErrNoResponders
		default:
			return nil, 0, fmt.Errorf("direct get: status %s %s", status, m.Header.Get("Description"))
		}
		sequence, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		if err != nil {
			return nil, 0, fmt.Errorf("direct get: %w", err)
		}
		stored, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
		if err != nil {
			return nil, 0, fmt.Errorf("direct get: %w", err)
		}
		records = append(records, newRecord(sequence, m.Header.Get("Nats-Subject"), m.Header, m.Data, stored))
		if get.Batch == 0 && len(get.MultiLast) == 0 {
			return records, 0, nil
		}
	}
}

// Bounds of one read of the log.
const (
	readRecords = 500
	readBytes   = 2 << 20
	leastPage   = 64 << 10 // where many streams read
)

// read returns the stored messages of subject after the given sequence, some at a
// time. When it returns more false, there was none left up to upTo: it is the last
// sequence that the caller knows of, which a lagging replica may not. It reads until it
// has limit messages or page bytes, but one at least.
func (l *eventLog) read(ctx context.Context, subject string, after, upTo uint64, limit, page int) (records []record, more bool, err error) {
	for delay := time.Millisecond; ; delay = min(2*delay, 100*time.Millisecond) {
		records, pending, err := l.direct(ctx, directGet{
			Sequence: after + 1, Next: subject, Batch: min(limit, readRecords), MaxBytes: page,
		})
		if err != nil {
			return nil, false, err
		}
		last := after
		if len(records) > 0 {
			last = records[len(records)-1].sequence
		}
		if pending > 0 || last >= upTo {
			return records, pending > 0, nil
		}
		// The answer ends before upTo: true, or from a replica that lags?
		next, err := l.leader(ctx, leaderGet{Sequence: last + 1, Next: subject})
		switch {
		case errors.Is(err, errGone) || err == nil && next.sequence > upTo:
			return records, false, nil
		case err != nil:
			return nil, false, err
		case len(records) > 0:
			return records, true, nil
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// firstSince is the sequence of the first message stored at t or later, 0 if there is none.
func (l *eventLog) firstSince(ctx context.Context, t time.Time) (uint64, error) {
	records, _, err := l.direct(ctx, directGet{StartTime: &t, Next: ">", Batch: 1, MaxBytes: readBytes})
	if err != nil || len(records) == 0 {
		return 0, err
	}
	return records[0].sequence, nil
}

// delivered is the record's event as subscribers get it.
func (l *eventLog) delivered(id uint64, r record) []byte {
	topic := subjectTopic(logPrefix, l.namespace, r.subject)
	cursor := schemas.Cursor{Log: id, Sequence: r.sequence, Accepted: r.accepted}
	return schemas.AppendDelivered(make([]byte, 0, len(r.data)+len(topic)+96), bytes.TrimSpace(r.data), topic, &cursor)
}
