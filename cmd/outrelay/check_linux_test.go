package main

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/check"
)

// terminal is a pseudo-terminal: what is written to the second file is read from the first.
func terminal(t *testing.T) (outside, inside *os.File) {
	t.Helper()
	outside, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outside.Close() })
	if err := unix.IoctlSetPointerInt(int(outside.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(outside.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	inside, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inside.Close() })
	return outside, inside
}

// On a terminal a step is text whose status has a colour, unless nobody wants one.
func TestCheckOnTerminal(t *testing.T) {
	outside, inside := terminal(t)
	for _, tt := range []struct {
		term, noColour string
		json           bool
		want           string
	}{
		{"xterm", "", false, "\x1b[31mfailed\x1b[0m   tcp         it is closed. Open it.\r\n"},
		{"xterm", "1", false, "failed   tcp         it is closed. Open it.\r\n"},
		{"dumb", "", false, "failed   tcp         it is closed. Open it.\r\n"},
		{"xterm", "", true, `{"step":"tcp","status":"failed","detail":"it is closed","tell":"open it"}` + "\r\n"},
	} {
		t.Setenv("TERM", tt.term)
		t.Setenv("NO_COLOR", tt.noColour)
		printResult(inside, !tt.json, check.Result{Step: check.StepTCP, Status: check.Failed, Detail: "it is closed", Tell: "open it"})
		b := make([]byte, 500)
		n, err := outside.Read(b)
		if err != nil || string(b[:n]) != tt.want {
			t.Errorf("TERM=%s NO_COLOR=%s: the terminal shows %q, %v; want %q", tt.term, tt.noColour, b[:n], err, tt.want)
		}
	}
}
