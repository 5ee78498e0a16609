// Package datafolder keeps what a gateway has on disk to itself: one process at a
// time may use a data folder, and the root key that is made on the first start is
// for its owner alone.
package datafolder

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// ErrInUse is the error of [Open] while another process has the folder.
var ErrInUse = errors.New("another gateway uses it")

// RootKeyFile is the name of the root key's file in a data folder.
const RootKeyFile = "root.key"

// A Folder is a data folder that this process alone uses. Make one with [Open].
type Folder struct {
	dir  string
	lock *os.File
}

// Open makes the folder if it is not there, with mode 0700, and takes it. Close it
// when nothing in it is used any more; the end of the process, however it comes,
// closes it too. The error names the folder and, with [ErrInUse], the other process.
func Open(dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := lock(f); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32)) // without it the error says less
		f.Close()
		if errors.Is(err, ErrInUse) && len(holder) > 0 {
			return nil, fmt.Errorf("data folder %s: %w (process %s)", dir, err, bytes.TrimSpace(holder))
		}
		return nil, fmt.Errorf("data folder %s: %w", dir, err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("data folder: %w", err)
	}
	return &Folder{dir, f}, nil
}

// Close lets others have the folder.
func (f *Folder) Close() error { return f.lock.Close() }

// RootKey returns the file that holds the root key, 256 random bits in base64, and
// makes it with mode 0600 if it is not there.
func (f *Folder) RootKey() (file string, err error) {
	file = filepath.Join(f.dir, RootKeyFile)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	var key [32]byte
	rand.Read(key[:]) // never fails
	if err := WriteFile(file, []byte(base64.StdEncoding.EncodeToString(key[:])), 0o600); err != nil {
		return "", fmt.Errorf("root key: %w", err)
	}
	return file, nil
}

// WriteFile puts a file in its place in one step: who looks finds the whole of it,
// or what was there before.
func WriteFile(path string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	if _, err = f.Write(b); err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
