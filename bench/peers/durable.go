package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// tokenLife is how long a token of the load is good for: longer than any load.
const tokenLife = time.Hour

// A durableSession is one session with one durable subscription, and what it has seen.
type durableSession struct {
	load    *durableLoad
	client  *client
	next    int32 // the number of the event that is due
	acks    int   // not answered yet
	message []byte
}

// A durableLoad is what its sessions share.
type durableLoad struct {
	*engine
	sessions    []*durableSession
	redelivered int
}

// durableSubscriptions has each of the spec's topics taken by a durable subscription of
// its own on a session of its own, publishes on all in turn at the spec's rate, and acks
// each delivery.
func durableSubscriptions(s spec) (result, error) {
	var r result
	bare, err := resident(s.PID)
	if err != nil {
		return r, err
	}
	r.BareMiB = bare / 1024
	token, err := rootToken(s.KeyName, s.KeyFile)
	if err != nil {
		return r, err
	}
	e, err := newEngine(s)
	if err != nil {
		return r, err
	}
	d := &durableLoad{engine: e}
	cpu, err := processorTime(s.PID)
	if err != nil {
		return r, err
	}
	began := time.Now()
	for i := range s.Topics {
		if err := d.open(i, token); err != nil {
			return r, fmt.Errorf("subscription %d: %w", i, err)
		}
	}
	r.Connects, r.ConnectFor = s.Topics, time.Since(began).Seconds()
	now, err := processorTime(s.PID)
	if err != nil {
		return r, err
	}
	r.ConnectCPU = (now - cpu).Seconds()
	if err := e.addPublishers(s.Publishers); err != nil {
		return r, err
	}
	e.wait(settle)

	e.took = make([]int64, 0, 1<<20)
	t, err := e.newTimer()
	if err != nil {
		return r, err
	}
	m, err := e.begin()
	if err != nil {
		return r, err
	}
	next := time.Now()
	e.timed, e.from, e.until = true, next.UnixNano(), next.Add(s.Measure).UnixNano()
	for _, part := range []struct {
		share time.Duration // fifths
		mib   *float64
	}{{1, &r.EarlyMiB}, {4, &r.LateMiB}} {
		if next, err = e.paced(t, next, next.Add(part.share*s.Measure/5)); err != nil {
			return r, err
		}
		kib, err := resident(s.PID)
		if err != nil {
			return r, err
		}
		*part.mib = kib / 1024
	}
	if err := m.end(&r); err != nil {
		return r, err
	}
	e.drain()
	d.settled()
	peak, err := peakMemory(s.PID)
	if err != nil {
		return r, err
	}
	r.PeakMiB = peak / 1024
	if err := d.look(token); err != nil {
		return r, err
	}
	e.latencies(&r)
	r.Checked, r.Redelivered, r.Wrong = e.total, d.redelivered, e.wrong
	e.close()
	return r, nil
}

// open opens the session of a topic and its subscription.
func (d *durableLoad) open(topic int, token string) error {
	subscribe := fmt.Sprintf(`{"op":"subscribe","id":"s","topic":"%s/%d","subscription":"bench-%d"}`, d.kind, topic, topic)
	o := d.dialect.publisher(d.kind, 0)
	o.header = "Authorization: " + token + "\r\n"
	o.messages = [][]byte{appendClientFrame(nil, frameText, []byte(subscribe))}
	o.ready = `"op":"subscribed"`
	c, err := d.add(o, 0)
	if err != nil {
		return err
	}
	s := &durableSession{load: d, client: c, next: int32(topic)}
	c.take = s.take
	d.sessions = append(d.sessions, s)
	return d.watch(c)
}

