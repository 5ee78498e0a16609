package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

func newSubscriptionsCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "subscriptions",
		Short: "List, show, create and delete durable subscriptions",
		Long: `A durable subscription is a named position in a topic filter that outlives its
subscribers. Each event goes to one of them and is handed out again until it is acked;
after its last attempt it goes to the dead-letter topic.`,
		Example: `  outrelay subscriptions create billing --topic 'orders/**' --deadletter dead/billing
  outrelay subscribe --subscription billing
  outrelay subscriptions show billing`,
	})
	cmd.AddCommand(newListCommand(), newShowCommand(), newCreateCommand(), newDeleteCommand())
	return cmd
}

// newClientCommand makes cmd one that asks a gateway something once and prints objects:
// it gets the client's flags, and runs do with a client of them.
func newClientCommand(cmd *cobra.Command, do func(ctx context.Context, c *subscriber.Client, args []string, p *objectPrinter) error) *cobra.Command {
	common := addClientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := common.client(cmd)
		if err != nil {
			return err
		}
		defer client.Close()
		out := cmd.OutOrStdout()
		p := &objectPrinter{out: out, text: !common.json && isTerminal(out)}
		if err := do(cmd.Context(), client, args, p); err != nil {
			if cmd.Context().Err() != nil {
				return nil
			}
			return misused(cmd, err)
		}
		return p.flush()
	}
	return cmd
}

// An objectPrinter prints an object a line, or a table for a person.
type objectPrinter struct {
	out   io.Writer
	text  bool
	table *tabwriter.Writer
}

// object prints v as JSON, or its row under the head; the head is printed once.
func (p *objectPrinter) object(v any, head, row string) error {
	if !p.text {
		return json.NewEncoder(p.out).Encode(v)
	}
	if p.table == nil {
		p.table = tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(p.table, head)
	}
	_, err := fmt.Fprintln(p.table, row)
	return err
}

func (p *objectPrinter) flush() error {
	if p.table == nil {
		return nil
	}
	return p.table.Flush()
}

const subscriptionHead = "NAME\tTOPIC\tPENDING\tUNSETTLED\tDELAYED\tREDELIVERED\tSUBSCRIBERS\tOLDEST UNSETTLED\tDEAD LETTERS TO"

func (p *objectPrinter) subscription(s schemas.Subscription) error {
	oldest, dead := "-", "-"
	if s.OldestUnsettled != nil {
		oldest = time.Since(*s.OldestUnsettled).Round(time.Second).String()
	}
	if s.DeadLetter != "" {
		dead = string(s.DeadLetter)
	}
	return p.object(s, subscriptionHead, fmt.Sprintf("%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s",
		s.Name, s.Topic, s.Pending, s.Unsettled, s.Delayed, s.Redelivered, s.Subscribers, oldest, dead))
}

// oneName is the check of the arguments of a command about one subscription.
func oneName(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("name one subscription")
	}
	return nil
}

func newListCommand() *cobra.Command {
	return newClientCommand(&cobra.Command{
		Use:     "list",
		Short:   "List the durable subscriptions that the token may use",
		Long:    `list prints the durable subscriptions that the token may use, by name, with their state.`,
		Example: `  outrelay subscriptions list`,
		Args:    cobra.NoArgs,
	}, func(ctx context.Context, c *subscriber.Client, _ []string, p *objectPrinter) error {
		list, err := c.Subscriptions(ctx)
		for _, s := range list {
			if err := p.subscription(s); err != nil {
				return err
			}
		}
		return err
	})
}

func newShowCommand() *cobra.Command {
	return newClientCommand(&cobra.Command{
		Use:   "show NAME",
		Short: "Show a durable subscription's options and state",
		Long: `show prints a subscription's options and its state: pending events were not yet handed
out, unsettled ones are with a subscriber, delayed ones come again later.`,
		Example: `  outrelay subscriptions show billing`,
		Args:    oneName,
	}, func(ctx context.Context, c *subscriber.Client, args []string, p *objectPrinter) error {
		s, err := c.Subscription(ctx, args[0])
		if err != nil {
			return err
		}
		return p.subscription(s)
	})
}

