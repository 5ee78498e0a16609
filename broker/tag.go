package broker

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A tag names a delivery to whoever settles it. Clients see it sealed: by a key of the
// subscription's life, so that it is worth nothing elsewhere, which every gateway
// derives from one that lies in the broker's NATS.
type tag struct {
	owner             uint64 // the gateway that handed it out
	epoch             uint64 // of the subscription
	sequence, attempt uint64
	arrived           time.Time
	subscriber, order uint64 // whose it is there; 0: received without one
	subject           string // where it is settled
}

const (
	tagVersion = 1
	// ackPrefix begins all subjects at which NATS settles deliveries.
	ackPrefix = "$JS.ACK."
	// maxTag bounds the text of a tag that is looked at.
	maxTag = 1024
)

// seal is the tag's text. Its subject is shortened by the prefix that those of its
// subscription have as a rule.
func (t tag) seal(seal cipher.AEAD, prefix string) string {
	b := make([]byte, 0, 96)
	b = append(b, tagVersion)
	b = binary.BigEndian.AppendUint64(b, t.owner)
	for _, n := range []uint64{t.epoch, t.sequence, t.attempt, uint64(t.arrived.UnixMilli()), t.subscriber, t.order} {
		b = binary.AppendUvarint(b, n)
	}
	b = append(b, strings.TrimPrefix(t.subject, prefix)...)
	return base64.RawURLEncoding.EncodeToString(seal.Seal(nil, nil, b, nil))
}

// openTag reads a tag's text; false if it was not sealed so.
func openTag(seal cipher.AEAD, prefix, text string) (t tag, ok bool) {
	if len(text) > maxTag {
		return t, false
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return t, false
	}
	b, err := seal.Open(nil, nil, sealed, nil)
	if err != nil || len(b) < 9 || b[0] != tagVersion {
		return t, false
	}
	t.owner = binary.BigEndian.Uint64(b[1:9])
	b = b[9:]
	var arrived uint64
	for _, n := range []*uint64{&t.epoch, &t.sequence, &t.attempt, &arrived, &t.subscriber, &t.order} {
		var size int
		if *n, size = binary.Uvarint(b); size <= 0 {
			return t, false
		}
		b = b[size:]
	}
	t.arrived = time.UnixMilli(int64(arrived))
	if t.subject = string(b); !strings.HasPrefix(t.subject, ackPrefix) {
		t.subject = prefix + t.subject
	}
	return t, true
}

// Where the key lies that all gateways of a broker share.
const (
	sharedBucket = "outrelay"
	sealKey      = "tags"
)

// seals keeps the key that tags are sealed with.
type seals struct {
	broker *Broker

	mu  sync.Mutex
	key []byte // nil until it is needed
}

// of is the seal of one life of a subscription.
func (s *seals) of(ctx context.Context, namespace string, life uint64) (cipher.AEAD, error) {
	key, err := s.shared(ctx)
	if err != nil {
		return nil, fmt.Errorf("key of tags: %w", err)
	}
	own, err := hkdf.Key(sha256.New, key, nil, fmt.Sprintf("outrelay tag 1 %016x %s", life, namespace), 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(own)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// shared finds the key, or makes it.
func (s *seals) shared(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key != nil {
		return s.key, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	bucket, err := s.broker.bucket(ctx, jetstream.KeyValueConfig{
		Bucket:      sharedBucket,
		Description: "what outrelay's gateways share",
		Storage:     s.broker.storage(),
		Replicas:    s.broker.config.Log.Replicas,
	})
	if err != nil {
		return nil, err
	}
	for {
		entry, err := bucket.Get(ctx, sealKey)
		if err == nil && len(entry.Value()) >= 32 {
			s.key = entry.Value()
			return s.key, nil
		}
		if err == nil {
			return nil, errors.New("it is too short; delete it from the bucket " + sharedBucket)
		}
		if !errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil, err
		}
		key := make([]byte, 32)
		rand.Read(key)
		if _, err = bucket.Create(ctx, sealKey, key); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			return nil, err
		} // another gateway may have been first
	}
}

// bucket finds a key-value bucket, or makes it.
func (b *Broker) bucket(ctx context.Context, c jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	for {
		bucket, err := b.js.KeyValue(ctx, c.Bucket)
		if !errors.Is(err, jetstream.ErrBucketNotFound) {
			return bucket, err
		}
		bucket, err = b.js.CreateKeyValue(ctx, c)
		if !errors.Is(err, jetstream.ErrBucketExists) { // else another gateway was first
			return bucket, err
		}
	}
}

func (b *Broker) storage() jetstream.StorageType {
	if b.config.Log.Storage == "memory" {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}
