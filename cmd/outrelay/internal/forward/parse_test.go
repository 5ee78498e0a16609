package forward_test

import (
	"strings"
	"testing"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/forward"
)

func TestParseBridges(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"-L 8022:ssh", "-L 127.0.0.1:8022:ssh"},
		{"-L 0.0.0.0:8022:office/ssh", "-L 0.0.0.0:8022:office/ssh"},
		{"-L [::1]:0:a", "-L [::1]:0:a"},
		{"-L :80:a", "-L :80:a"},
		{"-R ssh:localhost:22", "-R ssh:localhost:22"},
		{"-R a/b:[::1]:22", "-R a/b:[::1]:22"},
		{"-R ssh:22", "-R ssh:127.0.0.1:22"},
		{"-L 8022", ""},
		{"-L ssh:8022:", ""},
		{"-L 70000:a", ""},
		{"-L -1:a", ""},
		{"-L 1:a b", ""},
		{"-L ::1:80:a", ""},
		{"-R ssh", ""},
		{"-R ssh:localhost", ""},
		{"-R ssh:localhost:0", ""},
		{"-R :localhost:22", ""},
		{"-X 8022:ssh", ""},
		{"8022:ssh", ""},
	} {
		got, err := forward.ReadBridges("file", strings.NewReader("# first\n\n"+tt.in+" # more\n"))
		switch {
		case tt.want == "" && (err == nil || !strings.HasPrefix(err.Error(), "file:3: ")):
			t.Errorf("%s: %v, %v; want an error with its line", tt.in, got, err)
		case tt.want != "" && (err != nil || len(got) != 1 || got[0].String() != tt.want):
			t.Errorf("%s: %v, %v; want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"http://localhost:3000":      "http://localhost:3000",
		"http://localhost:3000/base": "http://localhost:3000/base",
		"https://localhost":          "https://localhost",
		"tcp://[::1]:22":             "tcp://[::1]:22",
		"unix:/run/a.sock":           "unix:/run/a.sock",
		"unix:///run/a.sock":         "unix:/run/a.sock",
		"unix:a.sock":                "unix:a.sock",
		"unix:":                      "",
		"":                           "",
		"localhost:3000":             "",
		"http://":                    "",
		"http://ann:secret@host":     "",
		"http://host/?q":             "",
		"tcp://host":                 "",
		"tcp://host:1/path":          "",
		"ftp://host":                 "",
	} {
		got, err := forward.ParseTarget(in)
		switch {
		case want == "" && err == nil:
			t.Errorf("ParseTarget(%q) = %v, want an error", in, got)
		case want != "" && (err != nil || got.String() != want):
			t.Errorf("ParseTarget(%q) = %v, %v; want %s", in, got, err, want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("ParseTarget(%q) tells the password: %v", in, err)
		}
	}
}

// What is read is written as it is read again.
func FuzzReadBridges(f *testing.F) {
	for _, s := range []string{"-L 8022:ssh", "-R ssh:localhost:22", "-R a:[::1]:22 # x", "-L [fe80::1%eth0]:1:a\n\n#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		bridges, err := forward.ReadBridges("file", strings.NewReader(s))
		if err != nil {
			return
		}
		for _, b := range bridges {
			again, err := forward.ReadBridges("file", strings.NewReader(b.String()))
			if err != nil || len(again) != 1 || again[0] != b {
				t.Errorf("%q is read as %v, %v", b, again, err)
			}
		}
	})
}
