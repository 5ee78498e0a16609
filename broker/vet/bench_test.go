package vet

import (
	"bytes"
	"os"
	"testing"
)

// BenchmarkReadBlock is the cost of looking at a byte of the log at start.
func BenchmarkReadBlock(b *testing.B) {
	_, file := written(b, 1000, 1000)
	data, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	sum := hasher(blockKey("S", file))
	if !bytes.Contains(data, headersEnd) {
		b.Fatal("no headers")
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if read := readBlock(sum, data); !read.whole() {
			b.Fatal("it is not whole")
		}
	}
}
