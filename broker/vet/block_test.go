package vet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// written has a server store messages 1 to n, of some size, in a stream and returns the data folder and
// the block's file. Message 3 is removed.
func written(t testing.TB, n, size int) (data, file string) {
	t.Helper()
	data = t.TempDir()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, JetStream: true, StoreDir: data, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("no server")
	}
	conn, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(subject, body string) {
		t.Helper()
		answer, err := conn.Request(subject, []byte(body), 10*time.Second)
		if err != nil || strings.Contains(string(answer.Data), `"error"`) {
			t.Fatalf("%s: %v %s", subject, err, answer.Data)
		}
	}
	ask("$JS.API.STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"storage":"file","retention":"limits","num_replicas":1}`)
	for i := range n {
		m := &nats.Msg{Subject: fmt.Sprintf("s.%d", i), Data: fmt.Appendf(nil, `{"data":{"number":%d,"text":%q}}`, i, strings.Repeat("x", size)), Header: nats.Header{}}
		m.Header.Set("Number", fmt.Sprint(i))
		if _, err := conn.RequestMsg(m, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	ask("$JS.API.STREAM.MSG.DELETE.S", `{"seq":3,"no_erase":true}`)
	return data, filepath.Join(data, "jetstream", "$G", "streams", "S", "msgs", "1.blk")
}

// messages are the bodies of a block's messages by sequence, as its lengths say.
func messages(data []byte, b block) map[uint64]string {
	found := map[uint64]string{}
	for _, r := range b.good {
		record := data[r[0]:r[1]]
		sequence := binary.LittleEndian.Uint64(record[4:])
		if sequence&(bitTombstone|bitErased) != 0 {
			continue
		}
		at := recordHead + int(binary.LittleEndian.Uint16(record[20:]))
		at += 4 + int(binary.LittleEndian.Uint32(record[at:]))
		found[sequence] = string(record[at : len(record)-recordSum])
	}
	return found
}

// One bit turned, wherever it is, takes one message at most, and changes none. That of a
// length of headers, which no checksum of the server covers, takes none at all.
func TestOneBitTakesOneMessage(t *testing.T) {
	const n = 12
	_, file := written(t, n, 0)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := hasher(blockKey("S", file))
	b := readBlock(sum, good)
	want := messages(good, b)
	if !b.whole() || len(want) != n || !slices.Equal(b.held, []Span{{1, n}}) {
		t.Fatalf("the server's block is read as %+v", b)
	}
	mended := 0
	for bit := range len(good) * 8 {
		data := bytes.Clone(good)
		data[bit/8] ^= 1 << (bit % 8)
		b := readBlock(sum, data)
		if b.whole() {
			t.Fatalf("bit %d: nothing is noticed", bit)
		}
		mended += len(b.mends)
		clean := b.rewritten(data)
		b = readBlock(sum, clean)
		got := messages(clean, b)
		if !b.whole() || len(got) < n-1 {
			t.Fatalf("bit %d: %d messages of %d are left", bit, len(got), n)
		}
		for sequence, text := range got {
			if want[sequence] != text {
				t.Fatalf("bit %d: message %d is %q, want %q", bit, sequence, text, want[sequence])
			}
		}
	}
	if mended != n*32 {
		t.Errorf("%d bits of lengths of headers were mended, want %d", mended, n*32)
	}
}

// What is missing is said in numbers, and once; what was removed before is not missing.
func TestLookCountsWhatIsLost(t *testing.T) {
	data, file := written(t, 12, 0)
	look := func() Finding {
		t.Helper()
		found, err := New(data).Look(func(int64, int64) {})
		if err != nil || len(found) != 1 {
			t.Fatalf("Look = %+v, %v", found, err)
		}
		return found[0]
	}
	if f := look(); f.Note != nil || len(f.Lost)+len(f.Spoilt)+len(f.Restored) > 0 {
		t.Fatalf("a stream that nothing is known of: %+v", f)
	}
	s := New(data)
	if _, err := s.Look(func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep("S", Note{Log: 7, First: 1, Last: 12, Fresh: true, Gaps: Sequences{{3, 3}}}, true); err != nil {
		t.Fatal(err)
	}
	a, err := s.Answered("S", 7, 12)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if f := look(); f.Note == nil || f.Last != 12 || len(f.Lost)+len(f.Spoilt) > 0 {
		t.Fatalf("a stream that is whole: %+v", f)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b := readBlock(hasher("S-1"), good)
	spoilt := bytes.Clone(good)
	clear(spoilt[b.good[1][0]:b.good[4][0]]) // 2, 3, 4
	spoilt = spoilt[:b.good[10][0]+5]        // 11, 12
	if err := os.WriteFile(file, spoilt, 0o600); err != nil {
		t.Fatal(err)
	}
	want := Sequences{{2, 2}, {4, 4}, {11, 12}}
	if f := look(); !slices.Equal(f.Lost, want) || f.Lost.Count() != 4 || len(f.Spoilt) != 1 || f.Last != 12 {
		t.Errorf("found %+v, want %v lost", f, want)
	} else if kept, err := os.ReadFile(f.Kept[0]); err != nil || !bytes.Equal(kept, spoilt) {
		t.Errorf("the spoilt file was not kept aside: %v", err)
	}
	if f := look(); len(f.Lost)+len(f.Spoilt) > 0 || !slices.Equal(f.Note.Lost, want) {
		t.Errorf("the second time it says %+v", f)
	}
	if err := os.WriteFile(file, make([]byte, len(good)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(data).Look(func(int64, int64) {}); err == nil || !strings.Contains(err.Error(), "restore a copy") {
		t.Errorf("a stream of which nothing can be read: %v", err)
	}
}

func TestSequences(t *testing.T) {
	s := Union(Span{5, 9}, Span{1, 2}, Span{3, 3}, Span{8, 12}, Span{20, 19})
	if want := (Sequences{{1, 3}, {5, 12}}); !slices.Equal(s, want) || s.Count() != 11 {
		t.Errorf("Union = %v (%d)", s, s.Count())
	}
	if left, want := s.Without(Sequences{{2, 2}, {5, 6}, {12, 30}}), (Sequences{{1, 1}, {3, 3}, {7, 11}}); !slices.Equal(left, want) {
		t.Errorf("Without = %v, want %v", left, want)
	}
	if both, want := s.And(Sequences{{2, 7}}), (Sequences{{2, 3}, {5, 7}}); !slices.Equal(both, want) {
		t.Errorf("And = %v, want %v", both, want)
	}
}
