package main

import "time"

// A kind is what a load process does.
type kind string

const (
	deliver kind = "deliver" // publish and take deliveries
	idle    kind = "idle"    // connect, wait, and see that all connections work
	stuck   kind = "stuck"   // subscribers read nothing while much is published, then read again
	durable kind = "durable" // sessions, each with a durable subscription of its own, ack what they get
	acked   kind = "acked"   // no load process: a benchmark of outrelay's own module
)

// A spec tells a load process what to do with one server.
type spec struct {
	Kind    kind
	Peer    string
	Address string // host:port
	TLS     string // host:port, "" where there is none
	PID     int    // of the server, for its processor time and memory
	KeyName string // of the key that outrelay made, which is in KeyFile
	KeyFile string

	Publishers  int
	Topics      int // each with Subscribers
	Subscribers int
	Filters     int // this many distinct filters that nothing passes, on topic 0, with Filtered subscribers each
	Filtered    int
	Stuck       int // subscribers of topic 0 that read nothing
	Stored      bool
	Secure      bool // TLS; idle only
	Size        int  // bytes of an event

	// Rate is events a second in all; 0 is most rate: each publisher has UnderWay
	// events under way.
	Rate     int
	UnderWay int
	// Burst is how many events are published first, at most rate; of a stuck load
	// it is all.
	Burst   int
	Warm    time.Duration // not measured
	Measure time.Duration // of an idle load: from the last connect to the look at memory

	// Benchmark of an acked run, as in "outrelay/10", and how many events it has acked.
	Benchmark string
	Times     int
}

// A result is what one round measured.
type result struct {
	Checked int      // deliveries whose sequence numbers were looked at, in all
	Wrong   []string // what was lost, doubled, out of order or refused; the first few

	// While measured.
	Events     int // published
	Deliveries int
	Answers    int // to publishes
	Seconds    float64
	CPU        float64 // seconds of the server's processor time
	Busy       float64 // share of its time that the load's processor was used
	Waited     float64 // share of its time that the server waited for its processor, which others used
	SoftIRQ    float64 // seconds of network work that the kernel took off the server's account
	PerRead    float64 // deliveries a read

	// Latencies from the intended time of publishing, ms.
	P50, P99, P999 float64

	// Of an idle load.
	Connects   int
	ConnectCPU float64 // seconds of the server's processor time
	ConnectFor float64 // seconds
	AtOnceKiB  float64 // the server's memory a connection, once all are connected
	KiB        float64 // after a while
	KernelKiB  float64 // the kernel's memory for both ends of a connection

	// Of stuck subscribers.
	PublishedMiB float64
	GrowthMiB    float64 // of the server's memory, at most, while they read nothing
	ReadingMiB   float64 // the same until they had caught up
	Unsent       int     // events of their topic that the server still owed the one that it owed least
	Ring         int     // events of their topic that the ring can hold at most
	Missed       int     // events that gap notices named, in all
	Notices      int     // gap notices
	CaughtUp     int     // subscribers that reached the end, nothing missing but what they were told
	CatchUpFor   float64 // seconds

	// Of durable subscriptions.
	Redelivered int     // deliveries with an attempt above 1
	BareMiB     float64 // the server's memory before the first session
	EarlyMiB    float64 // after a fifth of the time, a minute of five
	LateMiB     float64 // at the end
	PeakMiB     float64 // at most, since the server began
}
