package acme

import (
	"context"
	"sync"

	"github.com/caddyserver/certmagic"
)

// A folder is certmagic's storage in files with locks of this process alone: one
// gateway at a time has the data folder, and lock files would be kept fresh by
// goroutines that nobody waits for.
type folder struct {
	certmagic.Storage

	mu    sync.Mutex
	locks map[string]chan struct{} // closed when given back
}

func newFolder(path string) *folder {
	return &folder{Storage: &certmagic.FileStorage{Path: path}, locks: map[string]chan struct{}{}}
}

// Lock implements [certmagic.Locker].
func (f *folder) Lock(ctx context.Context, name string) error {
	for {
		f.mu.Lock()
		taken := f.locks[name]
		if taken == nil {
			f.locks[name] = make(chan struct{})
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Unlock implements [certmagic.Locker].
func (f *folder) Unlock(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if taken := f.locks[name]; taken != nil {
		close(taken)
		delete(f.locks, name)
	}
	return nil
}
