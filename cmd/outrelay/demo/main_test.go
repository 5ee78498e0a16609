package demo

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func readmeFile() (string, error) {
	b, err := os.ReadFile("README.md")
	return string(b), err
}
