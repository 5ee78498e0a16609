package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

func newSubscribeCommand() *cobra.Command {
	var (
		options subscriber.SubscribeOptions
		filter  string
		count   int
		name    string
		noAck   bool
		common  *clientFlags
	)
	cmd := &cobra.Command{
		Use:   "subscribe FILTER | --subscription NAME [FILTER]",
		Short: "Print the events of a topic filter as they come",
		Long: `subscribe prints each event exactly as it is delivered, one on a line, and the
gateway's notices with them: a gap says which events are missing, and why. When the
connection is lost it connects again and goes on where it was.

With --subscription it takes the events of a durable subscription, each handed out to
one of its subscribers, and acks an event once its line is written. A FILTER makes the
subscription where there is none, with --from, --filter and --sql. With -n no more
events are asked for than are printed.

It ends after -n events, or when it is interrupted, which is no failure.`,
		Example: `  outrelay subscribe 'orders/**'
  outrelay subscribe --subscription billing 'orders/**' --from earliest
  outrelay subscribe 'orders/*' --from earliest -n 10 --json
  outrelay subscribe 'quakes/**' --filter '{"exact":{"type":"gov.usgs.explosion"}}'`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return fmt.Errorf("there are %d topic filters; give one, in quotes if it has a *", len(args))
			case len(args) == 0 && name == "":
				return errors.New("say which topics: a topic filter, such as 'orders/**', or --subscription NAME")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 {
				return usageError{cmd.CommandPath(), errors.New("-n is a number of events; 0 has no end")}
			}
			if noAck && name == "" {
				return usageError{cmd.CommandPath(), errors.New("--no-ack goes with --subscription; a stream has no acks")}
			}
			if filter != "" {
				options.Filter = []byte(filter)
			}
			client, err := common.client(cmd)
			if err != nil {
				return err
			}
			defer client.Close()
			out := cmd.OutOrStdout()
			printer := &linePrinter{out: bufio.NewWriter(out), text: !common.json && isTerminal(out)}
			what := name
			if what == "" {
				what = args[0]
			}
			if !common.quiet {
				options.OnState = (&stateTeller{w: cmd.ErrOrStderr(), filter: what, all: isTerminal(cmd.ErrOrStderr())}).tell
			}
			options.FailFast, options.Notices = true, true
			if name != "" {
				w := &worker{client: client, name: name, options: options, count: count, noAck: noAck, printer: printer}
				if len(args) > 0 {
					w.topic = args[0]
				}
				err = w.work(cmd.Context())
				if cmd.Context().Err() != nil {
					return nil
				}
				return misused(cmd, err)
			}
			err = follow(cmd, client, args[0], options, count, printer)
			if cmd.Context().Err() != nil {
				return nil
			}
			return misused(cmd, err)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.From, "from", "", "begin with `X`: latest (the default), earliest, last, or a time such as 2026-01-31T12:00:00Z")
	flags.StringVar(&options.After, "after", "", "begin after this `CURSOR`; wins over --from")
	flags.StringVar(&filter, "filter", "", "let through what this `JSON` matches: exact, prefix, suffix, all, any, not, or an array of them")
	flags.StringVar(&options.SQL, "sql", "", "let through what this CloudEvents SQL `EXPR` is true for")
	flags.StringVar(&name, "subscription", "", "take the events of the durable subscription of this `NAME`")
	flags.BoolVar(&noAck, "no-ack", false, "leave the events of the subscription unsettled, so that they are handed out again")
	flags.IntVarP(&count, "count", "n", 0, "end after `N` events; notices do not count")
	common = addClientFlags(cmd)
	return cmd
}

// follow prints until count events have come.
func follow(cmd *cobra.Command, client *subscriber.Client, filter string, options subscriber.SubscribeOptions, count int, p *linePrinter) error {
	stream, err := client.Subscribe(cmd.Context(), filter, options)
	if err != nil {
		return err
	}
	defer stream.Close()
	events := 0
	for d, err := range stream.All(cmd.Context()) {
		if err != nil {
			return err
		}
		if err := p.print(d); err != nil {
			return err
		}
		if d.Notice == nil {
			events++
		}
		if events == count && count > 0 {
			return nil
		}
	}
	return nil
}

