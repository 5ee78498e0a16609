package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// newHelpCommand is "outrelay help", for which a name that is none is a mistake.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND | TOPIC]",
		Short: "Explain a command or a topic",
		Long:  `help explains a command, as its flag --help does, or a topic. Alone it lists them.`,
		Example: `  outrelay help token create
  outrelay help exit-codes`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			of, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []cobra.Completion
			for _, c := range of.Commands() {
				if (c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand()) && strings.HasPrefix(c.Name(), begun) {
					names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			of, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("there is no command %q", of.CommandPath()+" "+rest[0])
				if near := of.SuggestionsFor(rest[0]); len(near) > 0 {
					err = fmt.Errorf("%w; did you mean %q?", err, of.CommandPath()+" "+near[0])
				}
			}
			if err != nil {
				return usageError{"outrelay help", err}
			}
			of.InitDefaultHelpFlag()
			of.InitDefaultVersionFlag()
			return of.Help()
		},
	}
}

// newTopics are what help explains beside commands.
func newTopics() []*cobra.Command {
	return []*cobra.Command{
		{
			Use:   "exit-codes",
			Short: "What a command's exit code says",
			Long: `The exit codes of every command:

  0  done. A command that runs until it is interrupted has done its work then.
  1  other: what was asked for could not be done, and it is none of the others.
     An event that was refused is one.
  2  usage: the command, its flags or its arguments are wrong
  3  config: the gateway's config has a mistake; each is told with its line
  4  network: the gateway is not reached, or something in between answers in its place.
     outrelay check tells what.
  5  access: a token is missing, not taken or lacks a right; or a proxy wants a password
  6  not found: there is no such subscription, listener or place
  7  timeout: nobody answered in time

What went wrong is on standard error, in a line that begins with "outrelay: "; the mistakes
of a config begin with its file and line.`,
		},
		{
			Use:   "environment",
			Short: "Which variables of the environment are read",
			Long: `The variables that are read by every command that talks to a gateway. A flag wins over
its variable.

  OUTRELAY_GATEWAY          the gateway's URL, as --gateway
  OUTRELAY_TOKEN            the token: a JWT, or a whole SharedAccessSignature
  HTTPS_PROXY, HTTP_PROXY   the proxy to gateways with https: and http:, as --proxy; here
                            the address may hold a user name and a password
  NO_PROXY                  hosts that are reached without, such as .example.com,10.0.0.0/8.
                            Loopback always is.
  SSL_CERT_FILE, SSL_CERT_DIR
                            whom to trust in place of what the system trusts; --ca adds
                            to it`,
		},
	}
}
