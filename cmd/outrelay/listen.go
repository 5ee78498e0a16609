package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/forward"
	"github.com/outrelay/outrelay/subscriber"
)

// defaultConnections is how many connections listen and bridge have open at once.
const defaultConnections = 1000

func newListenCommand() *cobra.Command {
	var (
		to          string
		options     subscriber.ListenOptions
		connections int
		common      *clientFlags
	)
	cmd := &cobra.Command{
		Use:   "listen NAME --to SERVICE",
		Short: "Expose a local service through the relay",
		Long: `listen makes a service on this machine, or one that this machine reaches, available
under the gateway's address, without an open port here: HTTP requests to GATEWAY/NAME/,
WebSockets, and streams of "outrelay bridge" or of any program that speaks Azure
Relay's protocol.

With --to http:// requests and WebSockets go to that server, without NAME in their path
and with X-Forwarded-For, -Host and -Proto. With tcp:// and unix: a WebSocket is a
stream of bytes, and an HTTP request is one, too: the request as HTTP/1.1 has it.

Each request and stream is printed on a line when it is over. When the connection to the
gateway is lost it connects again. It ends when it is interrupted, which is no failure;
requests under way then have 10 seconds to finish, streams are cut.`,
		Example: `  outrelay listen shop --to http://localhost:3000
  outrelay listen office/printer --to tcp://192.168.1.20:9100
  outrelay listen api --to unix:/run/api.sock --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := forward.ParseTarget(to)
			switch {
			case to == "":
				err = errors.New("--to is missing; give the service, such as --to http://localhost:3000")
			case err != nil:
				err = fmt.Errorf("--to: %w", err)
			case connections < 1:
				err = errors.New("--connections must be at least 1")
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			config, err := common.config()
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			client, err := subscriber.New(config)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			defer client.Close()
			printer := newRelayPrinter(cmd, common)
			options.Requests, options.FailFast = connections, true
			options.Upgrades = target.URL != nil
			options.OnState = printer.states(args[0])
			// The signal ends the connecting, and later not the listener, which is to
			// answer what is under way.
			ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
			defer cancel()
			connected := context.AfterFunc(cmd.Context(), cancel)
			l, err := client.ListenWith(ctx, args[0], options)
			connected()
			if err != nil {
				if cmd.Context().Err() != nil {
					return nil
				}
				return misused(cmd, err)
			}
			address := strings.TrimRight(config.Gateway, "/") + "/" + strings.Trim(args[0], "/") + "/"
			printer.print(map[string]string{"listening": l.Addr().String(), "address": address, "to": target.String()},
				fmt.Sprintf("%s goes to %s", address, target))
			service := &forward.Service{
				Name: l.Addr().String(), Target: target, Scheme: schemeOf(config.Gateway), Connections: connections, Report: printer.report,
			}
			return service.Run(cmd.Context(), l)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&to, "to", "", "the local `SERVICE`: http://HOST:PORT, tcp://HOST:PORT or unix:PATH")
	flags.StringVar(&options.ID, "id", "", "the `ID` by which senders may ask for this listener among those of the name")
	flags.BoolVar(&options.KeepName, "keep-name", false, "leave NAME in the path of requests")
	flags.IntVar(&connections, "connections", defaultConnections, "have at most `N` requests and streams open at once")
	common = addClientFlags(cmd)
	return cmd
}

func schemeOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Scheme
}

// A relayPrinter prints what listen, bridge and deliver have to say: results on standard output,
// a JSON object a line or text for people, and how the connection is on standard error.
type relayPrinter struct {
	text, quiet, tty bool

	mu   sync.Mutex
	out  io.Writer
	errs io.Writer
}

func newRelayPrinter(cmd *cobra.Command, common *clientFlags) *relayPrinter {
	out, errs := cmd.OutOrStdout(), cmd.ErrOrStderr()
	return &relayPrinter{
		text: !common.json && isTerminal(out), quiet: common.quiet, tty: isTerminal(errs), out: out, errs: errs,
	}
}

// print prints a line: what it is in JSON, and for people.
func (p *relayPrinter) print(object any, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.text {
		fmt.Fprintln(p.out, plain(text, 400))
		return
	}
	b, err := json.Marshal(object)
	if err != nil {
		panic(err) // what is printed can be written
	}
	p.out.Write(append(b, '\n'))
}

// tell says something to people on standard error.
func (p *relayPrinter) tell(text string) {
	if p.quiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.errs, "outrelay: %s\n", plain(text, 400))
}

func (p *relayPrinter) report(r forward.Report) {
	took := time.Duration(r.Seconds * float64(time.Second)).Round(time.Millisecond)
	text := fmt.Sprintf("%s  %s  %s  in %s, out %s, %v", time.Now().Format("15:04:05"), r.Name, r.From, size(r.Received), size(r.Sent), took)
	if r.Kind == "request" {
		text = fmt.Sprintf("%s  %d  %s %s  %s, %v", time.Now().Format("15:04:05"), r.Status, r.Method, r.Path, size(r.Sent), took)
	}
	if r.Error != "" {
		text += "  " + r.Error
	}
	p.print(r, text)
}

// size is a number of bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for ; f >= unit && i < 3; i++ {
		f /= unit
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGT"[i])
}

// states tells on standard error what cuts a listener's connection to the gateway, and
// that it is there again.
func (p *relayPrinter) states(name string) func(subscriber.State) {
	var lost time.Time
	return func(s subscriber.State) {
		if p.quiet {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case s.Phase == subscriber.Reconnecting && lost.IsZero():
			lost = s.Since
			fmt.Fprintf(p.errs, "outrelay: %s: connecting again: %v\n", name, plain(s.Why.Error(), 300))
		case s.Phase == subscriber.Connected && !lost.IsZero():
			fmt.Fprintf(p.errs, "outrelay: %s: connected again after %v\n", name, time.Since(lost).Round(time.Millisecond))
			lost = time.Time{}
		}
	}
}
