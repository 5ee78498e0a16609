package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
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
func printReady(w io.Writer, r ready, c *config.Config, promise string) {
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("outrelay %s serves.", version())
	line("")
	for _, l := range []struct{ name, value string }{
		{"https", r.HTTPS}, {"http", r.HTTP}, {"admin", r.Admin}, {"data", c.Data}, {"authority", r.CA}, {"key", r.KeyName + " in " + r.KeyFile},
	} {
		if l.value != "" {
			line("  %-10s %s", l.name, l.value)
		}
	}
	line("")
	line("%s", promise)
	line("")
	base := cmp.Or(publicAddress(r.HTTPS, c), r.HTTP)
	clients := "--gateway " + base
	if r.CA != "" && r.HTTPS != "" {
		clients += " --ca " + quote(r.CA)
	}
	if !c.Dev {
		clients += " --key-name " + quote(r.KeyName) + " --key-file " + quote(r.KeyFile)
		line("Clients need a token or a key, unless the config lets them in without.")
		line("")
	}
	const event = `{"specversion":"1.0","id":"1","source":"/me","type":"greeting","data":"hello"}`
	line("Subscribe:")
	line("  outrelay subscribe 'greetings/**' %s", clients)
	line("Publish:")
	line("  echo '%s' | outrelay publish greetings/first %s", event, clients)
	if !c.Dev {
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

// publicAddress is the address of HTTPS with the name that its certificate is likely
// to be for: the first host of the config that is not this machine to itself.
func publicAddress(https string, c *config.Config) string {
	u, err := url.Parse(https)
	if https == "" || err != nil || c.Dev {
		return https
	}
	for _, host := range c.Hosts {
		if host == "localhost" || host == "127.0.0.1" || host == "[::1]" {
			continue
		}
		if u.Port() == "443" {
			return "https://" + host
		}
		return "https://" + host + ":" + u.Port()
	}
	return https
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
