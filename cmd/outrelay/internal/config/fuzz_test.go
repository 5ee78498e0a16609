package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
)

// Whatever the file holds, it is read, or its faults are told with a line that it
// has; what is read prints as something that reads.
func FuzzLoad(f *testing.F) {
	f.Add(base)
	f.Add(whole)
	f.Add("a: &a [*a]\nkeys: *a\n")
	f.Add("topics: [{filter: [1, {}]}]\n")
	file := filepath.Join(f.TempDir(), "fuzz.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.Options{File: file})
		if err == nil {
			var printed strings.Builder
			if err := c.Print(&printed); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(printed.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := config.Load(config.Options{File: file}); err != nil {
				t.Fatalf("%s\nis printed as\n%s\nand that is refused: %v", text, printed.String(), err)
			}
			return
		}
		var faults config.Faults
		if !errors.As(err, &faults) {
			t.Fatalf("error = %v, want faults", err)
		}
		breaks := 0 // YAML knows more of them than one
		for _, r := range text {
			if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) {
				breaks++
			}
		}
		for _, fault := range faults {
			if fault.File != file || fault.Line < 1 || fault.Line > breaks+2 || fault.Text == "" {
				t.Errorf("%q\nfault = %+v", text, fault)
			}
		}
	})
}
