package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// webhook VAR FILE starts a web service on the address that it puts in VAR. It writes
// each request to the file as a line of JSON, and answers with the status with which the
// event's id begins ("500-a", and then 204), or 204. It ends with the script.
func webhook(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: webhook VAR FILE")
	}
	file, err := os.OpenFile(ts.MkAbs(args[1]), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	var mu sync.Mutex
	seen := map[string]bool{}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		id := r.Header.Get("Ce-Id")
		if id == "" {
			var e struct{ ID string }
			_ = json.Unmarshal(body, &e)
			id = e.ID
		}
		headers := map[string]string{}
		for name, values := range r.Header {
			headers[name] = strings.Join(values, ", ")
		}
		line, _ := json.Marshal(map[string]any{"method": r.Method, "url": r.URL.String(), "id": id, "headers": headers, "body": string(body)})
		mu.Lock()
		defer mu.Unlock()
		_, _ = file.Write(append(line, '\n'))
		status, err := strconv.Atoi(strings.SplitN(id, "-", 2)[0])
		if err != nil || status >= 500 && seen[id] {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		seen[id] = true
		if status/100 == 3 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "no such\n order")
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	ts.Defer(func() {
		server.Close()
		serving.Wait()
		file.Close()
	})
}
