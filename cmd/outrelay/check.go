package main

import (
	"crypto/x509"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/check"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

func newCheckCommand() *cobra.Command {
	var (
		allowlist bool
		format    string
		asks      access.Rights
		timeout   time.Duration
		common    *clientFlags
	)
	cmd := &cobra.Command{
		Use:   "check [URL]",
		Short: "Test the way to a gateway, and say whom to tell what stands in it",
		Long: `check tests the way from this machine to a gateway, step by step: the name, the proxy,
the TCP ports, TLS and who signed the certificate, the gateway's answer, this machine's
clock, a WebSocket, a round trip, a second of throughput, and what the token may do.

Each step is printed on a line: ok, warning, failed, or skipped where an earlier one makes
it impossible; and where it did not end well, whom to tell what. With --publish,
--subscribe, --subscription and --listen the token must give these rights; without, it is
said what it gives.

Nothing is changed at the gateway: throughput is measured with pings in a session, and
rights are asked about with an empty batch, a page of history, a question about a
subscription, and a listener that is refused for its id. Whether a token may send to a
hybrid connection can't be asked without reaching its listener.

Without URL it is the gateway of --gateway. A URL without https:// gets it.

With --allowlist it prints the host names and ports that a firewall must let out, one a
line, and tests nothing. If the gateway can't be asked they are those of the URL alone,
and the exit code is 4.

Exit codes, by the first step that failed: 4 for the network, the proxy and TLS; 5 for
the proxy's password, the clock, the token and its rights.`,
		Example: `  outrelay check https://relay.example.com
  outrelay check relay.example.com --token-file token --publish orders/eu --listen office/printer
  outrelay check https://relay.example.com --proxy http://proxy.example.com:3128 --ca company.pem
  outrelay check --allowlist https://relay.example.com --format csv`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(cmd, allowlist, &format, common); err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			if len(args) == 1 {
				if cmd.Flags().Changed("gateway") {
					return usageError{cmd.CommandPath(), errors.New("the URL and --gateway are two ways to one thing; give one")}
				}
				common.gateway = args[0]
				if !strings.Contains(args[0], "://") {
					common.gateway = "https://" + args[0]
				}
			}
			if timeout <= 0 {
				return usageError{cmd.CommandPath(), errors.New("--timeout must be more than 0")}
			}
			config, err := checkConfig(common)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			config.Timeout = timeout
			if config.Asks, err = checkAsks(asks); err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			out := cmd.OutOrStdout()
			if allowlist {
				list, err := check.Allowlist(cmd.Context(), config)
				if printed := printOpenings(out, format, list); printed != nil {
					return printed
				}
				if err != nil {
					return exitError{exitNetwork, fmt.Errorf("%w; this is what the URL alone says, and `outrelay check` tells more", err)}
				}
				return nil
			}
			first, err := check.Run(cmd.Context(), config, func(r check.Result) { printResult(out, format == "text", r) })
			switch {
			case cmd.Context().Err() != nil:
				return errors.New("interrupted")
			case err != nil:
				return usageError{cmd.CommandPath(), err}
			case first == nil:
				return nil
			case first.Cause == check.Access:
				return exitError{exitAccess, fmt.Errorf("the step %s failed", first.Step)}
			}
			return exitError{exitNetwork, fmt.Errorf("the step %s failed", first.Step)}
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&allowlist, "allowlist", false, "print the host names and ports that a firewall must let out, and test nothing")
	flags.StringVar(&format, "format", "", "of --allowlist: `text`, json or csv (else text on a terminal and JSON elsewhere)")
	flags.StringArrayVar(&asks.Publish, "publish", nil, "ask for the right to publish to a `TOPIC`; may be repeated, as the next three")
	flags.StringArrayVar(&asks.Subscribe, "subscribe", nil, "ask for the right to subscribe to a topic `FILTER`")
	flags.StringArrayVar(&asks.Subscriptions, "subscription", nil, "ask for the right to use the durable subscription of this `NAME`")
	flags.StringArrayVar(&asks.Listen, "listen", nil, "ask for the right to listen on the hybrid connection of this `NAME`")
	flags.DurationVar(&timeout, "timeout", 5*time.Second, "wait so long for an answer in each step")
	common = addClientFlags(cmd)
	return cmd
}

// checkFormat decides between text, json and csv.
func checkFormat(cmd *cobra.Command, allowlist bool, format *string, common *clientFlags) error {
	switch {
	case *format != "" && !allowlist:
		return errors.New("--format is for --allowlist; a check prints text on a terminal, and JSON elsewhere or with --json")
	case *format != "" && *format != "text" && *format != "json" && *format != "csv":
		return fmt.Errorf("--format %q is none; write text, json or csv", plain(*format, 40))
	case *format != "" && *format != "json" && common.json:
		return fmt.Errorf("--json and --format %s exclude each other; give one", *format)
	case *format == "" && (common.json || !isTerminal(cmd.OutOrStdout())):
		*format = "json"
	case *format == "":
		*format = "text"
	}
	return nil
}

// checkAsks are the rights that the flags name; nil for none.
func checkAsks(r access.Rights) (asks []check.Right, err error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	for _, name := range append(r.Publish, r.Listen...) {
		if _, err := schemas.ParseTopic(name); err != nil { // which a filter is not
			return nil, err
		}
	}
	for _, name := range r.Subscriptions {
		if _, err := schemas.ParseSegment("subscription", name); err != nil {
			return nil, err
		}
	}
	for _, a := range []struct {
		action string
		names  []string
	}{{"publish", r.Publish}, {"subscribe", r.Subscribe}, {"subscription", r.Subscriptions}, {"listen", r.Listen}} {
		for _, name := range a.names {
			asks = append(asks, check.Right{Action: a.action, Object: name})
		}
	}
	return asks, nil
}

// checkConfig makes the configuration of the flags and the environment.
func checkConfig(common *clientFlags) (check.Config, error) {
	var c check.Config
	var err error
	if c.Client, err = common.config(); err != nil {
		return c, err
	}
	if common.ca != "" {
		c.CA = x509.NewCertPool()
		if err := trustFile(c.CA, "--ca", common.ca); err != nil {
			return c, err
		}
	}
	proxy := aboutProxy(common.proxy, c.Client.Gateway)
	c.ProxySource, c.NoProxy = proxy.source, proxy.none
	if proxy.bad {
		c.Client.Proxy = func(*http.Request) (*url.URL, error) { return nil, errors.New("no address") }
	}
	return c, nil
}

// A proxyWord is what can be said of where a proxy comes from.
type proxyWord struct {
	source string // of the one that there is
	none   string // why there is none
	bad    bool   // a variable names one that is no address, and is not used
}

// aboutProxy says where a proxy for the gateway comes from, and if there is none, why.
func aboutProxy(flag, gateway string) proxyWord {
	if flag != "" {
		return proxyWord{source: "--proxy"}
	}
	names := []string{"HTTPS_PROXY", "https_proxy"}
	host := ""
	if u, err := url.Parse(gateway); err == nil {
		host = u.Hostname()
		if u.Scheme == "http" {
			names = []string{"HTTP_PROXY", "http_proxy"}
		}
	}
	for _, name := range names {
		value := os.Getenv(name)
		if value == "" {
			continue
		}
		why := "NO_PROXY excepts " + host
		if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
			why = "it is never used for loopback"
		}
		return proxyWord{name, "no proxy is used: " + name + " is set, but " + why, !isProxy(value)}
	}
	return proxyWord{"the environment", "no proxy is used: neither --proxy nor " + names[0] + " is set", false}
}

