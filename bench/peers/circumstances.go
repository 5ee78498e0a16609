package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
)

// circumstances say where and with what was measured.
func circumstances() []string {
	return []string{
		fmt.Sprintf("Machine: %s, %d processors, %s, %s. The server has one processor (GOMAXPROCS=1), the load another; loopback.",
			field("/proc/cpuinfo", "model name"), runtime.NumCPU(), field("/proc/meminfo", "MemTotal"), kernel()),
		fmt.Sprintf("Versions: %s.", versions()),
		fmt.Sprintf("Events: CloudEvents of %d bytes; at most rate %d are under way for each publisher, at a fixed rate latency counts from the intended time.", eventSize, underWay),
	}
}

func commit() string {
	b, err := exec.Command("git", "rev-parse", "--short=10", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	s := strings.TrimSpace(string(b))
	if changed, err := exec.Command("git", "status", "--porcelain", "-uno", "--", "../../broker", "../../gateway", "../../schemas", "../../cmd").Output(); err == nil && len(changed) > 0 {
		s += " with changes"
	}
	return s
}

// field is the first value of that name in a file of /proc.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	_, after, _ := strings.Cut(string(b), name)
	line, _, _ := strings.Cut(after, "\n")
	return strings.Trim(line, " \t:")
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return "Linux " + strings.TrimSpace(string(b))
}

func versions() string {
	list := []string{runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return list[0]
	}
	for _, d := range info.Deps {
		switch d.Path {
		case "github.com/nats-io/nats-server/v2":
			list = append(list, "nats-server "+d.Version)
		case "github.com/centrifugal/centrifuge":
			list = append(list, "Centrifuge "+d.Version)
		}
	}
	return strings.Join(list, ", ")
}
