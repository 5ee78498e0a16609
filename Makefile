# make test   everything: vet and all Go tests under the race detector, then the tests
#             with npm packages and a browser. Installs what it needs (as root) first.
# make lint   gofmt, go vet, staticcheck, and govulncheck where its database can be reached
# make fuzz   every fuzz target, FUZZTIME each (default 1000000x: executions)
# make soak   the long forms of the tests that have one
# make bench  every benchmark, BENCHCOUNT times, with benchstat's summary
# make bench-peers  outrelay beside its peers; writes bench/RESULTS.md
# make bench-relay  the relay beside nginx and others; writes bench/RESULTS.md

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
FUZZTIME    ?= 1000000x
BENCHCOUNT  ?= 6
BENCH       ?= .
TOOLS       := $(CURDIR)/tools/bin

.PHONY: test unit e2e lint fuzz soak bench bench-peers bench-relay tools clean

test:
	@start=$$SECONDS; \
	deploy/e2e/prepare; \
	$(MAKE) unit; \
	$(MAKE) e2e; \
	echo; echo "make test: everything passed, in $$((SECONDS - start)) s"

# the main module, as plain Go: no npm, no browser
unit:
	go vet ./...
	go test -race -count=1 -timeout 30m ./...

# deploy/e2e: the real command as a process, other people's clients, a browser
e2e:
	cd deploy/e2e && go vet ./...
	cd deploy/e2e && go test -race -count=1 -timeout 30m -v ./...

lint: tools
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	cd deploy/e2e && go vet ./...
	$(TOOLS)/staticcheck ./...
	cd deploy/e2e && $(TOOLS)/staticcheck ./...
	@if out=$$($(TOOLS)/govulncheck ./... 2>&1); then echo "govulncheck: no known vulnerability is reached"; \
	elif grep -q 'fetching vulnerabilities' <<<"$$out"; then echo "govulncheck: not run, its database can't be reached from here"; \
	else echo "$$out"; exit 1; fi
	@echo "make lint: clean"

# the tools at the versions of tools/go.mod
tools:
	@mkdir -p $(TOOLS) && cd tools && go build -o $(TOOLS)/ tool

fuzz:
	@found=0; pkgs=$$(go list ./...); for pkg in $$pkgs; do \
		tests=$$(go test -list . $$pkg); \
		for target in $$(sed -n '/^Fuzz/p' <<<"$$tests"); do \
			found=$$((found + 1)); echo "== $$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$pkg; \
		done; \
	done; \
	[ $$found -gt 0 ] || { echo "make fuzz: no target found"; exit 1; }; \
	echo "make fuzz: $$found targets, $(FUZZTIME) each, nothing found"

# a test that has a long form takes it where OUTRELAY_SOAK is set
soak:
	deploy/e2e/prepare
	OUTRELAY_SOAK=1 go test -race -count=1 -timeout 120m ./...
	cd deploy/e2e && OUTRELAY_SOAK=1 go test -race -count=1 -timeout 120m -v ./...

bench: tools
	@out=$$(mktemp); go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(BENCHCOUNT) -timeout 60m ./... | tee $$out; \
	$(TOOLS)/benchstat $$out; rm -f $$out

# outrelay beside its peers, on two processors that nothing else uses
bench-peers:
	cd bench/peers && go run . -out ..

# the relay beside direct TCP, nginx's stream proxy and a bare rendezvous, likewise
bench-relay:
	cd bench/relay && go run . -out ..

clean:
	rm -rf $(TOOLS) deploy/e2e/npm/node_modules outrelay
