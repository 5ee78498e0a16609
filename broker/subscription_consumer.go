package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outrelay/outrelay/schemas"
)

// A subscription is a durable pull consumer of the namespace's log. Its position and
// its attempts are the consumer's; what else it is lies in the consumer's metadata. A
// consumer can't be moved to where it never was, so replay makes another one and then
// deletes the first: the two have the names of one subscription by turns. Where a
// fault leaves both, the first of them is the subscription.
var consumerPrefixes = [2]string{"sub0-", "sub1-"}

// consumerName is injective: no segment holds a "=".
func consumerName(turn int, subscription string) string {
	return consumerPrefixes[turn] + toSubject.Replace(subscription)
}

// subscriptionName undoes consumerName; false for consumers that are no subscription.
func subscriptionName(consumer string) (name string, turn int, ok bool) {
	for turn, prefix := range consumerPrefixes {
		if rest, ok := strings.CutPrefix(consumer, prefix); ok {
			return strings.ReplaceAll(rest, "=", "."), turn, true
		}
	}
	return "", 0, false
}

const (
	// metadataSubscription is the key of the definition in the consumer's metadata.
	metadataSubscription = "outrelay.subscription"
	// ackSlack is by how much the consumer's ack wait is longer than the
	// subscription's: the gateway that handed a delivery out ends it, and the consumer
	// only where that gateway is gone.
	ackSlack = time.Second
	// maxAckPending bounds what a subscription has unsettled or delayed, on all
	// gateways; beyond it nothing new is handed out.
	maxAckPending = 20_000
	// maxWaiting bounds the subscribers and receivers of a subscription, on all gateways.
	maxWaiting = 20_000
	// maxFormer bounds the dead-letter topics that a subscription remembers.
	maxFormer = 8
)

// A definition is what a subscription is, as kept in the consumer's metadata.
type definition struct {
	// Life is random, so that a subscription made anew is another one.
	Life uint64 `json:"life,string"`
	// Epoch counts the replays. Tags are of one epoch.
	Epoch      uint64              `json:"epoch,omitempty"`
	Topics     schemas.TopicFilter `json:"topics"`
	Filter     string              `json:"filter,omitempty"`
	SQL        string              `json:"sql,omitempty"`
	AckWait    time.Duration       `json:"ackwait"`
	MaxDeliver int                 `json:"maxdeliver"`
	DeadLetter schemas.Topic       `json:"deadletter,omitempty"`
	// Former are the dead-letter topics before this one, newest last.
	Former    []schemas.Topic `json:"former,omitempty"`
	Exclusive bool            `json:"exclusive,omitempty"`
	Expires   time.Duration   `json:"expires"`

	// After is the sequence after which this epoch began.
	After uint64 `json:"after"`
	// NotBefore drops what was accepted earlier, in nanoseconds since 1970.
	NotBefore int64 `json:"notbefore,omitempty"`
	// LastUpTo drops what is not the last of its topic up to this sequence.
	LastUpTo uint64 `json:"lastupto,omitempty"`
	// Replayed is the end of the log when this epoch began, if it is not the first.
	Replayed uint64 `json:"replayed,omitempty"`
}

func (d definition) options() SubscriptionOptions {
	return SubscriptionOptions{
		Topics: d.Topics, Filter: d.Filter, SQL: d.SQL, AckWait: d.AckWait, MaxDeliver: d.MaxDeliver,
		DeadLetter: &d.DeadLetter, Exclusive: &d.Exclusive, Expires: d.Expires,
	}
}

// requeueSubject is where the events go that are handed back to one life of a
// subscription.
func requeueSubject(namespace, subscription string, life uint64) string {
	return fmt.Sprintf("%s%s.%s.%016x", requeuePrefix, toSubject.Replace(namespace), toSubject.Replace(subscription), life)
}

// config is the consumer that the definition asks for.
func (d definition) config(ns *namespace, name string, turn int) (jetstream.ConsumerConfig, error) {
	metadata, err := json.Marshal(d)
	if err != nil {
		return jetstream.ConsumerConfig{}, err
	}
	consumer := consumerName(turn, name)
	return jetstream.ConsumerConfig{
		Name:              consumer,
		Durable:           consumer,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       d.After + 1,
		AckPolicy:         jetstream.AckExplicitPolicy,
		AckWait:           d.AckWait + ackSlack,
		MaxDeliver:        -1, // it would drop in silence
		MaxAckPending:     maxAckPending,
		MaxWaiting:        maxWaiting,
		ReplayPolicy:      jetstream.ReplayInstantPolicy,
		InactiveThreshold: d.Expires,
		FilterSubjects: []string{
			filterSubject(logPrefix, ns.name, d.Topics),
			requeueSubject(ns.name, name, d.Life),
		},
		Metadata: map[string]string{metadataSubscription: string(metadata)},
	}, nil
}

// A consumer is a subscription as JetStream has it.
type consumer struct {
	definition
	name string // the subscription's
	turn int
	info jetstream.ConsumerInfo
}

func readConsumer(info *jetstream.ConsumerInfo) (*consumer, error) {
	name, turn, ok := subscriptionName(info.Name)
	if !ok {
		return nil, fmt.Errorf("consumer %s is no subscription", info.Name)
	}
	c := &consumer{name: name, turn: turn, info: *info}
	if err := json.Unmarshal([]byte(info.Config.Metadata[metadataSubscription]), &c.definition); err != nil {
		return nil, fmt.Errorf("consumer %s: %w", info.Name, err)
	}
	return c, nil
}

