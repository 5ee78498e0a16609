package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// website VAR starts a web server, on the address that it puts in VAR and on the
// socket in VAR_SOCKET, that answers with the request. It ends with the script.
func website(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: website VAR")
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s\n", r.Method, r.RequestURI, r.Proto)
		_ = r.Header.Write(w)
		_, _ = io.Copy(w, r.Body)
	})}
	var serving sync.WaitGroup
	socket := ts.MkAbs("site.sock")
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": socket} {
		l, err := net.Listen(network, address)
		ts.Check(err)
		if network == "tcp" {
			ts.Setenv(args[0], l.Addr().String())
		}
		serving.Go(func() { _ = server.Serve(l) })
	}
	ts.Setenv(args[0]+"_SOCKET", socket)
	ts.Defer(func() {
		server.Close()
		serving.Wait()
	})
}

// freeport VAR... puts a port into each variable that nobody listens on.
func freeport(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: freeport VAR...")
	}
	for _, name := range args {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		ts.Check(err)
		ts.Setenv(name, port)
	}
}

// reach URL gets an address, as soon as there is somebody, and prints the status and
// the body. Negated, it wants no answer, and prints why there is none.
func reach(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: reach URL")
	}
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: patience}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get(args[0])
		absent := err != nil && strings.Contains(err.Error(), "connection refused") || err == nil && resp.StatusCode == http.StatusNotFound
		// A bridge to a name on which nobody listens yet cuts what comes.
		absent = absent || !neg && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET))
		if absent && time.Now().Before(deadline) {
			if err == nil {
				resp.Body.Close()
			}
			continue
		}
		if err != nil {
			if !neg {
				ts.Fatalf("%v", err)
			}
			fmt.Fprintln(ts.Stdout(), err)
			return
		}
		defer resp.Body.Close()
		if neg {
			ts.Fatalf("%s answered %s", args[0], resp.Status)
		}
		fmt.Fprintln(ts.Stdout(), resp.Status)
		b, err := io.ReadAll(resp.Body)
		ts.Check(err)
		// a line's end as a script's pattern has it
		fmt.Fprint(ts.Stdout(), strings.ReplaceAll(string(b), "\r\n", "\n"))
		return
	}
}