// take takes a message of the gateway.
func (s *durableSession) take(m []byte) {
	var got struct {
		Op       string
		Delivery string
		Attempt  int
		Unknown  []string
		Event    json.RawMessage
	}
	if err := json.Unmarshal(m, &got); err != nil {
		s.load.fault("a session got %q: %v", m[:min(len(m), 300)], err)
		return
	}
	switch {
	case got.Op == "event":
		s.delivery(got.Event, got.Attempt)
		s.acks++
		s.message = fmt.Appendf(s.message[:0], `{"op":"ack","id":"s","deliveries":[%q]}`, got.Delivery)
		s.client.out = appendClientFrame(s.client.out, frameText, s.message)
		s.load.write(s.client)
	case got.Op == "ok" && len(got.Unknown) == 0:
		s.acks--
	case got.Op == "position":
	default:
		s.load.fault("a session got %q", m[:min(len(m), 300)])
	}
}

// delivery checks one delivery.
func (s *durableSession) delivery(event []byte, attempt int) {
	e := s.load.engine
	if len(event) < leastEvent || string(event[:len(prefix)]) != prefix {
		e.fault("a subscription got %q", event[:min(len(event), 300)])
		return
	}
	n := int32(digits(event[numberAt : numberAt+numberDigits]))
	if attempt > 1 {
		s.load.redelivered++
		if n < s.next { // known
			return
		}
	}
	if n != s.next {
		e.fault("subscription %d got event %d at attempt %d, want %d", s.next%e.step, n, attempt, s.next)
	}
	s.next = n + e.step
	e.got[0]++
	e.total++
	if at := int64(digits(event[timeAt : timeAt+timeDigits])); at >= e.from && at < e.until {
		e.took = append(e.took, e.now-at)
	}
}

// settled waits until each ack is answered.
func (d *durableLoad) settled() {
	late := after(drainTime)
	for {
		open := 0
		for _, s := range d.sessions {
			open += s.acks
		}
		if open == 0 || len(d.wrong) > 0 {
			return
		}
		if late() {
			d.fault("%d acks were not answered ok", open)
			return
		}
		d.turn(10)
	}
}

// look sees over HTTP that the gateway owes no subscription anything.
func (d *durableLoad) look(token string) error {
	ask, err := http.NewRequest(http.MethodGet, "http://"+d.spec.Address+"/subscriptions", nil)
	if err != nil {
		return err
	}
	ask.Host = "localhost"
	ask.Header.Set("Authorization", token)
	client := http.Client{Timeout: drainTime}
	defer client.CloseIdleConnections()
	answer, err := client.Do(ask)
	if err != nil {
		return fmt.Errorf("the subscriptions' state: %w", err)
	}
	defer answer.Body.Close()
	var state struct {
		Subscriptions []struct {
			Name                                     string
			Pending, Unsettled, Delayed, Subscribers int
		}
	}
	if err := json.NewDecoder(answer.Body).Decode(&state); err != nil || answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the subscriptions' state: %s, %w", answer.Status, err)
	}
	if n := len(state.Subscriptions); n != d.spec.Topics {
		d.fault("the gateway knows %d subscriptions, want %d", n, d.spec.Topics)
	}
	for _, s := range state.Subscriptions {
		if s.Pending != 0 || s.Unsettled != 0 || s.Delayed != 0 || s.Subscribers != 1 {
			d.fault("in the end %+v", s)
		}
	}
	return nil
}

// rootToken makes a shared access signature for the namespace's root (protocol
// section 7): durable subscriptions are for nobody without a token.
func rootToken(name, file string) (string, error) {
	key, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	resource := url.QueryEscape("http://localhost/")
	expires := fmt.Sprint(time.Now().Add(tokenLife).Unix())
	sum := hmac.New(sha256.New, bytes.TrimSpace(key))
	fmt.Fprintf(sum, "%s\n%s", resource, expires)
	signature := url.QueryEscape(base64.StdEncoding.EncodeToString(sum.Sum(nil)))
	return strings.Join([]string{"SharedAccessSignature sr=" + resource, "sig=" + signature, "se=" + expires, "skn=" + url.QueryEscape(name)}, "&"), nil
}
