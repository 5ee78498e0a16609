package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
)

// base makes a config good that has nothing else to be bad.
const base = "tls: off\nhttp: 127.0.0.1:0\nhosts: [relay.example]\n"

// Every mistake is told with its file, its line, the key, and what to write
// instead. The line is the one that ends in "# here", else the first.
func TestMistakes(t *testing.T) {
	tests := []struct {
		name string
		text string // comes after base, unless it begins with "!"
		path string
		want string // a part of the text
	}{
		// Keys.
		{"unknown key", "orgins: [] # here", "orgins", "did you mean origins?"},
		{"unknown key, other case", "limits:\n  max_streams: 3 # here", "limits.max_streams", "did you mean maxstreams?"},
		{"unknown key in a list", "topics:\n  - {filter: a}\n  - {filtr: b} # here", "topics[1].filtr", "did you mean filter?"},
		{"key of another place", "publish: [a] # here", "publish", "publish stands under clientcertificates.rights or anonymous"},
		{"limit at the top", "maxstreams: 5 # here", "maxstreams", "maxstreams stands under limits"},
		{"key of nowhere", "zzzzzzzz: 1 # here", "zzzzzzzz", "the nearest is "},
		{"key twice", "origins: []\norigins: [] # here", "origins", "twice, first in line 4"},
		{"merge key", "a: &a {b: c} # here\n<<: *a", "a", "no key \"a\""},
		{"indented by a tab", "log:\n\tflush: always # here", "", "a tab"},
		{"wildcard without quotes", "anonymous:\n  publish: [**] # here", "", "write it in quotes, such as \"**\""},
		{"value with a colon", "data: a: b # here", "", "in quotes"},
		{"bracket left open", "origins: [a, # here", "", "brackets"},
		{"second document", "origins: []\n--- # here\ndata: x", "", "second document"},
		{"text alone", "!outrelay # here", "", "write keys with values"},
		{"list at the top", "!- outrelay # here", "", "write keys with values"},

		// Forms.
		{"no value", "data: # here", "data", "the value is missing"},
		{"list for one value", "data: [a] # here", "data", "write one value"},
		{"map for one value", "data: {a: b} # here", "data", "write one value"},
		{"one value for a list", "origins: https://a.example # here", "origins", `write a list: ["https://a.example"]`},
		{"map for a list", "keys: {name: a} # here", "keys", "write a list"},
		{"one value for a map", "retention: 7h # here", "retention", "write keys with values"},
		{"empty entry", "keys:\n  - # here", "keys[0]", "the entry is empty"},
		{"neither true nor false", "topics:\n  - filter: a\n    stored: no # here", "topics[0].stored", "neither true nor false"},
		{"no number", "log: {replicas: three} # here", "log.replicas", "no whole number"},
		{"duration without unit", "retention: {maxage: 168} # here", "retention.maxage", "write 168s for seconds"},
		{"duration in days", "retention: {maxage: 7d} # here", "retention.maxage", "write 168h"},
		{"no duration", "retention: {dedup: soon} # here", "retention.dedup", "such as 168h"},
		{"size in tens", "retention: {maxbytes: 10GB} # here", "retention.maxbytes", "write 10GiB"},
		{"no size", "retention: {maxbytes: much} # here", "retention.maxbytes", "such as 10GiB"},
		{"size past counting", "retention: {maxbytes: 99999999TiB} # here", "retention.maxbytes", "write less"},

		// Addresses.
		{"port alone", "admin: 8081 # here", "admin", `write ":8081"`},
		{"no port", "admin: localhost # here", "admin", "write HOST:PORT"},
		{"URL", "admin: http://localhost:8081 # here", "admin", "without scheme"},
		{"port past the last", "admin: 127.0.0.1:70000 # here", "admin", "up to 65535"},
		{"address twice", "!tls: off\nhttp: 127.0.0.1:8081 \nadmin: 127.0.0.1:8081 # here", "admin", "write another port"},
		{"nothing to serve", "!tls: {cert: tls.crt, key: tls.pem}\nhttps: \"\" # here", "https", "neither"},

		// TLS.
		{"no TLS", "!http: 127.0.0.1:0 # here", "tls", "tls: {cert: FILE, key: FILE}"},
		{"TLS off without http", "!tls: off # here", "tls", "such as http: 127.0.0.1:8080"},
		{"TLS on", "!tls: on # here", "tls", "or off"},
		{"certificate without key", "!tls: {cert: tls.crt} # here", "tls.key", "write key: FILE"},
		{"key without certificate", "!tls: {key: tls.pem} # here", "tls.cert", "write cert: FILE"},
		{"certificate not there", "!tls:\n  key: tls.pem\n  cert: none.crt # here", "tls.cert", "no such file"},
		{"key not there", "!tls:\n  cert: tls.crt\n  key: none.pem # here", "tls.key", "no such file"},
		{"certificate and key swapped", "!tls:\n  key: tls.crt\n  cert: tls.pem # here", "tls.cert", "no certificate in PEM"},
		{"key of another certificate", "!tls:\n  cert: tls.crt\n  key: next.pem # here", "tls.key", "not the key of the certificate"},
		{"certificate for a key", "!tls:\n  cert: tls.crt\n  key: next.crt # here", "tls.key", "no private key"},
		{"key without PEM", "!tls:\n  cert: tls.crt\n  key: good.key # here", "tls.key", "no private key"},
		{"ACME without a name", "!tls:\n  acme: {email: a@b.example} # here", "tls.acme.hosts", "hosts is missing; write it: Names to get certificates for"},
		{"ACME for no name", "!tls:\n  acme:\n    hosts: [] # here", "tls.acme.hosts", "hosts: [relay.example.com]"},
		{"ACME for a pattern", "!tls:\n  acme:\n    hosts: [\"*.b.example\"] # here", "tls.acme.hosts[0]", "such as relay.example.com"},
		{"ACME beside a certificate", "!tls:\n  cert: tls.crt\n  key: tls.pem\n  acme: {hosts: [b.example]} # here", "tls.acme", "either cert and key, or acme"},
		{"ACME of no authority", "!tls:\n  acme:\n    hosts: [b.example]\n    ca: ca.example # here", "tls.acme.ca", "https://ca.example.com/directory"},
		{"ACME with roots that are not there", "!tls:\n  acme:\n    hosts: [b.example]\n    roots: none # here", "tls.acme.roots", "no such file"},

		// Client certificates.
		{"rights of no authority", "clientcertificates: {rights: [{uri: \"spiffe://a/b\"}]} # here", "clientcertificates.ca", "write ca: FILE"},
		{"client certificates without TLS", "clientcertificates: {ca: tls.crt} # here", "clientcertificates.ca", "let outrelay serve https"},
		{"authority not there", "!tls: {cert: tls.crt, key: tls.pem}\nclientcertificates:\n  ca: none.crt # here", "clientcertificates.ca", "no such file"},
		{"authority without certificate", "!tls: {cert: tls.crt, key: tls.pem}\nclientcertificates:\n  ca: tls.pem # here", "clientcertificates.ca", "no certificate in PEM"},
		{"certificate rights for a bad filter", "!tls: {cert: tls.crt, key: tls.pem}\nclientcertificates:\n  ca: tls.crt\n  rights:\n    - uri: spiffe://a/b # here\n      publish: [\"a/**/b\"]", "clientcertificates.rights[0]", "only the last may be"},

		// The log and NATS.
		{"other storage", "log: {storage: disk} # here", "log.storage", "write file or memory"},
		{"other flush", "log: {flush: never} # here", "log.flush", "write always, or a duration"},
		{"flush by no time", "log: {flush: 0s} # here", "log.flush", "write always, or a duration"},
		{"even replicas", "nats: {url: nats://a:1}\nlog: {replicas: 2} # here", "log.replicas", "write 1, 3 or 5"},
		{"replicas of one server", "log: {replicas: 3} # here", "log.replicas", "nats.url"},
		{"NATS address without scheme", "nats: {url: nats.example} # here", "nats.url", "nats://HOST:4222"},
		{"NATS address with a password", "nats: {url: \"nats://u:secret@a:4222\"} # here", "nats.url", "nats.credentials"},
		{"credentials of nothing", "nats: {credentials: good.key} # here", "nats.credentials", "no nats.url"},
		{"credentials not there", "nats:\n  url: nats://a:4222\n  credentials: none # here", "nats.credentials", "no such file"},

		// Limits.
		{"limit of nothing", "limits: {maxstreams: 0} # here", "limits.maxstreams", "at least 1"},
		{"limit below nothing", "limits: {pinginterval: -3s} # here", "limits.pinginterval", "at least 1"},
		{"limit too small to work", "limits: {headerbytes: 100} # here", "limits.headerbytes", "is needed"},
		{"limit past counting", "limits: {maxstreams: 3000000000} # here", "limits.maxstreams", "whole number"},

		// Names and filters.
		{"bad filter", "topics:\n  - {filter: a//b} # here", "topics[0].filter", "remove the extra"},
		{"filter with a wildcard inside", "topics:\n  - {filter: a/b*} # here", "topics[0].filter", "segment of its own"},
		{"filter missing", "topics:\n  - {stored: true} # here", "topics[0].filter", "filter is missing"},
		{"rule never reached", "topics:\n  - {filter: \"a/**\"}\n  - {filter: a/b} # here", "topics[1].filter", `"a/**" in line 5`},
		{"rule on notices", "topics:\n  - {filter: outrelay/listeners} # here", "topics[0].filter", "broker's own"},
		{"age of what is not kept", "topics:\n  - {filter: a, stored: false, maxage: 1h} # here", "topics[0].maxage", "remove maxage"},
		{"age too short", "topics:\n  - {filter: a, maxage: 1ms} # here", "topics[0].maxage", "at least 1s"},
		{"retention too short", "retention: {maxage: 10ms} # here", "retention.maxage", "at least 1s"},
		{"retention too small", "retention: {maxbytes: 1MiB} # here", "retention.maxbytes", "at least 8MiB"},
		{"dedup too short", "retention: {dedup: 10ms} # here", "retention.dedup", "at least 1s"},
		{"anonymous filter", "anonymous:\n  subscribe: [\"a/**/b\"] # here", "anonymous.subscribe[0]", "only the last"},
		{"anonymous name", "anonymous:\n  listen: [\"a b\"] # here", "anonymous.listen[0]", "character"},
		{"namespace name", "namespaces:\n  \"a b\": {} # here", "namespaces.a b", "character"},
		{"namespace default twice", "!tls: off\nhttp: :0\nhosts: [] # here\nnamespaces: {default: {}}", "hosts", "write it in one place"},
		{"host with a port", "namespaces:\n  a: {hosts: [\"a.example:443\"]} # here", "namespaces.a.hosts[0]", "without scheme, port and path"},
		{"hosts overlap", "namespaces:\n  a:\n    hosts: [RELAY.example] # here", "namespaces.a.hosts[0]", "in line 3 as hosts[0]"},
		{"origin with a path", "origins: [https://a.example/app] # here", "origins[0]", "without a path"},
		{"origin without scheme", "origins: [a.example] # here", "origins[0]", "write https://HOST"},

		// Keys and issuers.
		{"key without name", "keys:\n  - {primaryfile: good.key, rights: [send]} # here", "keys[0].name", "name is missing"},
		{"key without file", "keys:\n  - {name: a, rights: [send]} # here", "keys[0].primaryfile", "primaryfile is missing"},
		{"key file not there", "keys:\n  - {name: a, primaryfile: none.key, rights: [send]} # here", "keys[0].primaryfile", "no such file"},
		{"key file empty", "keys:\n  - {name: a, primaryfile: empty.key, rights: [send]} # here", "keys[0].primaryfile", "32 random bytes"},
		{"key too short", "keys:\n  - {name: a, primaryfile: short.key, rights: [send]} # here", "keys[0].primaryfile", "at least 16"},
		{"secondary key too short", "keys:\n  - {name: a, primaryfile: good.key, secondaryfile: short.key, rights: [send]} # here", "keys[0].secondaryfile", "at least 16"},
		{"key is a folder", "keys:\n  - {name: a, primaryfile: ., rights: [send]} # here", "keys[0].primaryfile", "can't be read"},
		{"key named twice", "keys:\n  - {name: a, primaryfile: good.key, rights: [send]}\n  - {name: A, primaryfile: other.key, rights: [send]} # here", "keys[1].name", "without case"},
		{"other right", "keys:\n  - {name: a, primaryfile: good.key, rights: [sent]} # here", "keys[0].rights[0]", "write send, listen or manage"},
		{"no rights", "keys:\n  - {name: a, primaryfile: good.key, rights: []} # here", "keys[0].rights", "write some of"},
		{"manage with a path", "keys:\n  - {name: a, primaryfile: good.key, rights: [manage], path: a} # here", "keys[0].rights", "whole namespace"},
		{"bad path", "keys:\n  - {name: a, primaryfile: good.key, rights: [send], path: topics/a//b} # here", "keys[0].path", "topics/TOPIC"},
		{"issuer without audience", "jwt:\n  - {issuer: \"https://a.example\"} # here", "jwt[0].audience", "audience is missing"},
		{"issuer without address", "jwt:\n  - {issuer: me, audience: a} # here", "jwt[0].issuer", "add jwks or secretfile"},
		{"issuer twice", "jwt:\n  - {issuer: \"https://a.example\", audience: a}\n  - {issuer: \"https://a.example\", audience: b} # here", "jwt[1].issuer", "one entry"},
		{"keys from plain http", "jwt:\n  - {issuer: me, jwks: \"http://a.example/keys\", audience: a} # here", "jwt[0].jwks", "https://"},
		{"both kinds of keys", "jwt:\n  - {issuer: me, jwks: \"https://a.example/keys\", secretfile: good.key, audience: a} # here", "jwt[0].secretfile", "one of the two"},
		{"secret too short", "jwt:\n  - {issuer: me, secretfile: short.key, audience: a} # here", "jwt[0].secretfile", "at least 32"},
		{"algorithm none", "jwt:\n  - {issuer: \"https://a.example\", audience: a, algorithms: [none]} # here", "jwt[0].algorithms[0]", "RS256"},
		{"algorithm of the other kind", "jwt:\n  - {issuer: \"https://a.example\", audience: a, algorithms: [HS256]} # here", "jwt[0].algorithms[0]", "RS256"},

		// Hybrid connections.
		{"reserved name", "relay:\n  - {name: Topics/a} # here", "relay[0].name", "reserved"},
		{"name too long", "relay:\n  - {name: a/a/a/a/a/a/a/a/a/a/a/a/a/a/a} # here", "relay[0].name", "at most 230 and 14"},
		{"two rules for a name", "relay:\n  - {name: a}\n  - {name: A} # here", "relay[1].name", "in line 5"},
		{"no listeners", "relay:\n  - {name: a, listeners: 0} # here", "relay[0].listeners", "at least 1"},
		{"other kind", "relay:\n  - {name: a, kinds: [tcp]} # here", "relay[0].kinds[0]", "websocket or http"},
		{"no kind", "relay:\n  - {name: a, kinds: []} # here", "relay[0].kinds", "leave kinds out"},
		{"no time", "relay:\n  - {name: a, deadline: 1ms} # here", "relay[0].deadline", "at least 1s"},
		{"host of two", "relay:\n  - {name: a, host: relay.example} # here", "relay[0].host", "in line 3 as hosts[0]"},
	}
	dir := folder(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text, alone := strings.CutPrefix(tt.text, "!")
			if !alone {
				text = base + text
			}
			line := strings.Count(text[:max(strings.Index(text, "# here"), 0)], "\n") + 1
			file := write(t, dir, "outrelay.yaml", text)
			f := faults(t, config.Options{File: file})
			where := fmt.Sprintf("%s:%d: ", file, line)
			if tt.path != "" {
				where += tt.path + ": "
			}
			if got := f[0].Error(); !strings.HasPrefix(got, where) || !strings.Contains(got, tt.want) {
				t.Errorf("%s\nerror = %s\n want = %s...%s", text, f, where, tt.want)
			}
			if len(f) > 1 && tt.name != "merge key" {
				t.Errorf("%s\none mistake is told as %d:\n%s", text, len(f), f)
			}
		})
	}
}

