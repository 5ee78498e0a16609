package datafolder_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/datafolder"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOneAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	first, err := datafolder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = datafolder.Open(dir)
	if !errors.Is(err, datafolder.ErrInUse) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("a second Open: error = %v, want ErrInUse with the folder and the process", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := datafolder.Open(dir)
	if err != nil {
		t.Fatalf("Open after Close: %v", err)
	}
	again.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v (%v), want 0700", info.Mode(), err)
	}
}

func TestRootKeyIsMadeOnce(t *testing.T) {
	f, err := datafolder.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file, err := f.RootKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if key, err := base64.StdEncoding.DecodeString(string(text)); err != nil || len(key) != 32 || bytes.Count(key, key[:1]) == 32 {
		t.Errorf("the file holds %d bytes (%v), want 32 random ones in base64 alone", len(key), err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v (%v), want 0600", info.Mode(), err)
	}
	if _, err := f.RootKey(); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, text) {
		t.Errorf("a second RootKey made another key (%v)", err)
	}
}

func TestWriteFileLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ready")
	for _, text := range []string{"one", "two"} {
		if err := datafolder.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("the file holds %q (%v), want %q", b, err, text)
		}
	}
	if err := datafolder.WriteFile(filepath.Join(dir, "none", "ready"), nil, 0o644); err == nil {
		t.Error("WriteFile into a folder that is not there: no error")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files (%v), want the one", len(entries), err)
	}
}
