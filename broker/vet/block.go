package vet

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"

	"github.com/minio/highwayhash"
)

// A record of a block is: its length with a bit that says that it has headers (4 bytes),
// its sequence with two bits (8), its time (8), the length of its subject (2), the subject,
// the length of the headers (4) and the headers where it has them, the data, a checksum (8).
// Numbers are little-endian. The checksum covers neither the first length nor the others.
const (
	recordHead    = 22
	recordSum     = 8
	recordLargest = 32 << 20
	bitHeaders    = 1 << 31
	bitErased     = 1 << 63 // the message was overwritten
	bitTombstone  = 1 << 62 // the message with this sequence was removed
)

// headersEnd ends a message's headers, and is nowhere else in them.
var headersEnd = []byte("\r\n\r\n")

// A block is what could be read of a block's file.
type block struct {
	held  []Span   // sequences of the messages, those that were removed since included
	good  [][2]int // where the good records are
	bad   [][2]int // where the rest is
	doubt []Span   // sequences that the bad parts may have held
	mends []mend   // of a length that no checksum covers
	first uint64
	last  uint64
}

type mend struct {
	at     int
	length uint32
}

// hasher is the checksum's function; the server keys it with a name.
func hasher(name string) hash.Hash {
	key := sha256.Sum256([]byte(name))
	h, err := highwayhash.New64(key[:])
	if err != nil {
		panic(err) // the key has the right size
	}
	return h
}

// readBlock reads a block's file. After a record that is spoilt it goes on with the next
// good one. That can't be one which a publisher has hidden in an event: a record's first
// bytes are such as no JSON text may hold.
func readBlock(sum hash.Hash, data []byte) block {
	var b block
	badSince := -1
	for at := 0; at < len(data); {
		length, fix, ok := readRecord(sum, data[at:])
		sequence := uint64(0)
		if ok {
			sequence = binary.LittleEndian.Uint64(data[at+4:])
			plain := sequence &^ (bitErased | bitTombstone)
			// While looking for the next good record, what does not go on from here is none.
			ok = badSince < 0 || sequence&bitTombstone != 0 || plain == 0 || plain > b.last
		}
		if !ok {
			if badSince < 0 {
				badSince = at
			}
			at++
			continue
		}
		if badSince >= 0 {
			b.bad = append(b.bad, [2]int{badSince, at})
			badSince = -1
			b.doubt = append(b.doubt, Span{b.last + 1, 0})
		}
		b.good = append(b.good, [2]int{at, at + length})
		if fix != nil {
			b.mends = append(b.mends, mend{at + fix.at, fix.length})
		}
		at += length
		if sequence&bitTombstone != 0 || sequence&^bitErased == 0 {
			continue
		}
		if sequence&bitErased == 0 {
			if n := len(b.held); n > 0 && b.held[n-1][1]+1 == sequence {
				b.held[n-1][1] = sequence
			} else {
				b.held = append(b.held, Span{sequence, sequence})
			}
		}
		sequence &^= bitErased
		for n := len(b.doubt) - 1; n >= 0 && b.doubt[n][1] == 0; n-- {
			b.doubt[n][1] = max(sequence, 1) - 1
		}
		if b.first == 0 {
			b.first = sequence
		}
		b.last = max(b.last, sequence)
	}
	if badSince >= 0 {
		b.bad = append(b.bad, [2]int{badSince, len(data)})
		b.doubt = append(b.doubt, Span{b.last + 1, 0})
	}
	return b
}

// readRecord reads the record that data begins with. fix is there if the length of its
// headers is wrong, and says what it must be.
func readRecord(sum hash.Hash, data []byte) (length int, fix *mend, ok bool) {
	if len(data) < recordHead+recordSum {
		return 0, nil, false
	}
	marked := binary.LittleEndian.Uint32(data)
	length = int(marked &^ bitHeaders)
	subject := int(binary.LittleEndian.Uint16(data[20:]))
	head := recordHead + subject
	if marked&bitHeaders != 0 {
		head += 4
	}
	if length > recordLargest || length > len(data) || head+recordSum > length {
		return 0, nil, false
	}
	sum.Reset()
	sum.Write(data[4:20])
	sum.Write(data[recordHead : recordHead+subject])
	sum.Write(data[head : length-recordSum])
	var room [recordSum]byte
	if !bytes.Equal(sum.Sum(room[:0]), data[length-recordSum:length]) {
		return 0, nil, false
	}
	sequence := binary.LittleEndian.Uint64(data[4:])
	if marked&bitHeaders == 0 || sequence&(bitErased|bitTombstone) != 0 {
		return length, nil, true
	}
	end := bytes.Index(data[head:length-recordSum], headersEnd)
	if end < 0 {
		return 0, nil, false
	}
	end += len(headersEnd)
	if said := binary.LittleEndian.Uint32(data[head-4:]); int(said) != end {
		fix = &mend{at: head - 4, length: uint32(end)}
	}
	return length, fix, true
}

// whole says whether there is nothing wrong with the file.
func (b *block) whole() bool { return len(b.bad)+len(b.mends) == 0 }

// torn says whether all that is wrong is its end, as when a process died while it wrote
// there.
func (b *block) torn() bool {
	return len(b.mends) == 0 && len(b.bad) == 1 && b.doubt[0][1] == 0
}

// rewritten is the file without what is bad in it.
func (b *block) rewritten(data []byte) []byte {
	data = bytes.Clone(data)
	for _, m := range b.mends {
		binary.LittleEndian.PutUint32(data[m.at:], m.length)
	}
	clean := make([]byte, 0, len(data))
	for _, r := range b.good {
		clean = append(clean, data[r[0]:r[1]]...)
	}
	return clean
}

// sumHolds checks a file of settings against the file of its checksum. name is the
// stream's, for a consumer "stream/consumer".
func sumHolds(name string, settings, sum []byte) bool {
	h := hasher(name)
	h.Write(settings)
	return len(settings) > 0 && hex.EncodeToString(h.Sum(nil)) == string(sum)
}

// stateHolds says whether a consumer's state can be read and makes sense. Nothing
// covers it with a checksum.
func stateHolds(data []byte) bool {
	if len(data) < 2 || data[0] != 22 || data[1] != 2 {
		return false
	}
	data = data[2:]
	ok := true
	next := func() uint64 {
		n, size := binary.Uvarint(data)
		if size <= 0 {
			ok, data = false, nil
			return 0
		}
		data = data[size:]
		return n
	}
	ackedHere, acked, here, handed := next(), next(), next(), next()
	if !ok || acked > handed || ackedHere > here || handed>>62 != 0 || here>>62 != 0 {
		return false
	}
	if pending := next(); pending > 0 {
		next() // a time
		for n := uint64(0); n < pending && ok; n++ {
			sequence := next()
			next() // its place among what the consumer handed out
			next() // a time
			if sequence == 0 || sequence > handed-acked {
				return false
			}
		}
	}
	for n := next(); n > 0 && ok; n-- {
		next()
		next()
	}
	return ok && len(data) == 0
}
