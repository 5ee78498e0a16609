package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/publish"
	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// progressEvery is how often a person sees how far it is.
const progressEvery = 200 * time.Millisecond

func newPublishCommand() *cobra.Command {
	var (
		file, from string
		rate       float64
		socket     bool
		common     *clientFlags
	)
	cmd := &cobra.Command{
		Use:   "publish TOPIC",
		Short: "Publish CloudEvents to a topic",
		Long: `publish reads CloudEvents in the JSON event format and publishes them in order:
one event, an array (a batch, which is all or nothing), or one event after the
other, as NDJSON. NDJSON may be as long as it likes and is read as it comes; what
waits is sent together.

The last line says how many events were accepted, how many of them the gateway
knew already, and the last one's cursor. The first event that is refused ends it,
with its line and the reason; what was accepted before it stays.

With --topic-from each event names the rest of its own topic: a JSONPath to a
text, number or boolean in it, which is put behind TOPIC and a slash. An array is
then no batch, but sent event by event. So it is with --ws, where events after the
one that is refused may have been accepted too.`,
		Example: `  outrelay publish orders/eu --file order.json
  tail -f events.ndjson | outrelay publish orders/eu
  outrelay publish quakes --file quakes.ndjson --topic-from data.properties.net --rate 100`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := publish.Options{Topic: args[0], Rate: rate}
			if _, err := schemas.ParseTopic(o.Topic); err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			if rate < 0 || rate > 1e9 {
				return usageError{cmd.CommandPath(), errors.New("--rate is a number of events a second")}
			}
			if from != "" {
				path, err := publish.ParsePath(from)
				if err != nil {
					return usageError{cmd.CommandPath(), fmt.Errorf("--topic-from: %w", err)}
				}
				o.From = &path
			}
			if socket && o.From != nil {
				return usageError{cmd.CommandPath(), errors.New("--ws publishes to one topic; leave out --topic-from, or --ws")}
			}
			config, err := common.config()
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			in, err := open(cmd, file)
			if err != nil {
				return err
			}
			defer in.Close()
			p := newProgress(cmd.ErrOrStderr(), common.quiet)
			o.Progress = p.show
			summary, err := send(cmd, config, in, socket, o)
			p.end()
			if err == nil || summary.Accepted > 0 || !networkOnly(err) {
				if err := printSummary(cmd.OutOrStdout(), common.json, summary); err != nil {
					return err
				}
			}
			if cmd.Context().Err() != nil {
				return errors.New("interrupted")
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "file", "-", "read from `FILE`; - is standard input")
	flags.Float64Var(&rate, "rate", 0, "publish at most `N` events a second; 0 is as many as can be")
	flags.BoolVar(&socket, "ws", false, "publish over a WebSocket, an event a message; needs the right to subscribe, too")
	flags.StringVar(&from, "topic-from", "", "take the rest of the topic from each event, at this `JSONPATH`")
	common = addClientFlags(cmd)
	return cmd
}

// open opens the input.
func open(cmd *cobra.Command, file string) (io.ReadCloser, error) {
	if file == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	return os.Open(file)
}

func send(cmd *cobra.Command, config subscriber.Config, in io.Reader, socket bool, o publish.Options) (publish.Summary, error) {
	client, err := subscriber.Dial(cmd.Context(), config)
	if err != nil {
		return publish.Summary{}, err
	}
	defer client.Close()
	if !socket {
		return publish.Run(cmd.Context(), in, client, o)
	}
	to, err := client.OpenSocket(cmd.Context(), o.Topic)
	if err != nil {
		return publish.Summary{}, err
	}
	defer to.Close()
	return publish.RunSocket(cmd.Context(), in, to, o)
}

// networkOnly says that nothing was asked of a gateway.
func networkOnly(err error) bool {
	code := exitCode(err)
	return code == exitNetwork || code == exitTimeout || code == exitUsage
}

func printSummary(w io.Writer, asJSON bool, s publish.Summary) error {
	if asJSON || !isTerminal(w) {
		var cursor *string
		if s.Cursor != "" {
			cursor = &s.Cursor
		}
		return json.NewEncoder(w).Encode(struct {
			Accepted   int     `json:"accepted"`
			Duplicates int     `json:"duplicates"`
			Cursor     *string `json:"cursor"`
		}{s.Accepted, s.Duplicates, cursor})
	}
	known := ""
	if s.Duplicates > 0 {
		known = fmt.Sprintf(", %d of them known already", s.Duplicates)
	}
	_, err := fmt.Fprintf(w, "%d events accepted%s\n", s.Accepted, known)
	return err
}

// A progress is a count on a person's terminal, and nothing elsewhere.
type progress struct {
	w     io.Writer // nil to be silent
	shown time.Time
	any   bool
}

func newProgress(w io.Writer, quiet bool) *progress {
	if quiet || !isTerminal(w) {
		return &progress{}
	}
	return &progress{w: w, shown: time.Now()}
}

func (p *progress) show(accepted int) {
	if p.w == nil || time.Since(p.shown) < progressEvery {
		return
	}
	p.shown, p.any = time.Now(), true
	fmt.Fprintf(p.w, "\r%d events", accepted)
}

// end takes the count away.
func (p *progress) end() {
	if p.any {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
