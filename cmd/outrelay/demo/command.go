package demo

import (
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/spf13/cobra"
)

// defaultSpeed makes the week last three minutes and twenty seconds.
const defaultSpeed speed = 3000

// NewCommand is "outrelay demo". serve runs its gateway.
func NewCommand(serve Serve) *cobra.Command {
	var o options
	var asJSON, quiet bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Replay a real week of earthquakes and watch it on a map",
		Long: `Replay a real week of earthquakes and watch it on a map.

The demo starts a gateway on free ports of loopback with its data in a temporary
folder, publishes the week to it over HTTPS, has three subscribers listen, and
prints the address of a page on which to watch. When the week is over it compares
what each subscriber got with the file and keeps the page up until Ctrl-C.`,
		Example: `  outrelay demo
  outrelay demo --speed 60        # a minute of 2018 each second
  outrelay demo --once            # everything at once, no page: compare and end`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.out, o.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
			o.text = !asJSON && terminal(o.out)
			o.progress = !quiet && terminal(o.errs)
			if !o.once && o.speed == 0 {
				o.speed = defaultSpeed
			}
			return run(cmd.Context(), serve, o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.once, "once", false, "replay everything at full speed (or at --speed), compare, print the summary and end")
	flags.Var(&o.speed, "speed", fmt.Sprintf("how many times as fast as it happened (default %v: the week in 3m21s)", defaultSpeed))
	flags.BoolVar(&asJSON, "json", false, "print JSON, also on a terminal")
	flags.BoolVar(&quiet, "quiet", false, "show no progress")
	return cmd
}

// A speed is how many times as fast as it happened the week is replayed; 0 is as
// fast as it goes. As a flag it must be above 0.
type speed float64

func (s *speed) String() string { return strconv.FormatFloat(float64(*s), 'g', -1, 64) }
func (s *speed) Type() string   { return "N" }

func (s *speed) Set(text string) error {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) || f <= 0 {
		return fmt.Errorf("give a number above 0, such as %v", defaultSpeed)
	}
	*s = speed(f)
	return nil
}

type options struct {
	once     bool
	speed    speed
	text     bool // for people rather than as JSON
	progress bool // shown on errs
	out      io.Writer
	errs     io.Writer
}
