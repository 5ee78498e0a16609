package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/datafolder"
)

// writeReady puts the ready file in its place.
func writeReady(path string, r ready) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := datafolder.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}

// removeReady takes away a ready file that is no longer true, so that who waits for
// one is not misled. What is no file is left alone.
func removeReady(path string) error {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}

// printReady tells a person the same, with commands to paste.
func printReady(w io.Writer, r ready, dev bool, data, promise string) {
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("outrelay %s serves.", version())
	line("")
	for _, l := range []struct{ name, value string }{
		{"https", r.HTTPS}, {"http", r.HTTP}, {"admin", r.Admin}, {"data", data}, {"authority", r.CA}, {"key", r.KeyName + " in " + r.KeyFile},
	} {
		if l.value != "" {
			line("  %-10s %s", l.name, l.value)
		}
	}
	line("")
	line("%s", promise)
	line("")
	base := cmp.Or(r.HTTPS, r.HTTP)
	clients := "--gateway " + base
	if r.CA != "" && r.HTTPS != "" {
		clients += " --ca " + quote(r.CA)
	}
	if !dev {
		clients += " --key-name " + quote(r.KeyName) + " --key-file " + quote(r.KeyFile)
		line("Clients need a token or a key, unless the config lets them in without.")
		line("")
	}
	const event = `{"specversion":"1.0","id":"1","source":"/me","type":"greeting","data":"hello"}`
	line("Subscribe:")
	line("  outrelay subscribe 'greetings/**' %s", clients)
	line("Publish:")
	line("  echo '%s' | outrelay publish greetings/first %s", event, clients)
	if !dev {
		return
	}
	trust := ""
	if r.CA != "" && r.HTTPS != "" {
		trust = " --cacert " + quote(r.CA)
	}
	line("  curl%s %s/topics/greetings/first -H 'Content-Type: application/cloudevents+json' -d '%s'", trust, base, event)
	line("In a browser's console, on a page of this machine:")
	line("  new WebSocket('ws%s/topics/greetings/**', 'cloudevents.json').onmessage = m => console.log(m.data)",
		strings.TrimPrefix(cmp.Or(r.HTTP, r.HTTPS), "http"))
	line("")
	line("Ctrl-C drains and stops.")
}

// quote makes one word of s for a shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-+=:@%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
