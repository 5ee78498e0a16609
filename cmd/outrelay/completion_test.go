package main

import (
	"bytes"
	"strings"
	"testing"
)

// A shell is told the values of flags that have a few, that file names (:0) or folders
// (:16) are meant, or that it knows nothing better (:4); :6 is that no blank follows.
func TestCompletion(t *testing.T) {
	for typed, want := range map[string]string{
		"subscribe orders --from ":      "latest earliest last :4",
		"replay billing --from ":        "latest earliest last :4",
		"listen shop --to ":             "http:// https:// tcp:// unix: :6",
		"deliver billing --mode ":       "binary structured :4",
		"check --allowlist --format ":   "text json csv :4",
		"token create --algorithm ":     "RS256 PS256 :4",
		"check --ca ":                   ":0",
		"check --token-file ":           ":0",
		"bridge --file ":                ":0",
		"deliver billing --exec ":       ":0",
		"deliver billing --to-ca ":      ":0",
		"serve --config ":               ":0",
		"serve --data ":                 ":16",
		"config check ":                 ":0",
		"config print ":                 ":0",
		"config schema ":                ":4",
		"listen shop --id ":             ":4",
		"listen ":                       ":4",
		"publish ":                      ":4",
		"subscriptions show ":           ":4",
		"version ":                      ":4",
		"help exit":                     "exit-codes :4",
		"help token ":                   "create inspect verify :4",
		"help nonsense ":                ":4",
		"completion ":                   "bash fish powershell zsh :4",
		"subscriptions create a --fro":  "--from :4",
		"check --gateway ":              "https:// http:// :6",
		"token create --resource https": "https:// :6",
	} {
		words := strings.Split(typed, " ")
		root := newRoot()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(new(bytes.Buffer))
		root.SetArgs(append([]string{"__complete"}, words...))
		if err := root.Execute(); err != nil {
			t.Errorf("%q: %v", typed, err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			name, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			got = append(got, name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q is completed with %q, want %q", typed, got, want)
		}
	}
}
