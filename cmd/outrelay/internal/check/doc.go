// Package check looks at the way from this machine to a gateway, step by step, and says
// for each what stands in it and whom to tell.
//
// It changes nothing: it opens connections, asks for what anybody may ask for, and asks
// about rights with requests that do nothing (an empty batch, a page of no history, a
// handshake that can't succeed). The token is sent only once the gateway's certificate
// is known to be good.
//
// [Run] starts no goroutine that outlives it. Every step has a time limit,
// [Config.Timeout], so that a firewall that drops packets in silence costs no more.
package check
