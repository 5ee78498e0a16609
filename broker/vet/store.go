package vet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Names in the data folder, and the server's names in a stream's folder.
const (
	notesDir   = "log-notes"
	damagedDir = "log-damaged"
	blocksDir  = "msgs"
	indexFile  = "index.db"
	statesDir  = "obs"
	stateFile  = "o.dat"
	metaFile   = "meta.inf"
	sumFile    = "meta.sum"
)

// stray is how much later than the last sign of life a state may have been written.
const stray = 3 * time.Second

// maxLost bounds the spans of lost sequences that are kept.
const maxLost = 1000

// A Store is the files of an embedded server, with our notes beside them. It is made by
// New; its methods belong to one goroutine at a time.
type Store struct {
	data  string
	notes map[string]*Note   // by stream
	small map[string]*copies // by stream
}

// A Note is what is known of a stream.
type Note struct {
	// Log is its identity; a stream of the same name with another is another one.
	Log uint64 `json:"log"`
	// Clean says that the note was written after the server had ended.
	Clean bool `json:"clean"`
	// First and Last are where the stream began and ended.
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	// Fresh says that nothing may have left the stream's beginning since the note was
	// written: it was neither old enough nor full enough.
	Fresh bool `json:"fresh"`
	// Gaps are the sequences in between that were removed, with Many an unknown number.
	Gaps Sequences `json:"gaps"`
	Many bool      `json:"many,omitempty"`
	// Expiring says that messages in between are removed by themselves, when their time
	// has come: the newest gaps may not be noted.
	Expiring bool `json:"expiring,omitempty"`
	// Lost is what damage has taken, all of it so far.
	Lost Sequences `json:"lost"`
}

// A Finding is what was found in the files of one stream.
type Finding struct {
	Stream string
	// Note is what was known before, nil if nothing was.
	Note *Note
	// Lost is what was there and is no more. With AtMost some of it may have been
	// removed before. Nothing is known of it without a note, but what Spoilt says.
	Lost   Sequences
	AtMost bool
	// Unsure is what is missing between two blocks and may as well have been removed.
	Unsure Sequences
	// Last is the sequence that the stream must end at, at least.
	Last uint64
	// Spoilt are the blocks that could not be read in whole, and Kept where they were
	// put aside as they were.
	Spoilt, Kept []string
	// Restored are small files that were replaced by their copies: exactly as they were
	// after a clean stop, else some seconds old.
	Restored []string
	// Dropped are the states of consumers that could not be read, nor replaced.
	Dropped []string
	// Blind says that there were notes, and they could not be read.
	Blind bool
}

// New prepares to look over the server's files in the folder data. It touches nothing.
func New(data string) *Store {
	return &Store{data: data, notes: map[string]*Note{}, small: map[string]*copies{}}
}

func (s *Store) streams() string { return filepath.Join(s.data, "jetstream", "$G", "streams") }

func (s *Store) stream(name string) string { return filepath.Join(s.streams(), name) }

func (s *Store) note(stream, kind string) string {
	return filepath.Join(s.data, notesDir, stream+"."+kind)
}

