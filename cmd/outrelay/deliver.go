package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/deliver"
	"github.com/outrelay/outrelay/subscriber"
)

const (
	// defaultConcurrency is how many events deliver has with the service at once.
	defaultConcurrency = 8
	maxConcurrency     = 1000
	// defaultAnswer is how long the service may take for one.
	defaultAnswer = 30 * time.Second
)

func newDeliverCommand() *cobra.Command {
	var (
		options          subscriber.DurableOptions
		to, line, mode   string
		headers, trusted string
		filter           string
		concurrency      int
		ordered          bool
		timeout          time.Duration
		common           *clientFlags
	)
	cmd := &cobra.Command{
		Use:   "deliver SUBSCRIPTION --to URL | --exec COMMAND",
		Short: "Hand the events of a durable subscription to a local web service",
		Long: fmt.Sprintf(`deliver makes a POST of each event, as the CloudEvents HTTP binding says, so that a web
service subscribes without a line of code:

  2xx                   acks the event
  429, 5xx, 3xx         releases it with a delay that grows with its attempts and is no
                        shorter than Retry-After; so do a connection that is refused or
                        cut and an answer that is late. Redirects are not followed.
  any other 4xx         rejects it: it goes to the dead-letter topic with the reason

With --exec the event is one line of JSON on the standard input of a command, which the
shell runs: exit code 0 acks, %[1]d rejects, any other releases. It is killed, with its
process group, when --timeout is over. What it prints goes to standard error.

An event whose last attempt fails (the subscription's maxdeliver) is rejected. While the
service is down one event at a time is tried, at intervals of up to half a minute; the
others are kept meanwhile and use no attempts.

With --ordered the events of one partitionkey are handed over one after another, in the
order in which they were stored: the next waits until the one before is acked or
rejected. It takes one agent: a subscription that it makes is exclusive.

A --topic makes the subscription where there is none, with --from, --filter, --sql,
--ackwait, --maxdeliver and --deadletter. It connects again by itself. It ends when it is
interrupted, which is no failure: what is under way then has %[2]v to finish, and the rest
is released.`, deliver.ExitReject, deliver.Farewell),
		Example: `  outrelay deliver billing --to http://localhost:3000/events
  outrelay deliver billing --topic 'orders/**' --deadletter dead/billing --to http://localhost:3000/events
  outrelay deliver billing --to http://localhost:3000/events --mode structured --ordered
  outrelay deliver billing --exec 'jq -r .id >> ids.txt' --concurrency 1`,
		Args:              oneName,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			making := []string{"from", "after", "filter", "sql", "ackwait", "maxdeliver", "deadletter"}
			var err error
			switch {
			case to == "" && line == "":
				err = errors.New("--to is missing; give the service, such as --to http://localhost:3000/events, or --exec COMMAND")
			case to != "" && line != "":
				err = errors.New("--to and --exec are two ways to one thing; give one")
			case line != "" && (headers != "" || trusted != "" || cmd.Flags().Changed("mode")):
				err = errors.New("--mode, --header-file and --to-ca go with --to")
			case concurrency < 1 || concurrency > maxConcurrency:
				err = fmt.Errorf("--concurrency is %d; give 1 to %d", concurrency, maxConcurrency)
			case timeout <= 0:
				err = errors.New("--timeout must be longer than nothing")
			case options.Topic == "" && slices.ContainsFunc(making, cmd.Flags().Changed):
				err = fmt.Errorf("--%s make a subscription and go with --topic; \"outrelay subscriptions create\" changes one", strings.Join(making, ", --"))
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			if filter != "" {
				options.Filter = json.RawMessage(filter)
			}
			out := newRelayPrinter(cmd, common)
			var target deliver.Target = &deliver.Exec{Command: line, Timeout: timeout, Output: cmd.ErrOrStderr()}
			if to != "" {
				c := deliver.HTTPConfig{To: to, Mode: deliver.Mode(mode), Timeout: timeout, Headers: headers, Connections: concurrency}
				if trusted != "" {
					if c.TLS, err = trust("--to-ca", trusted); err != nil {
						return usageError{cmd.CommandPath(), err}
					}
				}
				if target, err = deliver.NewHTTP(c); err != nil {
					return usageError{cmd.CommandPath(), err}
				}
			}
			defer target.Close()
			client, err := common.client(cmd)
			if err != nil {
				return err
			}
			defer client.Close()
			agent := &deliver.Agent{
				Client: client, Subscription: args[0], Options: options, Target: target,
				Concurrency: concurrency, Ordered: ordered,
				Report: func(r deliver.Report) { out.print(r, describeReport(r)) }, Tell: out.tell,
				OnState: out.states(args[0]),
			}
			if out.tty {
				out.tell(fmt.Sprintf("handing the events of %s to %s", args[0], target))
			}
			return misused(cmd, agent.Run(cmd.Context()))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&to, "to", "", "the service's `URL`")
	flags.StringVar(&line, "exec", "", "run `COMMAND` for each event instead, with the event on its standard input")
	flags.StringVar(&mode, "mode", string(deliver.Binary), "send events in this content `MODE`: binary or structured")
	flags.StringVar(&headers, "header-file", "", "add the headers in `FILE` to each request, \"Name: value\" a line; read again for each")
	flags.StringVar(&trusted, "to-ca", "", "trust the certificates in `FILE` (PEM) too, for a service with https")
	flags.IntVar(&concurrency, "concurrency", defaultConcurrency, "have `N` events with the service at once")
	flags.BoolVar(&ordered, "ordered", false, "hand over the events of one partitionkey one after another, in order")
	flags.DurationVar(&timeout, "timeout", defaultAnswer, "how long the service may take for an event")
	flags.StringVar(&options.Topic, "topic", "", "the topic `FILTER` whose events a new subscription gets")
	flags.StringVar(&options.From, "from", "", "begin with `X`: latest (the default), earliest, last, or a time such as 2026-01-31T12:00:00Z")
	flags.StringVar(&options.After, "after", "", "begin after this `CURSOR`; wins over --from")
	flags.StringVar(&filter, "filter", "", "let through what this `JSON` matches: exact, prefix, suffix, all, any, not, or an array of them")
	flags.StringVar(&options.SQL, "sql", "", "let through what this CloudEvents SQL `EXPR` is true for")
	flags.DurationVar(&options.AckWait, "ackwait", 0, "how long an event may stay unsettled once the agent is gone (default 30s)")
	flags.IntVar(&options.MaxDeliver, "maxdeliver", 0, "after `N` attempts an event goes to the dead-letter topic (default 10)")
	flags.StringVar(&options.DeadLetter, "deadletter", "", "the `TOPIC` for dead letters; without one they are dropped")
	common = addClientFlags(cmd)
	err := cmd.RegisterFlagCompletionFunc("to", cobra.FixedCompletions([]string{"http://", "https://"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	if err != nil {
		panic(err) // the flag is there
	}
	return cmd
}

// describeReport is a report for people.
func describeReport(r deliver.Report) string {
	status := "-"
	if r.Status != nil {
		status = fmt.Sprint(*r.Status)
	}
	text := fmt.Sprintf("%s  %-8s  %s  %s  %s  %d ms", time.Now().Format("15:04:05"), r.Outcome, status, r.ID, r.Source, r.Milliseconds)
	if r.Attempt > 1 {
		text += fmt.Sprintf("  attempt %d", r.Attempt)
	}
	if r.Error != "" {
		text += "  " + r.Error
	}
	return text
}
