package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/cmd/outrelay/demo"
	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
)

func newServeCommand() *cobra.Command {
	var (
		o                        config.Options
		https, http, admin, data string
		readyFile                string
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a gateway with its broker",
		Long: `Run a gateway with its broker.

With --dev it is for development: open to all on loopback and nowhere else, with a
certificate for localhost from an authority of its own. Without, it serves what the
config allows and answers 401 to all else; it needs a certificate, or tls: off in
the config for use behind a proxy.

SIGINT (Ctrl-C) or SIGTERM drains and stops, a second one stops at once. SIGHUP
reloads the config: keys, token issuers, anonymous rights, origins, certificates,
hosts, topics and retention. It says what of a change takes a restart.`,
		Example: `  outrelay serve --dev
  outrelay config check outrelay.yaml && outrelay serve --config outrelay.yaml`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.Dev, "dev", false, "for development: open to all on loopback, certificate included")
	flags.StringVar(&o.File, "config", "", "config `FILE` (see outrelay config --help)")
	flags.StringVar(&https, "https", "", "`ADDR` for HTTPS (default :443, with --dev 127.0.0.1:8443)")
	flags.StringVar(&http, "http", "", "`ADDR` without TLS (default none, with --dev 127.0.0.1:8080)")
	flags.StringVar(&admin, "admin", "", "`ADDR` of metrics and management (default 127.0.0.1:8081)")
	flags.StringVar(&data, "data", "", "data `DIR` (default ./outrelay-data)")
	flags.StringVar(&readyFile, "ready-file", "", "`FILE` to write, as JSON, once it serves")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for name, to := range map[string]**string{"https": &o.HTTPS, "http": &o.HTTP, "admin": &o.Admin, "data": &o.Data} {
			if flag := flags.Lookup(name); flag.Changed {
				value := flag.Value.String()
				*to = &value
			}
		}
		return serve(cmd, o, readyFile)
	}
	return cmd
}

// serve is the command once its flags are read.
func serve(cmd *cobra.Command, o config.Options, readyFile string) error {
	ctx, out, errs := cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	logger := slog.New(slog.NewTextHandler(errs, nil))
	c, err := config.Load(o)
	if err != nil {
		return err
	}
	for _, n := range c.Notices {
		fmt.Fprintf(errs, "Notice: %s.\n", n)
	}
	i, err := newInstance(c, logger)
	if err != nil {
		return err
	}
	defer i.Close()
	if readyFile != "" {
		if err := removeReady(readyFile); err != nil {
			return err
		}
		defer func() { _ = removeReady(readyFile) }() // nobody is left to read it
	}
	reload, stop := watchHangups(o, logger, isTerminal(out))
	defer stop()
	supervisor := newSupervisor(os.Getenv("NOTIFY_SOCKET"))
	serving := func(r ready) error {
		if err := supervisor.tell("READY=1"); err != nil {
			return err
		}
		if readyFile != "" {
			if err := writeReady(readyFile, r); err != nil {
				return err
			}
		}
		if isTerminal(out) {
			printReady(out, r, c, i.broker.Promise())
			return nil
		}
		return json.NewEncoder(out).Encode(r)
	}
	stopping := func() {
		fmt.Fprintln(errs, "draining; a second signal stops at once")
		if err := supervisor.tell("STOPPING=1"); err != nil {
			logger.Warn("the service manager was not told of the drain", "error", err)
		}
	}
	if err := i.run(ctx, hooks{serving, stopping, reload}); err != nil {
		return err
	}
	fmt.Fprintln(errs, "drained")
	return nil
}

// watchHangups returns a channel with a config for each SIGHUP that finds a good
// one. Without a config file a terminal's end stays what it is, the process's end.
func watchHangups(o config.Options, logger *slog.Logger, terminal bool) (reload <-chan *config.Config, stop func()) {
	if o.File == "" && terminal {
		return nil, func() {}
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	configs := make(chan *config.Config)
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() { // loads configs; ends with stop
		defer close(ended)
		for {
			select {
			case <-ending:
				return
			case <-hangups:
			}
			c, err := config.Load(o)
			var faults config.Faults
			if errors.As(err, &faults) {
				for _, f := range faults {
					logger.Error("config not reloaded; the old one stays", "fault", f.Error())
				}
				continue
			}
			select {
			case <-ending:
				return
			case configs <- c:
			}
		}
	}()
	return configs, func() {
		signal.Stop(hangups)
		close(ending)
		<-ended
	}
}

// serveDemo runs the gateway of the demo.
func serveDemo(ctx context.Context, data string, serving func(demo.Gateway)) error {
	free := "127.0.0.1:0"
	c, err := config.Load(config.Options{Dev: true, HTTPS: &free, HTTP: &free, Admin: &free, Data: &data})
	if err != nil {
		return err
	}
	i, err := newInstance(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer i.Close()
	return i.run(ctx, hooks{serving: func(r ready) error {
		serving(demo.Gateway{HTTP: r.HTTP, HTTPS: r.HTTPS, CA: r.CA})
		return nil
	}})
}