// Look looks over all streams, and mends what can be mended. It must be called before the
// server opens them, once. progress is told now and then how many bytes were read of how
// many. The error says what an operator should do.
func (s *Store) Look(progress func(read, of int64)) ([]Finding, error) {
	if err := os.MkdirAll(filepath.Join(s.data, notesDir), 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.streams())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	noted, err := filepath.Glob(s.note("*", "note"))
	if err != nil {
		return nil, err
	}
	for _, file := range noted {
		if name := strings.TrimSuffix(filepath.Base(file), ".note"); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	meter := newMeter(s, names, progress)
	var findings []Finding
	for _, name := range names {
		f, err := s.look(name, meter)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		findings = append(findings, f)
	}
	return findings, nil
}

// look looks over one stream.
func (s *Store) look(name string, meter *meter) (Finding, error) {
	f := Finding{Stream: name}
	note := new(Note)
	switch err := readSealed(s.note(name, "note"), note); {
	case err == nil:
		f.Note, s.notes[name] = note, note
	case !errors.Is(err, fs.ErrNotExist):
		f.Blind = true
	}
	last, alive, err := readAnswered(s.note(name, "answered"), note.Log)
	if err != nil && f.Note != nil {
		f.Blind = f.Blind || !note.Clean
	}
	if err != nil || note.Clean {
		last = note.Last
	}
	f.Last = last
	if err := s.lookAtSmall(&f, alive); err != nil {
		return f, err
	}
	if err := s.lookAtBlocks(&f, meter); err != nil {
		return f, err
	}
	if f.Note != nil {
		for len(note.Lost) > 0 && note.Lost[0][1]+1 < note.First { // retention has taken more since
			note.Lost = note.Lost[1:]
		}
		note.Lost = Union(append(slices.Clone(note.Lost), f.Lost...)...)
		if more := len(note.Lost) - maxLost; more > 0 { // the oldest as one
			note.Lost = append(Sequences{{note.Lost[0][0], note.Lost[more][1]}}, note.Lost[more+1:]...)
		}
		note.Clean = false // from here on
		if err := writeSealed(s.note(name, "note"), note, true); err != nil {
			// The disk is full, perhaps. A note that says more than is so is worse than none.
			if err := s.Forget(name); err != nil {
				return f, err
			}
			s.notes[name] = note
		}
	}
	return f, nil
}

// Has says whether a stream has messages in its folder.
func (s *Store) Has(stream string) bool { return hasBlocks(s.stream(stream)) }

// lookAtBlocks reads all blocks of a stream and rewrites those that are spoilt.
func (s *Store) lookAtBlocks(f *Finding, meter *meter) error {
	dir := filepath.Join(s.stream(f.Stream), blocksDir)
	files, err := blockFiles(dir)
	if err != nil {
		return err
	}
	blocks := make([]block, len(files))
	if err := each(len(files), func(i int) (err error) {
		blocks[i], err = s.lookAtBlock(f.Stream, files[i], meter)
		return err
	}); err != nil {
		return err
	}
	var held, doubt []Span
	for i, b := range blocks {
		held = append(held, b.held...)
		for _, d := range b.doubt {
			if d[1] == 0 { // up to what comes next
				d[1] = f.Last
				for _, later := range blocks[i+1:] {
					if later.first > 0 {
						d[1] = later.first - 1
						break
					}
				}
			}
			doubt = append(doubt, d)
		}
	}
	if n := f.Note; n != nil {
		first := n.First
		if !n.Clean && !n.Fresh { // what left the beginning may have been removed
			for _, h := range Union(held...) {
				if h[1] >= first {
					first = max(first, h[0])
					break
				}
			}
		}
		expected := Union(Span{first, f.Last}).Without(n.Gaps).Without(n.Lost)
		f.Lost = expected.Without(Union(held...))
		if n.Many || n.Expiring && !n.Clean {
			// What is missing where nothing is spoilt may have been removed since the note.
			end := uint64(0)
			var between []Span // the blocks
			for _, b := range blocks {
				if b.last > 0 {
					between = append(between, Span{end + 1, b.first - 1})
					end = max(end, b.last)
				}
			}
			missing := f.Lost
			f.Lost, f.AtMost = missing.And(Union(append(doubt, Span{end + 1, f.Last})...)), true
			f.Unsure = missing.And(Union(between...)).Without(f.Lost)
		}
	}
	if len(f.Lost) > 0 && len(held) == 0 && len(doubt) > 0 {
		return fmt.Errorf("nothing in its files (%s) can be read: restore a copy of the data folder, or go back to the release of outrelay that wrote them, or move this stream's folder away to begin with an empty log", dir)
	}
	changed := len(f.Lost)+len(f.Unsure) > 0
	for i, b := range blocks {
		if b.whole() {
			continue
		}
		// What a process was writing when it died is no loss, and the server cuts it off.
		if i == len(blocks)-1 && len(f.Lost) == 0 && b.torn() {
			continue
		}
		kept, err := s.replace(f.Stream, files[i])
		if err != nil {
			return fmt.Errorf("block %s is spoilt and can't be mended: %w; make room or mend the disk, or restore a copy of the data folder", files[i], err)
		}
		changed = true
		f.Spoilt, f.Kept = append(f.Spoilt, files[i]), append(f.Kept, kept)
	}
	if changed { // it would hide what has changed
		if err := os.Remove(filepath.Join(dir, indexFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (s *Store) lookAtBlock(stream, file string, meter *meter) (block, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return block{}, err
	}
	b := readBlock(hasher(blockKey(stream, file)), data)
	meter.add(len(data))
	return b, nil
}

// replace puts a spoilt block aside, and what is good of it in its place.
func (s *Store) replace(stream, file string) (kept string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	aside := filepath.Join(s.data, damagedDir)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return "", err
	}
	kept = filepath.Join(aside, fmt.Sprintf("%s-%s-%d", stream, filepath.Base(file), time.Now().UnixNano()))
	if err := writeWhole(kept, data, true); err != nil {
		return "", err
	}
	b := readBlock(hasher(blockKey(stream, file)), data)
	clean := b.rewritten(data)
	if len(clean) == 0 {
		return kept, os.Remove(file)
	}
	return kept, writeWhole(file, clean, true)
}

// blockKey names a block for its checksums: N.blk of a stream is "stream-N".
func blockKey(stream, file string) string {
	return stream + "-" + strings.TrimSuffix(filepath.Base(file), ".blk")
}

// blockFiles lists a stream's blocks in their order.
func blockFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	numbers := map[string]int{}
	var files []string
	for _, e := range entries {
		number, ok := strings.CutSuffix(e.Name(), ".blk")
		n, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		file := filepath.Join(dir, e.Name())
		numbers[file] = n
		files = append(files, file)
	}
	slices.SortFunc(files, func(a, b string) int { return numbers[a] - numbers[b] })
	return files, nil
}

// each calls f for 0 to n-1, some at a time, and returns the first fault.
func each(n int, f func(i int) error) error {
	faults := make([]error, n)
	var all sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			faults[i] = f(i)
		})
	}
	all.Wait()
	return errors.Join(faults...)
}

// A meter counts what was read.
type meter struct {
	progress func(read, of int64)
	of       int64

	mu   sync.Mutex
	read int64
	told time.Time
}

// progressInterval is how often progress is told, and how long it is not.
const progressInterval = 5 * time.Second

func newMeter(s *Store, names []string, progress func(read, of int64)) *meter {
	m := &meter{progress: progress, told: time.Now()}
	for _, name := range names {
		files, _ := filepath.Glob(filepath.Join(s.stream(name), blocksDir, "*.blk"))
		for _, file := range files {
			if info, err := os.Stat(file); err == nil {
				m.of += info.Size()
			}
		}
	}
	return m
}

func (m *meter) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read += int64(n)
	if time.Since(m.told) > progressInterval {
		m.told = time.Now()
		m.progress(m.read, m.of)
	}
}
