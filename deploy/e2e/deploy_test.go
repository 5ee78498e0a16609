package e2e

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const deploy = root + "/deploy"

// shipped is the text of a file of the folder deploy, with other text in place of
// some; all of it must be there.
func shipped(t *testing.T, name string, replace ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(deploy, name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("%s has no %q; this test reads it wrongly", name, replace[i])
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	return text
}

// file writes a file and returns its path.
func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// etc is a folder with what the shipped configs name in /etc/outrelay.
func etc(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	certificate, key := selfSigned(t, "relay.example.com")
	file(t, dir, "tls.crt", certificate)
	file(t, dir, "tls.key", key)
	file(t, dir, "tls.pem", certificate+key)
	file(t, dir, "root.key", "a key of the test, at the root of all\n")
	file(t, dir, "shop.key", "a key of the test, for the shop alone\n")
	file(t, dir, "nats.creds", "nobody reads these before the start\n")
	return dir
}

// Every config that is shipped is taken by outrelay config check.
func TestShippedConfigs(t *testing.T) {
	dir := etc(t)
	names, err := filepath.Glob(deploy + "/config/*.yaml")
	if err != nil || len(names) < 3 {
		t.Fatalf("configs: %v, %v", names, err)
	}
	for _, name := range names {
		config := shipped(t, "config/"+filepath.Base(name), "/etc/outrelay", dir)
		got := output(t, ".", "", outrelay, "config", "check", file(t, dir, filepath.Base(name), config))
		if !strings.Contains(got, `"mistakes":0`) {
			t.Errorf("config check %s printed %s", name, got)
		}
	}
}

// systemd takes the unit, and finds little that it leaves open.
func TestSystemdUnit(t *testing.T) {
	base := t.TempDir()
	for _, program := range []string{"usr/bin/outrelay", "bin/kill"} { // verify looks for them
		if err := os.Chmod(file(t, base, program, "#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	units := "lib/systemd/system"
	if err := os.CopyFS(filepath.Join(base, units), os.DirFS("/"+units)); err != nil {
		t.Fatal(err)
	}
	unit := file(t, base, "etc/systemd/system/outrelay.service", shipped(t, "systemd/outrelay.service"))
	for _, args := range [][]string{
		{"verify", "--root=" + base, "outrelay.service"},
		{"security", "--offline=true", "--threshold=20", unit}, // 2.0 of 10
	} {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %v: %v\n%s", args, err, out)
		}
	}
	sysusers := file(t, base, "outrelay.conf", shipped(t, "systemd/outrelay.sysusers"))
	file(t, base, "etc/passwd", "")
	file(t, base, "etc/group", "")
	output(t, ".", "", "systemd-sysusers", "--root="+base, sysusers)
	if b, err := os.ReadFile(filepath.Join(base, "etc/passwd")); err != nil || !strings.Contains(string(b), "outrelay:x:") {
		t.Errorf("after systemd-sysusers the users are %q (%v)", b, err)
	}
}

// A check that finds nothing wrong with any unit would be worth nothing.
func TestSystemdUnitCheckSeesFaults(t *testing.T) {
	open := file(t, t.TempDir(), "outrelay.service", shipped(t, "systemd/outrelay.service",
		"ProtectSystem=strict\n", "", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n", "", "SystemCallFilter=@system-service\n", ""))
	if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--threshold=20", open).CombinedOutput(); err == nil {
		t.Errorf("systemd-analyze security takes a unit without its walls:\n%s", out)
	}
}

// nftables takes the rules.
func TestFirewallRules(t *testing.T) {
	for _, name := range []string{"firewall/gateway.nft", "firewall/site.nft"} {
		output(t, ".", "", "nft", "--check", "--file", file(t, t.TempDir(), "rules.nft", shipped(t, name)))
	}
}

// The Dockerfile's own build line makes a binary that needs nothing of its image and
// runs without rights on a file system that is not its own.
func TestDockerfile(t *testing.T) {
	text := shipped(t, "Dockerfile")
	line := regexp.MustCompile(`(?m)^RUN (CGO_ENABLED=0 go build .*) -o /out/outrelay (\S+)$`).FindStringSubmatch(text)
	if line == nil {
		t.Fatal("the Dockerfile has no line that builds; this test reads it wrongly")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "outrelay")
	output(t, root, "", "sh", "-c", line[1]+" -o "+binary+" "+line[2])
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Error("the binary wants a dynamic loader, which the image lacks")
	}
	user := regexp.MustCompile(`(?m)^USER (\d+):(\d+)$`).FindStringSubmatch(text)
	if user == nil || user[1] == "0" || !strings.Contains(text, "--chown="+user[1]+":"+user[2]+" /out/data /var/lib/outrelay") {
		t.Fatalf("the image's user is %v; want one that is not root and owns the data folder", user)
	}
	if !strings.Contains(text, `CMD ["serve", "--config", "/etc/outrelay/outrelay.yaml"]`) {
		t.Error("the image does not serve what is in /etc/outrelay")
	}
	// The test's folders are their owner's alone; the binary goes where that user can reach it.
	image, err := os.MkdirTemp("/var/tmp", "outrelay-image-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(image)
	if err := os.Chmod(image, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(image, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(binary); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(filepath.Join(image, "outrelay"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/outrelay", "version")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: image, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	cmd.Dir, cmd.Env = "/empty", []string{}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in an empty root, as user 65532: %v\n%s", err, out)
	}
}
