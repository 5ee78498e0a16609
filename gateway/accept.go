package gateway

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/outrelay/outrelay/schemas"
)

const (
	mediaTypeSSE  = "text/event-stream"
	mediaTypeJSON = "application/json"
)

// offers are the forms of a GET on a topic filter, in the gateway's own order.
var offers = []string{schemas.MediaTypeBatch, mediaTypeJSON, mediaTypeSSE}

// negotiate chooses one of offers by the Accept header, "" if none is acceptable
// (RFC 9110 section 12.5.1). At equal quality what is named wins over what a
// wildcard lets in, and a named event stream over the other two.
func negotiate(header http.Header) string {
	accept := strings.Join(header.Values("Accept"), ",")
	if strings.Trim(accept, " \t,") == "" {
		return offers[0]
	}
	best, bestQuality, bestRank := "", 0, 0
	for _, offer := range offers {
		quality, rank := quality(accept, offer)
		if rank == 3 && offer == mediaTypeSSE {
			rank++
		}
		if quality > bestQuality || quality == bestQuality && quality > 0 && rank > bestRank {
			best, bestQuality, bestRank = offer, quality, rank
		}
	}
	return best
}

// quality finds the weight, in thousandths, that the most specific range of accept
// gives to a media type, and how specific that is: 3 the type itself, 2 its kind, 1
// anything, 0 not mentioned. What is malformed is passed over.
func quality(accept, media string) (weight, rank int) {
	kind, _, _ := strings.Cut(media, "/")
	for item := range strings.SplitSeq(accept, ",") {
		name, parameters, _ := strings.Cut(item, ";")
		r := 0
		switch strings.ToLower(strings.Trim(name, " \t")) {
		case media:
			r = 3
		case kind + "/*":
			r = 2
		case "*/*":
			r = 1
		}
		w, ok := weightOf(parameters)
		if !ok || r == 0 || r < rank {
			continue
		}
		if r > rank || w > weight {
			weight, rank = w, r
		}
	}
	return weight, rank
}

// weightOf reads the q among a range's parameters, 1000 if there is none.
func weightOf(parameters string) (int, bool) {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.Trim(p, " \t"), "=")
		if !strings.EqualFold(name, "q") {
			continue
		}
		if len(value) == 0 || len(value) > 5 || value[0] != '0' && value[0] != '1' {
			return 0, false
		}
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || f > 1 {
			return 0, false
		}
		return int(f*1000 + 0.5), true
	}
	return 1000, true
}

// hasToken says whether a comma-separated header names a token, without case.
func hasToken(header http.Header, name, token string) bool {
	for _, value := range header.Values(name) {
		for item := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.Trim(item, " \t"), token) {
				return true
			}
		}
	}
	return false
}