// A linePrinter prints a delivery on a line and lets it go at once.
type linePrinter struct {
	out  *bufio.Writer
	text bool // for people
}

func (p *linePrinter) print(d subscriber.Delivery) error {
	if p.text {
		p.out.WriteString(describe(&d))
	} else {
		p.raw(d.Raw)
	}
	p.out.WriteByte('\n')
	return p.out.Flush()
}

// raw prints JSON on a line: a line end in it stands between its tokens, where none is
// needed.
func (p *linePrinter) raw(json []byte) {
	for rest := json; len(rest) > 0; {
		i := bytes.IndexAny(rest, "\r\n")
		if i < 0 {
			i = len(rest)
		}
		p.out.Write(rest[:i])
		rest = rest[min(i+1, len(rest)):]
	}
}

// delivery prints what a durable subscription handed out.
func (p *linePrinter) delivery(d *subscriber.SubscriptionDelivery) error {
	if p.text {
		if d.Attempt > 1 {
			fmt.Fprintf(p.out, "(attempt %d) ", d.Attempt)
		}
		return p.print(d.Delivery)
	}
	fmt.Fprintf(p.out, `{"delivery":%q,"attempt":%d,"event":`, d.Tag, d.Attempt) // a tag is base64url
	p.raw(d.Raw)
	p.out.WriteString("}\n")
	return p.out.Flush()
}

// describe is a delivery for people: when, where, what.
func describe(d *subscriber.Delivery) string {
	if n := d.Notice; n != nil {
		switch {
		case n.Gap != nil:
			return "-- " + plain((&subscriber.GapError{Gap: *n.Gap}).Error(), 200)
		case n.Type == schemas.NoticeDraining:
			return "-- the gateway is about to stop; connecting again soon"
		}
		return "-- " + plain(string(n.Raw), 200)
	}
	e, err := schemas.ParseEvent(d.Raw)
	if err != nil {
		return plain(string(d.Raw), 200)
	}
	when := time.Now()
	if a, ok := e.Attribute("time"); ok {
		if t, err := schemas.ParseTimestamp(a.Value); err == nil {
			when = t
		}
	}
	words := []string{when.Local().Format("15:04:05"), d.Topic, e.Type(), e.ID()}
	if a, ok := e.Attribute("subject"); ok {
		words = append(words, strconv.Quote(plain(a.Value, 80)))
	}
	if data, ok := e.Data(); ok {
		words = append(words, plain(string(data), 120))
	}
	return plain(strings.Join(words, "  "), 400)
}

// plain is a stranger's text, fit for a terminal: printable, and not too long.
func plain(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !strconv.IsPrint(r):
			return -1
		}
		return r
	}, s)
	if r := []rune(s); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return s
}

// A stateTeller says on standard error how the connection is: what cut it, and that
// it is there again. On a terminal also that it is there at first.
type stateTeller struct {
	w      io.Writer
	filter string
	all    bool
	lost   time.Time
}

func (t *stateTeller) tell(s subscriber.State) {
	switch {
	case s.Phase == subscriber.Reconnecting && t.lost.IsZero():
		t.lost = s.Since
		fmt.Fprintf(t.w, "outrelay: connecting again: %v\n", plain(s.Why.Error(), 300))
	case s.Phase == subscriber.Connected && !t.lost.IsZero():
		fmt.Fprintf(t.w, "outrelay: connected again after %v\n", time.Since(t.lost).Round(time.Millisecond))
		t.lost = time.Time{}
	case s.Phase == subscriber.Connected && t.all:
		fmt.Fprintf(t.w, "outrelay: subscribed to %s\n", t.filter)
	}
}
