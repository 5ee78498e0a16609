package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
)

func newConfigCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "config",
		Short: "Check a config, print what holds, or its JSON Schema",
		Long: `Check a config, print what holds, or its JSON Schema.

The config is YAML, read strictly: an unknown key is a mistake. Paths in it are
relative to its file, and secrets are in files of their own. outrelay config print
shows every key with its default.`,
		Example: `  outrelay config print > outrelay.yaml
  outrelay config check outrelay.yaml`,
	})
	cmd.AddCommand(newConfigCheckCommand(), newConfigPrintCommand(), newConfigSchemaCommand())
	return cmd
}

func newConfigCheckCommand() *cobra.Command {
	var dev bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong with a config, where, and what to write instead",
		Long: `Say what is wrong with a config, where, and what to write instead.

All mistakes are told at once, as FILE:LINE: KEY: TEXT on standard error, with exit
code 3. The files that the config names are read too.`,
		Example: `  outrelay config check outrelay.yaml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.Load(config.Options{File: args[0], Dev: dev})
			if err != nil {
				return err
			}
			for _, n := range c.Notices {
				fmt.Fprintf(cmd.ErrOrStderr(), "Notice: %s.\n", n)
			}
			out := cmd.OutOrStdout()
			if !isTerminal(out) {
				return json.NewEncoder(out).Encode(map[string]any{"file": args[0], "mistakes": 0})
			}
			_, err = fmt.Fprintf(out, "%s: no mistakes\n", args[0])
			return err
		},
	}
	cmd.Flags().BoolVar(&dev, "dev", false, "check it as outrelay serve --dev would")
	return cmd
}

func newConfigPrintCommand() *cobra.Command {
	var dev bool
	cmd := &cobra.Command{
		Use:   "print [FILE]",
		Short: "Print the config that holds, every default included",
		Long: `Print the config that holds, every default included; without FILE, that of
outrelay serve --dev. Secrets are not part of it, only the paths of their files.`,
		Example: `  outrelay config print
  outrelay config print outrelay.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := config.Options{Dev: dev || len(args) == 0}
			if len(args) > 0 {
				o.File = args[0]
			}
			c, err := config.Load(o)
			if err != nil {
				return err
			}
			return c.Print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&dev, "dev", false, "print what holds for outrelay serve --dev")
	return cmd
}

func newConfigSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of the config, for editors",
		Long: `Print a JSON Schema of the config. An editor that knows it completes keys and marks
mistakes: name its file in the config's first line, as
"# yaml-language-server: $schema=outrelay.schema.json".`,
		Example: `  outrelay config schema > outrelay.schema.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema())
			return err
		},
	}
}
