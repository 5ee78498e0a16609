// Package vet looks over the files of an embedded NATS server's streams before the
// server opens them, and says what is missing or spoilt.
//
// The server alone is not enough. It drops what it can't read without a word, and all
// that lies behind it in the same file; a file that was cut between two records looks
// whole to it; files that it did not open since a clean stop are not looked at before
// they are read; and nothing guards the states of its consumers, or the length of a
// message's headers. So a [Store] keeps notes of its own beside them: which sequences a
// stream holds, which was answered last, and copies of the small files. With them it
// takes out no more than what is spoilt, and knows what that was.
//
// It reads the format of the server's files (package server, filestore.go). A new
// release of the server that changes it fails this package's tests and needs a change
// here; what is taken out is kept aside, so nothing is destroyed by a mistake.
package vet