func TestFileItself(t *testing.T) {
	dir := t.TempDir()
	for name, file := range map[string]string{
		"not there": dir + "/none.yaml",
		"folder":    dir,
		"too long":  write(t, dir, "long.yaml", strings.Repeat("# much\n", 200_000)),
	} {
		f := faults(t, config.Options{File: file})
		if f[0].File != file || f[0].Line != 0 || f[0].Text == "" {
			t.Errorf("%s: faults = %q", name, f)
		}
	}
}

// All mistakes are told at once, in the order of the lines.
func TestMistakesTogether(t *testing.T) {
	file := write(t, folder(t), "outrelay.yaml", `tls: {cert: none.crt, key: none.pem}
hosts: [one.example]
limit: {maxstreams: 5}
keys:
  - {name: a, primaryfile: short.key, rights: [send]}
  - {nam: b, primaryfile: none.key, rights: []}
topics:
  - {filter: "a//b", maxage: 3}
`)
	f := faults(t, config.Options{File: file})
	var got []string
	for _, fault := range f {
		got = append(got, fmt.Sprintf("%d %s", fault.Line, fault.Path))
	}
	want := "1 tls.cert, 1 tls.key, 3 limit, 5 keys[0].primaryfile, 6 keys[1].nam, 6 keys[1].primaryfile, 6 keys[1].rights, 8 topics[0].maxage, 8 topics[0].filter"
	if strings.Join(got, ", ") != want {
		t.Errorf("faults at %s\n     want %s\n%v", strings.Join(got, ", "), want, f)
	}
}
