package demo

import (
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"
)

func page(t *testing.T, gateway string) http.Handler {
	t.Helper()
	h, err := Page(gateway, week(t))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(h http.Handler, path string) *http.Response {
	r := httptest.NewRecorder()
	h.ServeHTTP(r, httptest.NewRequest(http.MethodGet, path, nil))
	return r.Result()
}

// files lists the page's files as addresses.
func files(t *testing.T) []string {
	t.Helper()
	var names []string
	err := fs.WalkDir(pageFiles, "page", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, "/"+strings.TrimPrefix(name, "page/"))
		}
		return err
	})
	if err != nil || len(names) < 5 {
		t.Fatalf("the page has the files %v (%v)", names, err)
	}
	return names
}

// Every file is served as what it is, under a policy that lets the page load
// nothing from elsewhere, run nothing inline, and connect to its gateway alone.
func TestPagePolicy(t *testing.T) {
	h := page(t, "http://127.0.0.1:8080")
	types := map[string]string{
		".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
		".svg": "image/svg+xml", ".json": "application/json",
	}
	for _, name := range append(files(t), "/", "/settings.json", "/outrelay.js", "/not-there") {
		answer := get(h, name)
		if name == "/index.html" { // it is served as /
			if got := answer.Header.Get("Location"); answer.StatusCode != http.StatusMovedPermanently || got != "./" {
				t.Errorf("%s is answered %s to %q, want it moved to ./", name, answer.Status, got)
			}
		} else if ext := path.Ext(name); ext != "" {
			if got := answer.Header.Get("Content-Type"); answer.StatusCode != http.StatusOK || got != types[ext] {
				t.Errorf("%s is answered %s as %q, want 200 as %q", name, answer.Status, got, types[ext])
			}
		}
		directives := map[string]string{}
		for d := range strings.SplitSeq(answer.Header.Get("Content-Security-Policy"), ";") {
			directive, sources, _ := strings.Cut(strings.TrimSpace(d), " ")
			directives[directive] = sources
		}
		for directive, want := range map[string]string{
			"default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'",
			"connect-src": "'self' ws://127.0.0.1:8080 http://127.0.0.1:8080",
			"base-uri":    "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
		} {
			if got := directives[directive]; got != want {
				t.Errorf("%s has the policy %s %q, want %q", name, directive, got, want)
			}
		}
		if got := answer.Header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s has X-Content-Type-Options %q", name, got)
		}
	}
}

// The page needs no other host: no file names one, and what index.html and the
// scripts refer to is there.
func TestPageIsComplete(t *testing.T) {
	h := page(t, "http://127.0.0.1:8080")
	address := regexp.MustCompile(`(?i)\b(https?|wss?):?//[^\s'"]*|url\(`)
	reference := regexp.MustCompile(`(?:src|href)="([^"]*)"|from '([^']*)'|read\('([^']*)'\)`)
	inline := regexp.MustCompile(`(?i)<script[^>]*>[^<]|<style|\sstyle=|\son[a-z]+=|javascript:`)
	references := 0
	for _, name := range files(t) {
		b, err := fs.ReadFile(pageFiles, "page"+name)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		for _, found := range address.FindAllString(text, -1) {
			switch found {
			case "http://www.w3.org/2000/svg": // the name of a format, not an address
			default:
				t.Errorf("%s names %s", name, found)
			}
		}
		if path.Ext(name) == ".html" {
			if found := inline.FindString(text); found != "" {
				t.Errorf("%s has script or style inline, which the policy forbids: %s", name, found)
			}
		}
		for _, m := range reference.FindAllStringSubmatch(text, -1) {
			references++
			to := path.Join("/", m[1]+m[2]+m[3])
			if answer := get(h, to); answer.StatusCode != http.StatusOK {
				t.Errorf("%s refers to %s, which is answered %s", name, to, answer.Status)
			}
		}
	}
	if references < 8 {
		t.Errorf("the page's files refer to %d others; this test reads them wrongly", references)
	}
}

// Tests and assistive technology find these elements; README.md lists them.
func TestPageElements(t *testing.T) {
	b, err := io.ReadAll(get(page(t, "http://127.0.0.1:8080"), "/").Body)
	if err != nil {
		t.Fatal(err)
	}
	readme, err := readmeFile()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"count-all", "count-ak", "count-explosions", "newest", "state", "map"} {
		if n := strings.Count(string(b), `id="`+id+`"`); n != 1 {
			t.Errorf("the page has %d elements with the id %s, want one", n, id)
		}
		if !strings.Contains(readme, "`#"+id+"`") {
			t.Errorf("README.md does not list #%s", id)
		}
	}
}

func TestPageSettings(t *testing.T) {
	tests := []struct{ gateway, want string }{
		{"http://127.0.0.1:8080", "ws://127.0.0.1:8080"},
		{"http://[::1]:8080/", "ws://[::1]:8080"},
		{"https://events.example.com", "wss://events.example.com"},
	}
	for _, tt := range tests {
		var got struct {
			Gateway  string
			From, To time.Time
			Events   int
		}
		if err := json.NewDecoder(get(page(t, tt.gateway), "/settings.json").Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		if got.Gateway != tt.want || got.Events != 1707 || got.To.Sub(got.From) < 6*24*time.Hour {
			t.Errorf("the settings of a page for %s are %+v, want %s and the week", tt.gateway, got, tt.want)
		}
	}
	for _, gateway := range []string{
		"", "127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://a b", "http://h;script-src *", "http://user@h",
		"http://h/path", "http://h?query", "http://h\r\nX: y", "http://h'", "http://häuser",
	} {
		if _, err := Page(gateway, nil); err == nil {
			t.Errorf("Page(%q) takes what is no gateway's address", gateway)
		}
	}
}