func newCreateCommand() *cobra.Command {
	var o subscriber.DurableOptions
	var filter string
	var cmd *cobra.Command
	cmd = newClientCommand(&cobra.Command{
		Use:   "create NAME --topic FILTER",
		Short: "Create a durable subscription, or change the options of one",
		Long: `create makes a durable subscription. Where there is one of this name already, it
changes ackwait, maxdeliver, deadletter and expires; anything else that differs is
refused.`,
		Example: `  outrelay subscriptions create billing --topic 'orders/**' --from earliest
  outrelay subscriptions create billing --topic 'orders/**' --ackwait 1m --maxdeliver 5 --deadletter dead/billing`,
		Args: oneName,
	}, func(ctx context.Context, c *subscriber.Client, args []string, p *objectPrinter) error {
		if filter != "" {
			o.Filter = []byte(filter)
		}
		// A zero would be taken for an option that was not given.
		for name, zero := range map[string]bool{"ackwait": o.AckWait == 0, "maxdeliver": o.MaxDeliver == 0, "expires": o.Expires == 0} {
			if zero && cmd.Flags().Changed(name) {
				return usageError{"outrelay subscriptions create", fmt.Errorf("--%s is 0; give more, or leave it out", name)}
			}
		}
		s, _, err := c.PutSubscription(ctx, args[0], o)
		if err != nil {
			return err
		}
		return p.subscription(s)
	})
	flags := cmd.Flags()
	flags.StringVar(&o.Topic, "topic", "", "the topic `FILTER` whose events it gets")
	flags.StringVar(&o.From, "from", "", "begin with `X`: latest (the default), earliest, last, or a time such as 2026-01-31T12:00:00Z")
	flags.StringVar(&o.After, "after", "", "begin after this `CURSOR`; wins over --from")
	flags.StringVar(&filter, "filter", "", "let through what this `JSON` matches: exact, prefix, suffix, all, any, not, or an array of them")
	flags.StringVar(&o.SQL, "sql", "", "let through what this CloudEvents SQL `EXPR` is true for")
	flags.DurationVar(&o.AckWait, "ackwait", 0, "how long a delivery may stay unsettled before it is handed out again (default 30s)")
	flags.IntVar(&o.MaxDeliver, "maxdeliver", 0, "after `N` attempts an event goes to the dead-letter topic (default 10)")
	flags.StringVar(&o.DeadLetter, "deadletter", "", "the `TOPIC` for dead letters; without one they are dropped")
	flags.BoolVar(&o.Exclusive, "exclusive", false, "one subscriber at a time gets all events")
	flags.DurationVar(&o.Expires, "expires", 0, "delete it when it was not used for so long (default 720h)")
	return cmd
}

func newDeleteCommand() *cobra.Command {
	return newClientCommand(&cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a durable subscription; its events stay in the log",
		Long: `delete ends a subscription for good: its place in the log and its attempts are forgotten.
The events stay in the log; what was not settled is handed out to nobody any more.`,
		Example: `  outrelay subscriptions delete billing`,
		Args:    oneName,
	}, func(ctx context.Context, c *subscriber.Client, args []string, p *objectPrinter) error {
		if err := c.DeleteSubscription(ctx, args[0]); err != nil {
			return err
		}
		return p.object(map[string]any{"name": args[0], "deleted": true}, "DELETED", args[0])
	})
}

func newReplayCommand() *cobra.Command {
	var from, after string
	cmd := newClientCommand(&cobra.Command{
		Use:   "replay NAME --from X",
		Short: "Move a durable subscription to another place in the log",
		Long: `replay moves a subscription: what comes next is what the log keeps from there on,
whether it was settled before or not.`,
		Example: `  outrelay replay billing --from earliest
  outrelay replay billing --from 2026-01-31T12:00:00Z`,
		Args: oneName,
	}, func(ctx context.Context, c *subscriber.Client, args []string, p *objectPrinter) error {
		if (from == "") == (after == "") {
			return usageError{"outrelay replay", errors.New("say where to go on: --from earliest, --from latest, --from a time, or --after CURSOR")}
		}
		if err := c.ReplaySubscription(ctx, args[0], from, after); err != nil {
			return err
		}
		s, err := c.Subscription(ctx, args[0])
		if err != nil {
			return err
		}
		return p.subscription(s)
	})
	cmd.Flags().StringVar(&from, "from", "", "go on with `X`: earliest, latest, last, or a time such as 2026-01-31T12:00:00Z")
	cmd.Flags().StringVar(&after, "after", "", "go on after this `CURSOR`")
	return cmd
}

func newDeadLettersCommand() *cobra.Command {
	var requeue bool
	cmd := newClientCommand(&cobra.Command{
		Use:   "deadletters NAME",
		Short: "Print the dead letters of a durable subscription, or requeue them",
		Long: `deadletters prints the events that the subscription gave up or rejected, as its
dead-letter topic has them: relaydeadreason says why. With --requeue those that were not
handed back yet are handed back to the subscription, as they were, with attempt 1; they
stay on the dead-letter topic.`,
		Example: `  outrelay deadletters billing
  outrelay deadletters billing --requeue`,
		Args: oneName,
	}, func(ctx context.Context, c *subscriber.Client, args []string, p *objectPrinter) error {
		lines := &linePrinter{out: bufio.NewWriter(p.out), text: p.text}
		var gap *subscriber.GapError
		for d, err := range c.DeadLetters(ctx, args[0]) {
			if errors.As(err, &gap) {
				continue // what the log keeps is what can be printed
			}
			if err != nil {
				return err
			}
			if err := lines.print(d); err != nil {
				return err
			}
		}
		if !requeue {
			return nil
		}
		return c.Requeue(ctx, args[0])
	})
	cmd.Flags().BoolVar(&requeue, "requeue", false, "hand them back to the subscription")
	return cmd
}
