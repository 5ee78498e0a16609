package relay

import (
	"net/url"
	"strings"
)

// Names of the query's parameters that are the relay's (facts: Azure's names begin
// so). They are compared without case.
const (
	paramPrefix      = "sb-hc-"
	paramAction      = "sb-hc-action"
	paramID          = "sb-hc-id"
	paramStatus      = "sb-hc-statuscode"
	paramDescription = "sb-hc-statusdescription"
	paramKeyName     = "sb-hc-sas-key-name" // a key in clear; not taken
	paramKey         = "sb-hc-sas-key"
	paramRendezvous  = "sb-hc-rendezvous" // ours: the secret of an address
	paramListener    = "sb-hc-listener"   // ours: which listener, by its id
	paramCancels     = "sb-hc-cancels"    // ours: "true" on a listener that wants to be told of senders that have gone
)

// isOurs says whether a part of a query is the relay's: it has a "=", and a name that
// begins as the relay's do.
func isOurs(part string) (name, value string, ours bool) {
	rawName, value, ok := strings.Cut(part, "=")
	if !ok {
		return "", "", false
	}
	name, err := url.QueryUnescape(rawName)
	if err != nil || len(name) < len(paramPrefix) || !strings.EqualFold(name[:len(paramPrefix)], paramPrefix) {
		return "", "", false
	}
	return strings.ToLower(name), value, true
}

// filterQuery returns a query without the parts that are the relay's. All else stays
// as it is, byte for byte, empty parts too.
func filterQuery(query string) string {
	if query == "" || !mayBeOurs(query) {
		return query
	}
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		if _, _, ours := isOurs(part); !ours {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "&")
}

// mayBeOurs is false for most queries that have nothing of the relay's.
func mayBeOurs(query string) bool { return strings.ContainsAny(query, "sS%") }

// parameters returns the relay's parameters of a query by their names in lower case.
// The first of two is taken. A value that can't be decoded stands as it is.
func parameters(query string) map[string]string {
	if !mayBeOurs(query) {
		return nil
	}
	var found map[string]string
	for part := range strings.SplitSeq(query, "&") {
		name, raw, ours := isOurs(part)
		if _, twice := found[name]; !ours || twice {
			continue
		}
		value, err := url.QueryUnescape(raw)
		if err != nil {
			value = raw
		}
		if found == nil {
			found = map[string]string{}
		}
		found[name] = value
	}
	return found
}

// target is the path and query of a relayed address.
func target(path, query string) string {
	if query == "" {
		return path
	}
	return path + "?" + query
}
