package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/forward"
	"github.com/outrelay/outrelay/subscriber"
)

func newBridgeCommand() *cobra.Command {
	var (
		locals, remotes []string
		file            string
		connections     int
		common          *clientFlags
	)
	cmd := &cobra.Command{
		Use:   "bridge [-L [HOST:]PORT:NAME]... [-R NAME:HOST:PORT]... [--file FILE]",
		Short: "Carry TCP connections through the relay, as ssh -L and -R do",
		Long: `bridge joins TCP ports through the relay, byte for byte, with the ends of each
direction as they are. -R stands where the service is: connections to NAME go to
HOST:PORT. -L stands where the client is: connections to the local port go to NAME.

Without a host -L listens on 127.0.0.1; port 0 takes a free one, which is printed.
Each connection is printed on a line when it is over. When the connection to the gateway
is lost it connects again. It ends when it is interrupted, which is no failure.

FILE has a bridge on each line, as the flags have it: "-L 8022:office/ssh"; what is
behind a # does not count.`,
		Example: `  outrelay bridge -R office/ssh:localhost:22
  outrelay bridge -L 8022:office/ssh
  outrelay bridge -L 5432:db/main -L 0.0.0.0:6379:cache -R web:localhost:80
  outrelay bridge --file bridges.conf`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bridges, err := readBridges(locals, remotes, file)
			if err == nil && connections < 1 {
				err = errors.New("--connections must be at least 1")
			}
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			config, err := common.config()
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			client, err := subscriber.Dial(cmd.Context(), config)
			if err != nil {
				if cmd.Context().Err() != nil {
					return nil
				}
				return err
			}
			defer client.Close()
			return runBridges(cmd, client, bridges, connections, newRelayPrinter(cmd, common))
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&locals, "local", "L", nil, "listen on a local port and connect to a name: `[HOST:]PORT:NAME`")
	flags.StringArrayVarP(&remotes, "remote", "R", nil, "listen on a name and connect to an address: `NAME:HOST:PORT`")
	flags.StringVar(&file, "file", "", "read bridges from `FILE`, one a line")
	flags.IntVar(&connections, "connections", defaultConnections, "have at most `N` connections of each bridge open at once")
	common = addClientFlags(cmd)
	return cmd
}

// readBridges reads the bridges of the flags and of a file.
func readBridges(locals, remotes []string, file string) (bridges []forward.Bridge, err error) {
	for _, s := range locals {
		b, err := forward.ParseLocal(s)
		if err != nil {
			return nil, err
		}
		bridges = append(bridges, b)
	}
	for _, s := range remotes {
		b, err := forward.ParseRemote(s)
		if err != nil {
			return nil, err
		}
		bridges = append(bridges, b)
	}
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("--file: %w", err)
		}
		defer f.Close()
		more, err := forward.ReadBridges(file, f)
		if err != nil {
			return nil, err
		}
		bridges = append(bridges, more...)
	}
	if len(bridges) == 0 {
		return nil, errors.New("there is nothing to join; give -L, -R or --file")
	}
	return bridges, nil
}

// runBridges opens all bridges, says so, and runs them until the command is interrupted
// or one of them fails.
func runBridges(cmd *cobra.Command, client *subscriber.Client, bridges []forward.Bridge, connections int, printer *relayPrinter) error {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	var running sync.WaitGroup
	defer running.Wait()
	listeners := make([]net.Listener, 0, len(bridges))
	closeAll := func() {
		for _, l := range listeners {
			l.Close()
		}
	}
	for _, b := range bridges {
		l, err := openBridge(ctx, client, b, printer)
		if err != nil {
			closeAll()
			if cmd.Context().Err() != nil {
				return nil
			}
			return misused(cmd, err)
		}
		listeners = append(listeners, l)
	}
	for i, b := range bridges {
		direction := "remote"
		if !b.Remote {
			direction, b.Address = "local", listeners[i].Addr().String()
		}
		printer.print(map[string]string{"bridge": direction, "name": b.Name, "address": b.Address}, "joined "+b.String())
		running.Go(func() {
			dial := func(ctx context.Context) (net.Conn, error) { return client.Dial(ctx, b.Name) }
			if err := b.Run(ctx, listeners[i], dial, connections, printer.report); err != nil {
				cancel(err)
			}
		})
	}
	<-ctx.Done()
	running.Wait()
	if cmd.Context().Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// openBridge opens a bridge's listening side.
func openBridge(ctx context.Context, client *subscriber.Client, b forward.Bridge, printer *relayPrinter) (net.Listener, error) {
	if !b.Remote {
		return new(net.ListenConfig).Listen(ctx, "tcp", b.Address)
	}
	return client.ListenWith(ctx, b.Name, subscriber.ListenOptions{FailFast: true, OnState: printer.states(b.Name)})
}
