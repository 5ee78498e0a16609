// Command outrelay is an event broker with one public port, and its clients: run
// it without arguments for what it can do.
//
// This package reads flags and the environment, wires the parts together and
// prints. What a command does lies in the packages beneath.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outrelay/outrelay/cmd/outrelay/demo"
)

func main() { os.Exit(run(os.Args[1:])) }

// run is main with its exit code. The first SIGINT or SIGTERM ends the commands'
// context; the second one ends the process at once.
func run(args []string) int {
	ctx, stop := untilSignal(context.Background())
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		report(root.ErrOrStderr(), err)
	}
	return exitCode(err)
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM. By then
// the next one has its usual effect again, which is the end of the process.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() { // ends with a signal or with stop
		defer close(ended)
		select {
		case <-signals:
		case <-ctx.Done():
		}
		signal.Stop(signals)
		cancel()
	}()
	return ctx, func() {
		cancel()
		<-ended
	}
}

// newRoot makes the command with all that it can do.
func newRoot() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "outrelay",
		Short: "An event broker and relay: one binary, one public port",
		Long: `outrelay takes CloudEvents in over HTTPS and hands them to subscribers through
sockets that they opened themselves.

Every command explains itself: outrelay COMMAND --help.
Exit codes: 0 done, 1 other, 2 usage, 3 config, 4 network, 5 access, 6 not found,
7 timeout (outrelay help exit-codes).`,
		Example: `  outrelay demo          # a week of earthquakes, drawn as they arrive
  outrelay serve --dev   # a broker for development, with commands to paste
  outrelay listen shop --to http://localhost:3000   # a local service, reached through it`,
		Version:       version(),
		SilenceErrors: true, // run prints them, once
		SilenceUsage:  true,
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{cmd.CommandPath(), suggestFlag(cmd, err)}
	})
	root.AddCommand(
		newServeCommand(),          // serve.go
		demo.NewCommand(serveDemo), // demo/command.go
		newPublishCommand(),        // publish.go
		newSubscribeCommand(),      // subscribe.go
		newDeliverCommand(),        // deliver.go
		newListenCommand(),         // listen.go
		newBridgeCommand(),         // bridge.go
		newSubscriptionsCommand(),  // subscriptions.go
		newReplayCommand(),         // subscriptions.go
		newDeadLettersCommand(),    // subscriptions.go
		newCheckCommand(),          // check.go
		newTokenCommand(),          // token.go
		newConfigCommand(),         // config.go
		newVersionCommand(),        // version.go
		newCompletionCommand(),     // completion.go
	)
	root.AddCommand(newTopics()...) // help.go
	root.SetHelpCommand(newHelpCommand())
	root.InitDefaultHelpCmd()
	markUsage(root)
	completeAll(root)
	return root
}

// group makes a command that only holds others: alone it prints its help, and a
// name that it doesn't have is answered with the nearest one that it has.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("there is no command %q", cmd.CommandPath()+" "+args[0])
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			err = fmt.Errorf("%w; did you mean %q?", err, cmd.CommandPath()+" "+near[0])
		}
		return err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// markUsage makes a usage error of what a command's check of its arguments says.
func markUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		markUsage(c)
	}
}

// suggestFlag adds the flag that may have been meant to the error of one that is
// not there.
func suggestFlag(cmd *cobra.Command, err error) error {
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) || missing.GetSpecifiedShortnames() != "" {
		return err
	}
	// The names as commands, because cobra knows which of those are near.
	names := &cobra.Command{SuggestionsMinimumDistance: 2}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	if near := names.SuggestionsFor(missing.GetSpecifiedName()); len(near) > 0 {
		return fmt.Errorf("%w; did you mean --%s?", err, near[0])
	}
	return err
}

// isTerminal says whether a person reads what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
