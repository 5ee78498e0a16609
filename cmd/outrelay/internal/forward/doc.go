// Package forward carries the connections of hybrid connections to local services, and
// those of local ports to hybrid connections: what the commands listen and bridge do.
//
// A [Service] hands what comes for a name to one local service. A [Bridge] joins a
// local port to a name, or a name to a local service, byte for byte, as ssh -L and -R
// do. The two directions of a connection end apart, and an end that is no good end on
// one side is none on the other.
//
// # Concurrency
//
// Run starts goroutines and returns when the last of them has ended. A Report function
// is called from several of them at once.
package forward
