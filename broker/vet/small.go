package vet

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// copies are the small files of a stream: its settings, and the settings and states of
// its consumers.
type copies struct {
	Files map[string]smallFile `json:"files"` // by their path in the stream's folder
}

type smallFile struct {
	Data    []byte    `json:"data"`
	Changed time.Time `json:"changed"`
}

// lookAtSmall compares a stream's small files with their copies. alive is when the
// server last was known to run.
func (s *Store) lookAtSmall(f *Finding, alive time.Time) error {
	dir := s.stream(f.Stream)
	known := &copies{Files: map[string]smallFile{}}
	if err := readSealed(s.note(f.Stream, "small"), known); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Blind = true
	}
	s.small[f.Stream] = known
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil // all of it is gone, which is no matter of one file
	}
	clean := f.Note != nil && f.Note.Clean
	restore := func(name string) error {
		if err := writeWhole(filepath.Join(dir, name), known.Files[name].Data, true); err != nil {
			return err
		}
		f.Restored = append(f.Restored, filepath.Join(f.Stream, name))
		return nil
	}
	pair := func(folder, key string) error { // settings and their checksum
		settings, sum := filepath.Join(folder, metaFile), filepath.Join(folder, sumFile)
		a, b := readSmall(dir, settings), readSmall(dir, sum)
		_, haveA := known.Files[settings]
		_, haveB := known.Files[sum]
		same := bytes.Equal(a, known.Files[settings].Data) && bytes.Equal(b, known.Files[sum].Data)
		switch {
		case sumHolds(key, a, b) && (!clean || same || !haveA):
			return nil
		case haveA && haveB:
			return errors.Join(restore(settings), restore(sum))
		}
		return errNoCopy
	}
	if err := pair("", f.Stream); errors.Is(err, errNoCopy) {
		if !hasBlocks(dir) { // it was being made
			return os.RemoveAll(dir)
		}
		return errors.New("its settings (" + filepath.Join(dir, metaFile) + ", " + sumFile + ") are spoilt, and there is no copy of them: restore a copy of the data folder, or move this stream's folder away to begin without it")
	} else if err != nil {
		return err
	}
	for _, name := range s.consumers(f.Stream) {
		folder := filepath.Join(statesDir, name)
		if err := pair(folder, f.Stream+"/"+name); errors.Is(err, errNoCopy) {
			// The server would stop the whole stream for some of these.
			if err := s.putAside(f.Stream, folder); err != nil {
				return err
			}
			f.Dropped = append(f.Dropped, name)
			continue
		} else if err != nil {
			return err
		}
		state := filepath.Join(folder, stateFile)
		have, ok := known.Files[state]
		info, err := os.Stat(filepath.Join(dir, state))
		now := readSmall(dir, state)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !ok: // nothing was handed out yet
		case clean && ok && bytes.Equal(now, have.Data):
		case !clean && err == nil && stateHolds(now) && (alive.IsZero() || info.ModTime().Before(alive.Add(stray))):
		case ok && stateHolds(have.Data):
			if err := restore(state); err != nil {
				return err
			}
		default: // it begins anew where it was made to, which redelivers
			if err := os.Remove(filepath.Join(dir, state)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			f.Restored = append(f.Restored, filepath.Join(f.Stream, state))
		}
	}
	return nil
}

var errNoCopy = errors.New("there is no copy")

func hasBlocks(dir string) bool {
	files, err := blockFiles(filepath.Join(dir, blocksDir))
	return err != nil || len(files) > 0
}

func readSmall(dir, name string) []byte {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil
	}
	return data
}

// consumers lists the consumers that have a folder.
func (s *Store) consumers(stream string) []string {
	entries, err := os.ReadDir(filepath.Join(s.stream(stream), statesDir))
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func (s *Store) putAside(stream, folder string) error {
	aside := filepath.Join(s.data, damagedDir)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	return os.Rename(filepath.Join(s.stream(stream), folder),
		filepath.Join(aside, stream+"-"+filepath.Base(folder)+"-"+time.Now().UTC().Format("20060102T150405.000000000")))
}

// copy keeps the small files of a stream, those that have changed since the last time.
func (s *Store) copy(stream string) error {
	dir := s.stream(stream)
	before := s.small[stream]
	if before == nil {
		before = &copies{}
	}
	now := &copies{Files: map[string]smallFile{}}
	changed := false
	keep := func(names ...string) {
		var files []smallFile
		for _, name := range names {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				return
			}
			file, ok := before.Files[name]
			if !ok || !file.Changed.Equal(info.ModTime()) || len(file.Data) != int(info.Size()) {
				file = smallFile{readSmall(dir, name), info.ModTime()}
			}
			files = append(files, file)
		}
		for i, name := range names {
			now.Files[name] = files[i]
			old, ok := before.Files[name]
			changed = changed || !ok || !bytes.Equal(old.Data, files[i].Data)
		}
	}
	if keep(metaFile, sumFile); !sumHolds(stream, now.Files[metaFile].Data, now.Files[sumFile].Data) {
		return nil // it is being written
	}
	for _, name := range s.consumers(stream) {
		folder := filepath.Join(statesDir, name)
		settings, sum, state := filepath.Join(folder, metaFile), filepath.Join(folder, sumFile), filepath.Join(folder, stateFile)
		keep(settings, sum)
		keep(state)
		if !sumHolds(stream+"/"+name, now.Files[settings].Data, now.Files[sum].Data) {
			delete(now.Files, settings)
			delete(now.Files, sum)
		}
	}
	if !changed && len(now.Files) == len(before.Files) {
		return nil
	}
	s.small[stream] = now
	return writeSealed(s.note(stream, "small"), now, false)
}

// CopyAll keeps copies of the small files of all streams.
func (s *Store) CopyAll() error {
	entries, err := os.ReadDir(s.streams())
	if err != nil {
		return err
	}
	var faults []error
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			faults = append(faults, s.copy(e.Name()))
		}
	}
	return errors.Join(faults...)
}

// Keep writes the note of a stream; sync has it flushed.
func (s *Store) Keep(stream string, n Note, sync bool) error {
	s.notes[stream] = &n
	return writeSealed(s.note(stream, "note"), n, sync)
}

// Close writes the notes once more, after the server has ended.
func (s *Store) Close() error {
	if err := s.CopyAll(); err != nil {
		return err
	}
	var faults []error
	for _, stream := range slices.Sorted(maps.Keys(s.notes)) {
		n := *s.notes[stream]
		if _, err := os.Stat(s.stream(stream)); err != nil {
			continue
		}
		n.Clean = true
		faults = append(faults, s.Keep(stream, n, true))
	}
	return errors.Join(faults...)
}

// Forget drops what is noted of a stream that is no more.
func (s *Store) Forget(stream string) error {
	delete(s.notes, stream)
	delete(s.small, stream)
	var faults []error
	for _, kind := range strings.Fields("note small answered") {
		if err := os.Remove(s.note(stream, kind)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}
