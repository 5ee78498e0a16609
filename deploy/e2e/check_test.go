package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A checkedStep is a line of outrelay check.
type checkedStep struct {
	Step, Status, Detail, Tell, Proxy string
	Port                              int
}

// check runs outrelay check on a host, with variables of its environment before it, and
// returns its steps by name, the first of each, and its exit status.
func (s *site) check(t *testing.T, on *namespace, environment ...string) (map[string]checkedStep, int) {
	t.Helper()
	name, args := s.command(on, "check", "--timeout", "4s")
	for i, arg := range args {
		if arg == outrelay {
			args = append(args[:i:i], append(environment, args[i:]...)...)
			break
		}
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	if ended := (*exec.ExitError)(nil); err != nil && !errors.As(err, &ended) {
		t.Fatalf("%v: %v", cmd, err)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("it took %v", took)
	}
	steps := map[string]checkedStep{}
	for d := json.NewDecoder(&out); ; {
		var step checkedStep
		if err := d.Decode(&step); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("check printed no JSON: %v\n%s", err, errs.String())
		}
		if _, again := steps[step.Step]; !again {
			steps[step.Step] = step
		}
	}
	if len(steps) != 10 {
		t.Errorf("check printed %d steps: %+v\n%s", len(steps), steps, errs.String())
	}
	return steps, cmd.ProcessState.ExitCode()
}

// checkNetworkTest runs outrelay check while everything passes, and while the firewall
// lets nothing out.
func (s *site) checkNetworkTest(t *testing.T) {
	steps, code := s.check(t, s.onprem)
	for name, step := range steps {
		if step.Status != "ok" {
			t.Errorf("%s is %s: %s", name, step.Status, step.Detail)
		}
	}
	used := "no proxy is used"
	if s.proxy != nil {
		used = "the proxy " + proxyAddress + ":3128 (from HTTPS_PROXY) is used, with the user name and password in its address"
	}
	if code != 0 || !strings.HasPrefix(steps["proxy"].Detail, used) {
		t.Errorf("check ended with %d and says of the proxy %q, want 0 and %q", code, steps["proxy"].Detail, used)
	}
	name, args := s.command(s.onprem, "check", "--allowlist", "--format", "text")
	if got := output(t, "", "", name, args...); got != cloudAddress+":443 tcp\n" {
		t.Errorf("the firewall's owner is to allow %q", got)
	}
	if s.proxy != nil {
		steps, code = s.check(t, s.onprem, fmt.Sprintf("HTTPS_PROXY=http://%s:3128", proxyAddress))
		if step := steps["proxy"]; code != 5 || step.Status != "failed" || !strings.Contains(step.Detail, "wants a user name and password") {
			t.Errorf("without a password check ended with %d and says %+v", code, step)
		}
	}

	// The same with a firewall that drops what goes out.
	host, port, failing := cloudAddress, 443, "tcp"
	if s.proxy != nil {
		host, port, failing = proxyAddress, 3128, "proxy"
	}
	open := fmt.Sprintf("ip daddr %s tcp dport %d accept", host, port)
	closed := strings.Replace(s.rules, open, "", 1)
	if closed == s.rules {
		t.Fatalf("the rules have no %q", open)
	}
	s.onprem.run("nft", "flush", "ruleset")
	s.onprem.firewall(closed)
	defer func() {
		s.onprem.run("nft", "flush", "ruleset")
		s.onprem.firewall(s.rules)
	}()
	steps, code = s.check(t, s.onprem)
	if step := steps[failing]; code != 4 || step.Status != "failed" || !strings.Contains(step.Detail, "no answer") || !strings.Contains(step.Detail, host) {
		t.Errorf("behind a closed firewall check ended with %d and says %+v", code, step)
	}
	if step := steps["tls"]; step.Status != "skipped" || !strings.Contains(step.Detail, failing) {
		t.Errorf("behind a closed firewall check says of TLS %+v", step)
	}
	if s.proxy == nil && !strings.Contains(steps["tcp"].Tell, "allow outgoing TCP connections to port 443 of "+cloudAddress) {
		t.Errorf("the firewall's owner is told %q", steps["tcp"].Tell)
	}
}
