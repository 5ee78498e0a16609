package main

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newCompletionCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "completion",
		Short: "Print a script that completes commands in a shell",
		Long: `completion prints a script for a shell, which then completes commands, flags, file names
and the values of flags that have a few. Each shell's command says where the script goes.`,
		Example: `  source <(outrelay completion bash)`,
	})
	for _, shell := range []struct {
		name, where, example string
		write                func(*cobra.Command, io.Writer) error
	}{
		{"bash", `It needs the package bash-completion. For this shell alone, or for good:`, `  source <(outrelay completion bash)
  outrelay completion bash > /etc/bash_completion.d/outrelay`, func(c *cobra.Command, w io.Writer) error {
			return c.GenBashCompletionV2(w, true)
		}},
		{"zsh", `Completion must be on ("autoload -U compinit; compinit" in ~/.zshrc). For this shell
alone, or for good:`, `  source <(outrelay completion zsh)
  outrelay completion zsh > "${fpath[1]}/_outrelay"`, (*cobra.Command).GenZshCompletion},
		{"fish", `For this shell alone, or for good:`, `  outrelay completion fish | source
  outrelay completion fish > ~/.config/fish/completions/outrelay.fish`, func(c *cobra.Command, w io.Writer) error {
			return c.GenFishCompletion(w, true)
		}},
		{"powershell", `For this shell alone; in the profile, for good:`, `  outrelay completion powershell | Out-String | Invoke-Expression`, (*cobra.Command).GenPowerShellCompletionWithDesc},
	} {
		cmd.AddCommand(&cobra.Command{
			Use:     shell.name,
			Short:   "Print the script for " + shell.name,
			Long:    "Print the script that completes commands in " + shell.name + ".\n\n" + shell.where,
			Example: shell.example,
			Args:    cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return shell.write(cmd.Root(), cmd.OutOrStdout())
			},
		})
	}
	return cmd
}

// flagValues are those of flags that have a few, by the flag's name.
var flagValues = map[string][]cobra.Completion{
	"algorithm": {"RS256", "PS256"},
	"format":    {"text", "json", "csv"},
	"from":      {"latest", "earliest", "last"},
	"mode":      {"binary", "structured"},
}

// flagBeginnings are those of flags whose values begin in a few ways.
var flagBeginnings = map[string][]cobra.Completion{
	"gateway":  {"https://", "http://"},
	"proxy":    {"http://", "https://"},
	"resource": {"https://"},
	"to":       {"http://", "https://", "tcp://", "unix:"},
}

// completeAll has the shell complete a command's flags and arguments, and those of all
// beneath it: file names only where a file is meant, which the name of the value says.
func completeAll(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil && !cmd.HasSubCommands() && !slices.Contains([]string{"FILE", "[FILE]"}, cmd.Use[strings.LastIndexByte(cmd.Use, ' ')+1:]) {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if _, done := cmd.GetFlagCompletionFunc(f.Name); done || f.NoOptDefVal != "" {
			return
		}
		complete := cobra.NoFileCompletions
		name, _ := pflag.UnquoteUsage(f)
		if values := flagValues[f.Name]; values != nil {
			complete = cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
		} else if beginnings := flagBeginnings[f.Name]; beginnings != nil && name != "FILE" {
			complete = cobra.FixedCompletions(beginnings, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)
		} else if name == "DIR" {
			complete = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)
		} else if name == "FILE" || name == "COMMAND" {
			complete = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
		}
		if err := cmd.RegisterFlagCompletionFunc(f.Name, complete); err != nil {
			panic(err) // there is no such flag, or twice
		}
	})
	for _, c := range cmd.Commands() {
		completeAll(c)
	}
}