// api asks a question of JetStream.
func api[T any](ctx context.Context, b *Broker, subject string, request any) (answer T, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m := &nats.Msg{Subject: "$JS.API." + subject}
	if request != nil {
		if m.Data, err = json.Marshal(request); err != nil {
			return answer, err
		}
	}
	reply, err := b.request(ctx, m)
	if err != nil {
		return answer, err
	}
	var fault struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &fault); err != nil {
		return answer, err
	}
	if fault.Error != nil {
		return answer, fault.Error
	}
	return answer, json.Unmarshal(reply.Data, &answer)
}

// findConsumer asks for a subscription; ErrNotFound if there is none.
func (b *Broker) findConsumer(ctx context.Context, ns *namespace, name string) (*consumer, error) {
	for turn := range consumerPrefixes {
		info, err := api[jetstream.ConsumerInfo](ctx, b, "CONSUMER.INFO."+ns.log.stream+"."+consumerName(turn, name), nil)
		switch {
		case err == nil:
			return readConsumer(&info)
		case !isCode(err, jetstream.JSErrCodeConsumerNotFound) && !isCode(err, jetstream.JSErrCodeStreamNotFound):
			return nil, err
		}
	}
	return nil, errNoSubscription()
}

// errExists is what createConsumer returns where there is another one already.
var errExists = errors.New("the consumer exists")

// createConsumer makes a subscription's consumer; errExists if there is one.
func (b *Broker) createConsumer(ctx context.Context, ns *namespace, name string, turn int, d definition) (*consumer, error) {
	c, err := b.writeConsumer(ctx, ns, name, turn, d, "create")
	if isCode(err, jetstream.JSErrCodeConsumerExists) || isCode(err, jetstream.JSErrCodeConsumerNameExists) || isCode(err, jetstream.JSErrCodeConsumerAlreadyExists) {
		return nil, errExists
	}
	return c, err
}

// updateConsumer changes a subscription's consumer; ErrNotFound if there is none.
func (b *Broker) updateConsumer(ctx context.Context, ns *namespace, name string, turn int, d definition) (*consumer, error) {
	c, err := b.writeConsumer(ctx, ns, name, turn, d, "update")
	if isCode(err, jetstream.JSErrCodeConsumerDoesNotExist) || isCode(err, jetstream.JSErrCodeConsumerNotFound) {
		return nil, errNoSubscription()
	}
	return c, err
}

func (b *Broker) writeConsumer(ctx context.Context, ns *namespace, name string, turn int, d definition, action string) (*consumer, error) {
	config, err := d.config(ns, name, turn)
	if err != nil {
		return nil, err
	}
	info, err := api[jetstream.ConsumerInfo](ctx, b, "CONSUMER.CREATE."+ns.log.stream+"."+config.Name, map[string]any{
		"stream_name": ns.log.stream, "config": config, "action": action,
	})
	if err != nil {
		return nil, err
	}
	return readConsumer(&info)
}

// deleteConsumer deletes one of a subscription's consumers and says whether it was there.
func (b *Broker) deleteConsumer(ctx context.Context, ns *namespace, name string, turn int) (bool, error) {
	_, err := api[struct{}](ctx, b, "CONSUMER.DELETE."+ns.log.stream+"."+consumerName(turn, name), nil)
	if isCode(err, jetstream.JSErrCodeConsumerNotFound) {
		return false, nil
	}
	return err == nil, err
}

// listConsumers asks for all subscriptions of a namespace, by name.
func (b *Broker) listConsumers(ctx context.Context, ns *namespace) (map[string]*consumer, error) {
	all := map[string]*consumer{}
	for offset := 0; ; {
		page, err := api[struct {
			Total     int                       `json:"total"`
			Consumers []*jetstream.ConsumerInfo `json:"consumers"`
		}](ctx, b, "CONSUMER.LIST."+ns.log.stream, map[string]any{"offset": offset})
		if err != nil {
			return nil, err
		}
		for _, info := range page.Consumers {
			if _, _, ok := subscriptionName(info.Name); !ok {
				continue
			}
			c, err := readConsumer(info)
			if err != nil {
				return nil, err
			}
			if other := all[c.name]; other == nil || c.turn < other.turn {
				all[c.name] = c
			}
		}
		offset += len(page.Consumers)
		if len(page.Consumers) == 0 || offset >= page.Total {
			return all, nil
		}
	}
}

// countConsumers counts the subscriptions of a namespace, those in the middle of a
// replay twice.
func (b *Broker) countConsumers(ctx context.Context, ns *namespace) (int, error) {
	count := 0
	for offset := 0; ; {
		page, err := api[struct {
			Total     int      `json:"total"`
			Consumers []string `json:"consumers"`
		}](ctx, b, "CONSUMER.NAMES."+ns.log.stream, map[string]any{"offset": offset})
		if err != nil {
			return 0, err
		}
		for _, name := range page.Consumers {
			if _, _, ok := subscriptionName(name); ok {
				count++
			}
		}
		offset += len(page.Consumers)
		if len(page.Consumers) == 0 || offset >= page.Total {
			return count, nil
		}
	}
}
