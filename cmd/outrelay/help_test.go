package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// everyCommand calls f for each command but the topics of help.
func everyCommand(f func(*cobra.Command)) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if !cmd.IsAdditionalHelpTopicCommand() {
			f(cmd)
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(newRoot())
}

// Every command explains itself, with an example that it would take.
func TestHelp(t *testing.T) {
	commands := 0
	everyCommand(func(cmd *cobra.Command) {
		commands++
		path := cmd.CommandPath()
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" {
			t.Errorf("%s lacks a short or a long text, or an example", path)
		}
		for line := range strings.Lines(cmd.Long) {
			if len([]rune(strings.TrimSuffix(line, "\n"))) > 100 {
				t.Errorf("the help of %s has a line that is too long: %q", path, line)
			}
		}
		own := 0
		for line := range strings.Lines(cmd.Example) {
			for _, example := range exampleCommands(line) {
				own += runs(t, path, example)
			}
		}
		if own == 0 && !cmd.HasSubCommands() {
			t.Errorf("no example of %s runs it", path)
		}
	})
	if commands < 25 {
		t.Errorf("there are %d commands; this test looks in the wrong place", commands)
	}
}

// The topic of exit codes has all of them.
func TestExitCodesAreExplained(t *testing.T) {
	for _, topic := range newTopics() {
		if topic.Name() != "exit-codes" {
			continue
		}
		for code := exitDone; code <= exitTimeout; code++ {
			if !strings.Contains(topic.Long, fmt.Sprintf("\n  %d  ", code)) {
				t.Errorf("exit code %d is not explained", code)
			}
		}
		return
	}
	t.Error("there is no topic exit-codes")
}

// exampleCommands are the commands of outrelay in a line of a shell.
func exampleCommands(line string) (commands [][]string) {
	line, _, _ = strings.Cut(line, "  #")
	for part := range strings.SplitSeq(regexp.MustCompile(`[<&]\(|[()]|&&| \| `).ReplaceAllString(line, "\n"), "\n") {
		part, _, _ = strings.Cut(part, " > ")
		words := shellWords(part)
		if len(words) > 0 && words[0] == "outrelay" {
			commands = append(commands, words[1:])
		}
	}
	return commands
}

// shellWords splits at blanks, outside of single quotes.
func shellWords(s string) (words []string) {
	for i, part := range strings.Split(s, "'") {
		if i%2 == 0 {
			words = append(words, strings.Fields(part)...)
		} else {
			words = append(words, part)
		}
	}
	return words
}

// runs checks that a command takes an example's flags and arguments, and says whether it is
// the one with the path.
func runs(t *testing.T, path string, words []string) int {
	t.Helper()
	cmd, rest, err := newRoot().Find(words)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err != nil {
		t.Errorf("an example of %s, %q, is none: %v", path, words, err)
		return 0
	}
	if cmd.CommandPath() == path {
		return 1
	}
	return 0
}

// Every command has a script that runs it, and one in which it refuses something.
func TestEveryCommandHasScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no scripts: %v", err)
	}
	var all []byte
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, b...), '\n')
	}
	everyCommand(func(cmd *cobra.Command) {
		path := regexp.QuoteMeta(cmd.CommandPath())
		if !regexp.MustCompile(`(?m)^exec ` + path + `( |$)`).Match(all) {
			t.Errorf("no script runs %s", cmd.CommandPath())
		}
		if !regexp.MustCompile(`(?m)^exits [1-9] ` + path + `( |$)`).Match(all) {
			t.Errorf("no script has %s refuse something", cmd.CommandPath())
		}
	})
}