// isProxy says whether net/http takes a variable's value for a proxy's address, with a
// scheme or without. It says nothing where it does not, and uses none.
func isProxy(value string) bool {
	u, err := url.Parse(value)
	if err != nil || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
		u, err = url.Parse("http://" + value)
	}
	return err == nil && u.Hostname() != ""
}

// printResult prints a step.
func printResult(w io.Writer, text bool, r check.Result) {
	if !text {
		b, err := json.Marshal(r)
		if err != nil {
			panic(err) // what is printed can be written
		}
		_, _ = w.Write(append(b, '\n')) // who does not read it has gone
		return
	}
	line := r.String()
	if isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		line = colours[r.Status] + line[:len(r.Status)] + "\x1b[0m" + line[len(r.Status):]
	}
	_, _ = fmt.Fprintln(w, line)
}

// colours are those of a terminal: green, yellow, red and grey.
var colours = map[check.Status]string{check.OK: "\x1b[32m", check.Warning: "\x1b[33m", check.Failed: "\x1b[31m", check.Skipped: "\x1b[90m"}

// printOpenings prints an allowlist.
func printOpenings(w io.Writer, format string, list []check.Opening) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		for _, o := range list {
			if err := e.Encode(o); err != nil {
				return err
			}
		}
		return nil
	case "csv":
		c := csv.NewWriter(w)
		rows := [][]string{{"host", "port", "protocol"}}
		for _, o := range list {
			rows = append(rows, []string{o.Host, strconv.Itoa(o.Port), o.Protocol})
		}
		return c.WriteAll(rows)
	}
	for _, o := range list {
		if _, err := fmt.Fprintf(w, "%s %s\n", net.JoinHostPort(o.Host, strconv.Itoa(o.Port)), o.Protocol); err != nil {
			return err
		}
	}
	return nil
}
