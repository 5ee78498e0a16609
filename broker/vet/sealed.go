package vet

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Our own files may be spoilt too, so each begins with a checksum.

var errSpoilt = errors.New("its checksum does not hold")

func seal(data []byte) []byte { return fmt.Appendf(nil, "%08x\n%s", crc32.ChecksumIEEE(data), data) }

func unseal(data []byte) ([]byte, error) {
	const head = 9
	if len(data) < head || string(data[:head]) != fmt.Sprintf("%08x\n", crc32.ChecksumIEEE(data[head:])) {
		return nil, errSpoilt
	}
	return data[head:], nil
}

func readSealed(file string, into any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if data, err = unseal(data); err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

func writeSealed(file string, what any, sync bool) error {
	data, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return writeWhole(file, seal(data), sync)
}

// writeWhole writes a file in one step: all of it, or the one before stays.
func writeWhole(file string, data []byte, sync bool) error {
	f, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(file+".new", file); err != nil || !sync {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Answered keeps which sequence of a stream was answered last. It is written before each
// answer, and not flushed: the death of the process does not take it, and a loss of power
// leaves one from before, which is no less true. Its methods may be called from any
// goroutine.
type Answered struct {
	log uint64

	mu   sync.Mutex
	file *os.File
	last uint64
}

// Answered opens the one of a stream, which ends at last now. Close it after use.
func (s *Store) Answered(stream string, log, last uint64) (*Answered, error) {
	file, err := os.OpenFile(s.note(stream, "answered"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	a := &Answered{log: log, file: file}
	if err := a.Set(last); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return a, nil
}

// Set notes that all up to last are kept.
func (a *Answered) Set(last uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = last
	return a.write()
}

// write writes it. The lock is held.
func (a *Answered) write() error {
	_, err := a.file.WriteAt(seal(fmt.Appendf(nil, "%016x %020d\n", a.log, a.last)), 0)
	return err
}

// Alive notes that the process still runs. It should be called twice a second: a state
// that was written long after that is nobody's.
func (a *Answered) Alive() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.write()
}

// Close ends the use of it.
func (a *Answered) Close() error { return a.file.Close() }

// readAnswered reads it, and when it was written.
func readAnswered(file string, log uint64) (last uint64, alive time.Time, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, time.Time{}, err
	}
	if data, err = unseal(data); err != nil {
		return 0, time.Time{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return 0, time.Time{}, err
	}
	var of uint64
	if _, err := fmt.Sscanf(string(data), "%x %d\n", &of, &last); err != nil {
		return 0, time.Time{}, err
	}
	if of != log {
		return 0, time.Time{}, errors.New("it is another log's")
	}
	return last, info.ModTime(), nil
}
